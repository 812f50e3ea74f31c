//! A netdev is made ready for a container.
use super::{CreateEndpoint, Driver, Error, Result, caller::Caller, now};
use crate::{
    counters::{self, Hook, Plan, SpoofCheck},
    device::{Change, Link, LinkRef, Mac, features::XdpFeatures, link::require},
    fault,
    state::{
        Endpoint, Mode, Network, NetworkId, Original, VfGrant,
        model::{Lower, NetworkOptions, RxHook, Upper},
    },
};

/// Drivers on which native XDP costs more than it gives: veth's peer loses GSO, virtio_net loses its
/// guest offloads. `auto` counts by TCX there.
const XDP_COSTS: [&str; 2] = ["veth", "virtio_net"];

/// What takes more seconds than this has taken long.
pub(super) const LONG: u64 = 10;

/// What a container gets.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The netdev, as it is now.
    pub link: Link,
    /// The hardware address that it will have, if the link layer is Ethernet.
    pub mac: Option<Mac>,
    /// The VF that it is, in sriov mode.
    pub vf: Option<VfGrant>,
    /// What it stands on, if it is a macvlan in the place of a netdev that can't be moved.
    pub lower: Option<Lower>,
    /// What stands on it in other namespaces, and stays.
    pub uppers: Vec<Upper>,
}

impl Driver {
    /// Chooses a netdev and remembers what it is, then changes it; undoes all of it if anything fails.
    pub(super) async fn assign(
        &self,
        network: &Network,
        request: &CreateEndpoint,
        caller: &Caller,
    ) -> Result<Option<Mac>> {
        let (network_id, id) = (&request.network, &request.endpoint);
        // To the end of the assignment: then it is remembered, or undone.
        let mut _reserved = None;
        let (link, endpoint) = match network.mode {
            Mode::Passthrough => {
                let link = self.netdevice(&network.options, Some(network_id)).await?;
                if let (None, Some(mac)) = (link.mac, request.mac) {
                    return Err(Error::NoEthernet { mac, netdevice: link.name });
                }
                let chosen =
                    if Self::can_be_stood_in_for(&link) && !self.rtnl.is_movable(&link, &self.home).await? {
                        self.stand_in(link, id, request.mac).await?
                    } else {
                        let (link, uppers) = self.examined(network_id, link).await?;
                        let mac = link.mac.map(|own| request.mac.unwrap_or(own));
                        Chosen { link, mac, vf: None, lower: None, uppers }
                    };
                self.remember(request, chosen).await?
            }
            Mode::Sriov => {
                let pf = self.pf(&network.options, Some(network_id)).await?;
                // After a reboot of the host they are gone, and Docker does not create networks again.
                self.enable_lost_vfs(&pf, &network.options).await?;
                let (chosen, reserved) = self.choose_vf(&pf, request).await?;
                _reserved = Some(reserved);
                // There was something to wait for.
                if caller.gave_up() {
                    return Err(Error::TooLate);
                }
                self.remember(request, chosen).await?
            }
        };
        match self.complete(link, network, request, &endpoint).await {
            Ok(()) => Ok(endpoint.mac),
            Err(error) => {
                if let Err(undo) = self.release(network_id, id, &endpoint).await {
                    tracing::error!(%id, error = %undo, "undoing a failed assignment");
                    self.look_soon();
                }
                Err(error)
            }
        }
    }

    /// All that follows once it is remembered who has the netdev.
    async fn complete(
        &self,
        link: Link,
        network: &Network,
        request: &CreateEndpoint,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let (network_id, id) = (&request.network, &request.endpoint);
        let (ifindex, marked, warnings) = self.prepare(link, network, request, endpoint).await?;
        let (mut stats, mut grant) = (endpoint.original.stats, endpoint.vf.clone());
        if let Some(grant) = &mut grant {
            // A VF says something while it takes over its address, before it is counted. A fresh netdev begins at 0, and
            // so may the hardware, when it is configured.
            stats = require(&self.rtnl, LinkRef::Index(ifindex)).await?.stats;
            grant.counters = self.vf_counters(&self.pf_of(grant).await?, grant.index).await;
        }
        // Docker has it only from now on: where that took long, it has as long again for what follows.
        let created = now();
        let late = created.saturating_sub(endpoint.created) > LONG;
        if late || !marked || !warnings.is_empty() || stats != endpoint.original.stats || grant != endpoint.vf
        {
            self.store
                .update(|state| {
                    if let Some(endpoint) = state.endpoint_mut(network_id, id) {
                        endpoint.created = created;
                        endpoint.unmarked = !marked;
                        endpoint.warnings = warnings;
                        endpoint.original.stats = stats;
                        endpoint.vf = grant;
                    }
                })
                .await?;
        }
        fault::point!("assign.done");
        Ok(())
    }

    /// The netdev as it is now, free of strays, and what stands on it in other namespaces.
    pub(super) async fn examined(&self, network: &NetworkId, link: Link) -> Result<(Link, Vec<Upper>)> {
        let link = self.cleared(link).await?;
        // Since it was looked at first.
        if let Some(user) = self.other_driver(&link) {
            return Err(Error::InUse { netdevice: link.name, user });
        }
        Self::refuse_xdp(&link)?;
        let uppers = self.hosts_uppers(network, &link).await?;
        Ok((link, uppers))
    }

