//! A netdev is made ready for a container, and is made again what it was.
use super::{CreateEndpoint, Driver, Error, Result, now, strays::Tag};
use crate::{
    counters::{self, Hook, Plan, SpoofCheck},
    device::{Link, LinkRef, Mac, features::XdpFeatures, link::Change},
    state::{
        Endpoint, EndpointId, Mode, Network, NetworkId, Original, VfGrant,
        model::{Lower, NetworkOptions, RxHook},
    },
};

/// Drivers on which native XDP costs more than it gives: veth's peer loses GSO, virtio_net loses its
/// guest offloads. `auto` counts by TCX there.
const XDP_COSTS: [&str; 2] = ["veth", "virtio_net"];

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
}

impl Driver {
    /// Chooses a netdev and remembers what it is, then changes it; undoes all of it if anything fails.
    pub(super) async fn assign(&self, network: &Network, request: &CreateEndpoint) -> Result<Option<Mac>> {
        let (network_id, id) = (&request.network, &request.endpoint);
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
                        let mac = link.mac.map(|own| request.mac.unwrap_or(own));
                        Chosen { link, mac, vf: None, lower: None }
                    };
                self.remember(request, chosen).await?
            }
            Mode::Sriov => {
                let pf = self.pf(&network.options, Some(network_id)).await?;
                // Until it is remembered whose the VF is.
                let _pf = self.pfs.lock(&pf.hardware().unwrap_or_default()).await;
                self.remember(request, self.choose_vf(&pf, request).await?).await?
            }
        };
        let (marked, warnings) = match self.prepare(link, network, id, &endpoint).await {
            Ok(prepared) => prepared,
            Err(error) => {
                if let Err(undo) = self.release(network_id, id, &endpoint).await {
                    tracing::error!(%id, error = %undo, "undoing a failed assignment");
                }
                return Err(error);
            }
        };
        if !marked || !warnings.is_empty() {
            self.store
                .update(|state| {
                    if let Some(endpoint) = state.endpoint_mut(network_id, id) {
                        endpoint.unmarked = !marked;
                        endpoint.warnings = warnings;
                    }
                })
                .await?;
        }
        Ok(endpoint.mac)
    }

    /// Before anything is changed, so that whatever dies, somebody knows what it was.
    async fn remember(&self, request: &CreateEndpoint, chosen: Chosen) -> Result<(Link, Endpoint)> {
        let Chosen { link, mac, vf, lower } = chosen;
        let link = self.cleared(link).await?;
        let endpoint = Endpoint {
            original: self.original(&link).await?,
            ifindex: link.ifindex,
            hardware: link.hardware(),
            mac,
            created: now(),
            sandbox: None,
            joined: None,
            container: None,
            vf,
            lower,
            unmarked: false,
            warnings: Vec::new(),
        };
        let remembered = endpoint.clone();
        self.store
            .update(|state| {
                let network = state.networks.get_mut(&request.network)?;
                network.endpoints.insert(request.endpoint.clone(), remembered)
            })
            .await?;
        Ok((link, endpoint))
    }

    /// Answers whether the netdev is marked, and with the defaults that the hardware refused.
    async fn prepare(
        &self,
        link: Link,
        network: &Network,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<(bool, Vec<String>)> {
        let options = &network.options;
        let set = |ifindex, change: Change| async move { self.rtnl.change(ifindex, &change).await };
        set(link.ifindex, Change { up: Some(false), ..Change::default() }).await?;
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
        set(
            ifindex,
            Change {
                alias: Some(Tag { driver: &self.name, id, netdev: &endpoint.original.name }.to_string()),
                ..Change::default()
            },
        )
        .await?;

        let features = self.xdp_features(&link).await;
        let plan = Plan {
            ifindex,
            rx_hook: rx_hook(options.rx_hook, &link, features),
            spoof_check: spoof_check(options, endpoint),
            frags: features.multi_buffer(),
        };
        let endpoint_id = id.clone();
        let tcx = Plan { rx_hook: Hook::Tcx, ..plan };
        let automatic = options.rx_hook == RxHook::Auto && plan != tcx;
        self.counters(move |counters| match counters.attach(&endpoint_id, &plan) {
            Err(error @ counters::Error::NativeXdp { .. }) if automatic => {
                tracing::warn!(%endpoint_id, %error, "counting received frames by TCX");
                counters.attach(&endpoint_id, &tcx)
            }
            attached => attached,
        })
        .await?;
        // Last: a netdev at home without it is one that is back, or that we never got done with.
        Ok((self.rtnl.mark(ifindex).await?, warnings))
    }

    /// Takes the netdev home, makes it what it was, and forgets the endpoint. It stays remembered, and
    /// its netdev reserved, until that has worked.
    pub(super) async fn release(
        &self,
        network_id: &NetworkId,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let found = match self.bring_home(id, endpoint).await? {
            None if endpoint.vf.is_some() => self.await_vf(id, endpoint).await?,
            found => found,
        };
        self.report_totals(id, endpoint);
        match found {
            found if endpoint.lower.is_some() => {
                let detached = id.clone();
                self.counters(move |counters| counters.detach(&detached)).await?;
                if let Some(lower) = &endpoint.lower {
                    self.remove_stand_in(found.as_ref(), endpoint, lower).await?;
                }
            }
            Some(link) => self.restore(&link, id, endpoint).await?,
            None => {
                let netdevice = endpoint.original.name.clone();
                tracing::warn!(%id, netdevice, "the netdev no longer exists");
                if let Some(grant) = &endpoint.vf {
                    // The VF may: without a driver, and with its tenant's settings.
                    let reasons = self.restore_vf(None, grant, &endpoint.original).await;
                    if !reasons.is_empty() {
                        return Err(Error::NotRestored { netdevice, reasons });
                    }
                }
                let id = id.clone();
                self.counters(move |counters| counters.detach(&id)).await?;
            }
        }
        self.store
            .update(|state| {
                state.networks.get_mut(network_id).map(|network| network.endpoints.remove(id));
            })
            .await?;
        Ok(())
    }

    /// Undoes in reverse, going on past failures, all that we or a container may have done to a netdev
    /// that is home.
    async fn restore(&self, link: &Link, id: &EndpointId, endpoint: &Endpoint) -> Result<()> {
        let original = &endpoint.original;
        let Original { name, mac, mtu, up, alias, altnames, flags, tuning, ingress, stats: _, addressing } =
            original;
        let ifindex = link.ifindex;
        let mut reasons = Vec::new();
        let mut changes = vec![Change { up: Some(false), ..Change::default() }];
        if link.name != *name {
            changes.push(Change { name: Some(name.clone()), ..Change::default() });
        }
        // A VF's goes through its PF.
        if link.mac != *mac && endpoint.vf.is_none() {
            changes.push(Change { mac: *mac, ..Change::default() });
        }
        if link.mtu != *mtu {
            changes.push(Change { mtu: Some(*mtu), ..Change::default() });
        }
        if link.flags != *flags {
            changes.push(Change { flags: Some(*flags), ..Change::default() });
        }
        for change in changes {
            if let Err(error) = self.rtnl.change(ifindex, &change).await {
                reasons.push(error.to_string());
            }
        }
        if let Err(error) = self.rtnl.tune(ifindex, *tuning, link.tuning).await {
            reasons.push(error.to_string());
        }
        if let Err(error) = self.rtnl.set_altnames(link, altnames).await {
            reasons.push(error.to_string());
        }
        if let Some(grant) = &endpoint.vf {
            reasons.extend(self.restore_vf(Some(link), grant, original).await);
        }
        if !reasons.is_empty() {
            // Still tagged and counted, so that it is found again.
            return Err(Error::NotRestored { netdevice: link.name.clone(), reasons });
        }
        let endpoint_id = id.clone();
        self.counters(move |counters| counters.detach(&endpoint_id)).await?;
        let left = crate::device::link::require(&self.rtnl, LinkRef::Index(ifindex)).await?;
        if left.xdp {
            self.rtnl.xdp_off(ifindex).await?;
        }
        if !ingress {
            self.rtnl.unmark(ifindex).await?;
        }
        self.rtnl.change(ifindex, &Change { alias: Some(alias.clone()), ..Change::default() }).await?;
        if *up {
            self.rtnl.change(ifindex, &Change { up: Some(true), ..Change::default() }).await?;
        }
        for error in self.rtnl.restore_addressing(ifindex, addressing).await {
            tracing::error!(%id, netdevice = name, %error, "the host's address or route is not back");
        }
        Ok(())
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
            stats: link.stats,
            ingress: self.rtnl.is_marked(link.ifindex).await?,
            addressing: self.rtnl.addressing(link.ifindex).await?,
        })
    }

    fn report_totals(&self, id: &EndpointId, endpoint: &Endpoint) {
        if let Ok(reading) = counters::read(&self.bpffs, id) {
            let counters = reading.counters;
            tracing::info!(
                %id,
                netdevice = endpoint.original.name,
                rx_packets = counters.rx.packets,
                rx_bytes = counters.rx.bytes,
                tx_packets = counters.tx.packets,
                tx_bytes = counters.tx.bytes,
                tx_spoofed = counters.tx.spoofed,
                "the endpoint's totals"
            );
        }
    }
}

pub(super) fn spoof_check(options: &NetworkOptions, endpoint: &Endpoint) -> SpoofCheck {
    // One that changes its own address would have its honest frames dropped.
    let moves = endpoint.lower.as_ref().is_some_and(|lower| lower.moves_mac);
    match endpoint.mac {
        None => SpoofCheck::Off,
        Some(mac) if options.privileged || moves => SpoofCheck::Count(mac),
        Some(mac) => SpoofCheck::Drop(mac),
    }
}

fn rx_hook(asked: RxHook, link: &Link, features: XdpFeatures) -> Hook {
    let dear = link.driver().is_some_and(|driver| XDP_COSTS.contains(&driver.as_str()));
    match asked {
        RxHook::Xdp => Hook::Xdp,
        RxHook::Auto if link.is_ethernet() && features.native() && !dear => Hook::Xdp,
        RxHook::Auto | RxHook::Tcx => Hook::Tcx,
    }
}
