//! Whether a netdevice may be handed out.
use std::sync::Arc;

use super::{Driver, Error, Result, options::BadOption};
use crate::{
    device::{
        Link, LinkRef,
        features::{XdpFeatures, xdp_features},
        link::Parent,
    },
    state::{
        Endpoint, Mode, NetworkId, NetworkOptions,
        model::{Network, RxHook},
    },
};

/// How many netdevs an error lists.
const LISTED: usize = 12;

impl Driver {
    /// The netdevice that the options name, if it may be handed out: it is there, is free, can be moved,
    /// does not carry the host's traffic, and can do what the options ask of it. `network` is the one
    /// that has it already.
    pub(super) async fn netdevice(
        &self,
        options: &NetworkOptions,
        network: Option<&NetworkId>,
    ) -> Result<Link> {
        let typed = options.netdevice.as_str();
        let refuse = Refuse(typed);
        // By name first: its netdevice may be out in a container.
        if let Some(reason) = self.claimed(typed, network) {
            return Err(refuse.because(reason));
        }
        let Some(link) = self.rtnl.link(LinkRef::Name(typed)).await? else {
            return Err(refuse.because(self.no_such_netdev().await));
        };
        if let Some(reason) = self.claimed(&link.name, network) {
            return Err(refuse.because(reason));
        }
        if let Some(other) = self.other_driver(&link) {
            return Err(Error::InUse { netdevice: link.name, user: other });
        }
        if link.loopback {
            return Err(refuse.because("is the loopback"));
        }
        if let Some(master) = link.master {
            let master = self.rtnl.link(LinkRef::Index(master)).await?;
            let master = master.map_or_else(|| "another netdev".into(), |master| master.name);
            return Err(
                refuse.because(format!("is a member of {master}; take it out first, or hand out another"))
            );
        }
        if !Self::can_be_stood_in_for(&link) && !self.rtnl.is_movable(&link, &self.home).await? {
            let kind = link.driver().unwrap_or_else(|| "its driver".into());
            return Err(
                refuse.because(format!("the kernel does not let it change its network namespace ({kind})"))
            );
        }
        let would_lose_xdp = !link.xdp.is_empty() && !Self::can_be_stood_in_for(&link);
        // What nobody remembers of ours is taken off when it is assigned.
        if would_lose_xdp && self.tagged(&link).is_none() && self.strays_on(&link).await?.is_empty() {
            Self::refuse_xdp(&link)?;
        }
        self.refuse_lent_pf(&link, network, refuse).await?;
        self.refuse_used_pf(&link, refuse).await?;
        if !options.force {
            self.refuse_host_use(&link, refuse).await?;
        }
        if let Some(mtu) = options.mtu {
            let (min, max) = link.mtu_range;
            if mtu < min || max != 0 && mtu > max {
                let reason = format!("{} takes {min} to {max} bytes", link.name);
                return Err(BadOption::new("mtu", mtu, reason).into());
            }
        }
        if options.rx_hook == RxHook::Xdp
            && self.xdp_features(&link).await.is_some_and(|features| !features.native())
        {
            let driver = link.driver().unwrap_or_else(|| "its driver".into());
            let reason = format!("{} has no native XDP ({driver}); use tcx or auto", link.name);
            return Err(BadOption::new("rx_hook", "xdp", reason).into());
        }
        Ok(link)
    }

    /// None where the kernel is too old to say.
    pub(super) async fn xdp_features(&self, link: &Link) -> Option<XdpFeatures> {
        xdp_features(link.ifindex).await.unwrap_or_else(|error| {
            tracing::warn!(netdevice = link.name, %error, "counting received frames in the stack");
            Some(XdpFeatures::default())
        })
    }

    /// Who has a netdev of this name, other than `network`.
    fn claimed(&self, name: &str, network: Option<&NetworkId>) -> Option<String> {
        let state = self.store.get();
        let others = state.networks.iter().filter(|(id, _)| Some(*id) != network);
        let (id, other) = others.into_iter().find(|(_, other)| has(other, name))?;
        let users: Vec<_> = other.endpoints.iter().map(|(id, endpoint)| endpoint.user(id)).collect();
        let users =
            if users.is_empty() { String::new() } else { format!(", in use by {}", users.join(", ")) };
        Some(format!("belongs to {}{users}", other.title(id)))
    }

