//! Networks come and go.
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{
    CreateNetwork, Driver, Error, Result, assign::LONG, caller::Caller, now, options, options::BadOption,
    options::Requested,
};
use crate::{
    counters::has_tcx,
    device::{Link, LinkRef, link::Parent, pci},
    fault,
    state::{Mode, Network, NetworkId, NetworkOptions, model::RxHook},
};

impl Driver {
    /// Creates a network: claims its netdevice, and makes a PF's VFs if there are none.
    /// Undone if the caller has given up.
    pub async fn create_network(&self, request: &CreateNetwork, caller: &Caller) -> Result<()> {
        let _network = self.locks.lock(&request.network).await;
        let requested = options::parse(&request.generic)?;
        let gateways = if request.internal { Vec::new() } else { request.gateways.clone() };
        if let Some(known) = self.store.get().networks.get(&request.network) {
            // Asked again. Its netdevice may be in a container now, and was looked at the first time.
            let options = NetworkOptions { netdevice: known.options.netdevice.clone(), ..requested.options };
            let same = requested.mode.is_none_or(|mode| mode == known.mode)
                && Network { options, gateways, ..Network::clone(known) } == **known;
            if !same {
                return Err(Error::NetworkExists(request.network.clone()));
            }
            // It stays, whatever this caller is told: the first one was told that it is there.
            return if caller.settle() { Ok(()) } else { Err(Error::TooLate) };
        }
        if requested.options.rx_hook == RxHook::Tcx && !has_tcx() {
            let reason = "this kernel has no TCX, which is in Linux 6.6 and newer; use auto";
            return Err(BadOption::new("rx_hook", "tcx", reason).into());
        }
        let (network, link) = self.claim(&request.network, requested, gateways).await?;
        if let Err(error) = self.complete_network(&request.network, &link, &network).await {
            self.store.update(|state| state.networks.remove(&request.network)).await?;
            return Err(error);
        }
        self.ask_names(&request.network);
        self.network_unless_given_up(&request.network, caller).await
    }

    /// Forgets a network that Docker was told had failed; its lock is held. VFs that were made for it stay until
    /// the last network of their PF goes: it would take as long again to make them for the next try.
    async fn network_unless_given_up(&self, network: &NetworkId, caller: &Caller) -> Result<()> {
        if caller.settle() {
            return Ok(());
        }
        self.store.update(|state| state.networks.remove(network)).await?;
        Err(Error::TooLate)
    }

    /// What `create_network` would make of the request, as far as the hardware is not touched for it. The
    /// network is remembered, so this is for a driver on a [rehearsal](crate::state::Store::rehearsal).
    pub async fn rehearse_network(&self, request: &CreateNetwork) -> Result<Network> {
        let requested = options::parse(&request.generic)?;
        let (network, _) = self.claim(&request.network, requested, request.gateways.clone()).await?;
        Ok(network)
    }

    /// Remembers a network, if its netdevice may be handed out.
    async fn claim(
        &self,
        id: &NetworkId,
        requested: Requested,
        gateways: Vec<IpNet>,
    ) -> Result<(Network, Link)> {
        let link = self.rtnl.link(LinkRef::Name(&requested.options.netdevice)).await?;
        let _claim = self.claims.lock(&link.map_or_else(String::new, |link| one_of(&link))).await;
        let (mode, link) = self.hand_out(&requested).await?;
        let mut options = requested.options;
        // From here on it goes by its own name, also where an alternative one was typed.
        options.netdevice.clone_from(&link.name);
        let pf = link.hardware().filter(|_| mode == Mode::Sriov);
        let network =
            Network { name: None, created: now(), mode, options, pf, gateways, endpoints: BTreeMap::new() };
        fault::point!("network.chosen");
        let (id, claimed) = (id.clone(), network.clone());
        self.store.update(|state| state.networks.insert(id, claimed.into())).await?;
        Ok((network, link))
    }

    /// All that follows once it is remembered.
    async fn complete_network(&self, id: &NetworkId, link: &Link, network: &Network) -> Result<()> {
        fault::point!("network.remembered");
        if network.mode == Mode::Sriov {
            self.enable_vfs(link, &network.options).await?;
        }
        // Docker shows it only from now on.
        let created = now();
        if created.saturating_sub(network.created) > LONG {
            self.store
                .update(|state| {
                    if let Some(network) = state.network_mut(id) {
                        network.created = created;
                    }
                })
                .await?;
        }
        Ok(())
    }

    /// The netdevice, and how it is handed out, if it may be.
    async fn hand_out(&self, requested: &Requested) -> Result<(Mode, Link)> {
        let Requested { mode, options, vf_settings } = requested;
        let is_pf = match mode {
            Some(_) => false,
            None => {
                let link = self.rtnl.link(LinkRef::Name(&options.netdevice)).await?;
                link.is_some_and(|link| pci::total_vfs(&link) > 0)
            }
        };
        let mode = mode.unwrap_or(if is_pf { Mode::Sriov } else { Mode::Passthrough });
        let link = match (mode, vf_settings.first()) {
            (Mode::Passthrough, None) => self.netdevice(options, None).await?,
            (Mode::Sriov, _) => self.pf(options, None).await?,
            (Mode::Passthrough, Some((key, value))) => {
                let reason = "is a setting of a VF, and mode=passthrough hands over the whole netdev; \
                              make the VLAN on the switch's port or in the container, or use mode=sriov";
                return Err(BadOption::new(key, value, reason).into());
            }
        };
        Ok((mode, link))
    }

    /// Forgets a network, after taking back what its endpoints still have. Fine if there is none.
    pub async fn delete_network(&self, network: &NetworkId) -> Result<()> {
        let _network = self.locks.lock(network).await;
        self.forget(network).await.inspect_err(|_| self.look_soon())
    }

    /// Forgets a network; its lock is held.
    pub(super) async fn forget(&self, network: &NetworkId) -> Result<()> {
        let Some(known) = self.store.get().networks.get(network).cloned() else { return Ok(()) };
        self.remember_end(network, |_| true).await;
        for (id, endpoint) in &known.endpoints {
            self.release(network, id, endpoint).await?;
            fault::point!("network.endpoint_released");
        }
        if known.mode == Mode::Passthrough {
            self.end_left_stand_ins(&known.options.netdevice).await?;
        }
        self.end_parked(network).await?;
        self.store.update(|state| state.networks.remove(network)).await?;
        fault::point!("network.forgotten");
        if known.mode == Mode::Sriov {
            // No other's: one that hangs is its own network's matter.
            let by_name = async || {
                let pf = self.rtnl.link(LinkRef::Name(&known.options.netdevice)).await;
                pf.ok().flatten()?.hardware()
            };
            let pf = match known.pf.clone() {
                Some(pf) => Some(pf),
                None => by_name().await,
            };
            let used = match &pf {
                Some(pf) => self.leave_pf(pf).await,
                None => None,
            };
            match used {
                None => self.look_soon(),
                Some(used) if used.is_empty() => {}
                Some(used) => {
                    let used = used.join(", ");
                    tracing::warn!(pf, used, "VFs stay enabled, and the PF up: some are in use");
                }
            }
        }
        Ok(())
    }
}

/// The same for all netdevs, and all names of them, that can't be claimed independently: a PF and its VFs.
/// One that is not there is claimed by nobody.
fn one_of(link: &Link) -> String {
    let Some(parent) = &link.parent else { return link.ifindex.to_string() };
    let Parent { bus, device } = parent.pf().unwrap_or_else(|| parent.clone());
    format!("{bus}/{device}")
}