    /// Before anything is changed, so that whatever dies, somebody knows what it was.
    async fn remember(&self, request: &CreateEndpoint, chosen: Chosen) -> Result<(Link, Endpoint)> {
        fault::point!("assign.chosen");
        let Chosen { link, mac, vf, lower, uppers } = chosen;
        let endpoint = Endpoint {
            original: Original { uppers, ..self.original(&link).await? },
            ifindex: link.ifindex,
            hardware: link.hardware(),
            mac,
            created: now(),
            sandbox: None,
            joined: None,
            container: None,
            container_id: None,
            vf,
            lower,
            unmarked: false,
            warnings: Vec::new(),
            ending: false,
        };
        let remembered = endpoint.clone();
        let refused = self
            .store
            .update(|state| {
                // Whoever was faster: no netdev is given away twice.
                let holder = state.endpoints().find(|(.., other)| other.is_same_netdev(&remembered));
                if let Some((.., id, other)) = holder {
                    return Some(Error::InUse { netdevice: link.name.clone(), user: other.user(id) });
                }
                let Some(network) = state.network_mut(&request.network) else {
                    return Some(Error::UnknownNetwork(request.network.clone()));
                };
                network.endpoints.insert(request.endpoint.clone(), remembered.into());
                None
            })
            .await?;
        refused.map_or(Ok((link, endpoint)), Err)
    }

    /// Answers with the netdev's ifindex, whether it is marked, and with the defaults that the hardware refused.
    async fn prepare(
        &self,
        link: Link,
        network: &Network,
        CreateEndpoint { network: network_id, endpoint: id, .. }: &CreateEndpoint,
        endpoint: &Endpoint,
    ) -> Result<(u32, bool, Vec<String>)> {
        let options = &network.options;
        let set = |ifindex, change: Change| async move { self.rtnl.change(ifindex, &change).await };
        fault::point!("assign.remembered");
        if let Some(lower) = &endpoint.lower {
            self.raise_beneath(lower).await?;
        }
        self.rtnl.set_up(link.ifindex, false).await?;
        let (link, warnings) = match &endpoint.vf {
            Some(grant) => self.configure_vf(link, network, endpoint, grant).await?,
            None => {
                if endpoint.mac != link.mac {
                    set(link.ifindex, Change { mac: endpoint.mac, ..Change::default() }).await?;
                }
                (link, Vec::new())
            }
        };
        let ifindex = link.ifindex;
        if options.mtu.is_some_and(|mtu| mtu != link.mtu) {
            set(ifindex, Change { mtu: options.mtu, ..Change::default() }).await?;
        }
        set(ifindex, Change { alias: Some(self.tag(id, endpoint)), ..Change::default() }).await?;

        fault::point!("assign.tagged");
        let features = self.xdp_features(&link).await;
        let plan = Plan {
            ifindex,
            rx_hook: rx_hook(options.rx_hook, &link, features),
            spoof_check: spoof_check(options, endpoint),
            frags: features.is_none_or(XdpFeatures::multi_buffer),
            counters: options.counters,
        };
        let endpoint_id = id.clone();
        let in_stack = Plan { rx_hook: Hook::in_stack(), ..plan };
        let automatic = options.rx_hook == RxHook::Auto && plan != in_stack;
        let mut parked = self.parked.take(network_id);
        self.counters(move |counters| match counters.attach_with(&endpoint_id, &plan, &mut parked) {
            Err(error @ counters::Error::NativeXdp { .. }) if automatic => {
                if features.is_some() {
                    tracing::warn!(%endpoint_id, %error, "counting received frames in the stack");
                }
                counters.attach_with(&endpoint_id, &in_stack, &mut parked)
            }
            attached => attached,
        })
        .await?;
        fault::point!("assign.counted");
        self.filter_at_home(network_id, id, endpoint, ifindex).await?;
        // Last: a netdev at home without it is one that is back, or that we never got done with.
        Ok((ifindex, self.rtnl.mark(ifindex).await?, warnings))
    }

    async fn original(&self, link: &Link) -> Result<Original> {
        Ok(Original {
            name: link.name.clone(),
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            alias: link.alias.clone(),
            altnames: link.altnames.clone(),
            flags: link.flags,
            tuning: link.tuning,
            tcx: self.tcx(link.ifindex).await?,
            uppers: Vec::new(),
            stats: link.stats,
            ingress: self.rtnl.is_marked(link.ifindex).await?,
            addressing: self.rtnl.addressing(link.ifindex).await?,
        })
    }
}

/// What is done about foreign source MACs of an endpoint.
pub fn spoof_check(options: &NetworkOptions, endpoint: &Endpoint) -> SpoofCheck {
    // One that changes its own address would have its honest frames dropped.
    let moves = endpoint.lower.as_ref().is_some_and(|lower| lower.moves_mac);
    match endpoint.mac {
        None => SpoofCheck::Off,
        Some(mac) if options.privileged || moves => SpoofCheck::Count(mac),
        Some(mac) => SpoofCheck::Drop(mac),
    }
}

fn rx_hook(asked: RxHook, link: &Link, features: Option<XdpFeatures>) -> Hook {
    let dear = link.driver().is_some_and(|driver| XDP_COSTS.contains(&driver.as_str()));
    // Where the kernel can't say, hardware's driver is asked by trying it.
    let native = features.map_or(link.parent.is_some(), XdpFeatures::native);
    match asked {
        RxHook::Xdp => Hook::Xdp,
        RxHook::Auto if link.is_ethernet() && native && !dear => Hook::Xdp,
        RxHook::Auto => Hook::in_stack(),
        RxHook::Tcx => Hook::Tcx,
    }
}