    pub(super) async fn no_such_netdev(&self) -> String {
        let links = self.rtnl.links().await.unwrap_or_default();
        let mut names: Vec<_> =
            links.into_iter().filter(|link| !link.loopback).map(|link| link.name).collect();
        if names.len() > LISTED {
            names.truncate(LISTED);
            names.push("…".into());
        }
        let there_are = if names.is_empty() { "none but loopback".into() } else { names.join(", ") };
        format!("no such netdev on this host; there are {there_are}")
    }

    /// It would be lost, or, by a bpf_link, stay on the netdev in the container.
    pub(super) fn refuse_xdp(link: &Link) -> Result<()> {
        let Some(program) = link.xdp.first() else { return Ok(()) };
        let reason = format!(
            "carries the host's XDP program {program}; take it off first (`ip link set {} xdp off`, or `bpftool link detach` if it has a link)",
            link.name
        );
        Err(Refuse(&link.name).because(reason))
    }

    /// Who has a PF has its VFs, too: their VLANs, their addresses.
    async fn refuse_lent_pf(
        &self,
        link: &Link,
        network: Option<&NetworkId>,
        refuse: Refuse<'_>,
    ) -> Result<()> {
        let Some(pf) = link.parent.as_ref().and_then(Parent::pf) else { return Ok(()) };
        let links = self.rtnl.links().await?;
        let at_home: Vec<_> = links.iter().filter(|link| link.parent.as_ref() == Some(&pf)).collect();
        let state = self.store.get();
        let has_it = |other: &Network| {
            let named = at_home.iter().any(|link| link.name == other.options.netdevice);
            let away = |endpoint: &Arc<Endpoint>| {
                endpoint.hardware.as_deref().and_then(Parent::of).as_ref() == Some(&pf)
            };
            other.mode == Mode::Passthrough && (named || other.endpoints.values().any(away))
        };
        match state.networks.iter().find(|(id, other)| Some(*id) != network && has_it(other)) {
            Some((id, other)) => {
                let pf = &other.options.netdevice;
                Err(refuse
                    .because(format!("is a VF of {pf}, which belongs to {} as a whole", other.title(id))))
            }
            None => Ok(()),
        }
    }

    async fn refuse_used_pf(&self, link: &Link, refuse: Refuse<'_>) -> Result<()> {
        let used = self.used_vfs(link).await?;
        if used.is_empty() {
            return Ok(());
        }
        Err(refuse.because(format!("is a PF whose VFs are in use ({}); free them first", used.join(", "))))
    }

    async fn refuse_host_use(&self, link: &Link, refuse: Refuse<'_>) -> Result<()> {
        let host = self.rtnl.host_use(link.ifindex).await?;
        let carried: Vec<_> = host
            .addresses
            .iter()
            .map(|address| format!("address {address}"))
            .chain(host.routes.iter().map(|route| format!("route {route}")))
            .collect();
        if !carried.is_empty() {
            return Err(refuse.because(format!(
                "carries the host's {}; -o force=1 takes it all the same, and puts them back afterwards",
                carried.join(", ")
            )));
        }
        // A veth's other end is no netdev on top of it.
        let mut above = self.rtnl.standing_on(link.ifindex).await?;
        above.retain(|upper| upper.kind != "veth" && !self.is_left_stand_in(upper));
        let above: Vec<_> = above.iter().map(|upper| upper.name.as_str()).collect();
        if above.is_empty() {
            return Ok(());
        }
        Err(refuse.because(format!(
            "{} on top of it would lose it; -o force=1 takes it all the same",
            above.join(", ")
        )))
    }
}

/// Refuses the netdevice of this name.
#[derive(Clone, Copy)]
pub(super) struct Refuse<'a>(pub &'a str);

impl Refuse<'_> {
    pub(super) fn because(self, reason: impl Into<String>) -> Error {
        BadOption::new("netdevice", self.0, reason).into()
    }
}

fn has(network: &Network, name: &str) -> bool {
    network.options.netdevice == name
        || network.endpoints.values().any(|endpoint| endpoint.original.name == name)
}
