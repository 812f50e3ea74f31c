//! What is remembered against what is: after a start, and before a netdev that seems taken is refused.
use super::{Driver, Error, Result, assign::spoof_check, locate::Place, now, upkeep::Action};
use crate::{
    counters::{Adopted, Hook, Plan},
    state::{Endpoint, EndpointId, NetworkId, model::NetworkOptions},
};

/// How long Docker may take from CreateEndpoint to moving the netdev, in seconds. It reports failures;
/// this is for when it died in between.
const STARTING: u64 = 600;

/// How long Docker may take to show a network that it has created here, in seconds.
const APPEARING: u64 = 15;

impl Driver {
    /// Takes over the counters that a driver before this one left on running containers' netdevs.
    pub async fn adopt_all(&self) {
        for (network_id, network, id, _) in self.store.get().endpoints() {
            let _hold = self.hold(network_id, id).await;
            // As it is now: calls are served meanwhile.
            if let Some(endpoint) = self.store.get().endpoint(network_id, id) {
                self.adopt(&network.options, id, endpoint).await;
                self.watch_again(network_id, id, endpoint).await;
            }
        }
    }

    /// Goes through all endpoints that are remembered, and takes back the netdevs of those that ended
    /// without Docker having said so.
    pub async fn reconcile(&self) {
        for (network_id, _, id, _) in self.store.get().endpoints() {
            let _hold = self.hold(network_id, id).await;
            let state = self.store.get();
            let Some(endpoint) = state.endpoint(network_id, id) else { continue };
            let over = self.release_if_over(network_id, id, endpoint).await;
            self.upkeep.looked(id, !matches!(over, Err(Error::NotFound { .. })));
            match over {
                Ok(true) => {
                    self.upkeep.done(Action::TakeBack);
                    tracing::info!(%id, netdevice = endpoint.original.name, "taken back");
                }
                Ok(false) if endpoint.container.is_none() => self.ask_names(network_id),
                Ok(false) => {}
                Err(error) => {
                    self.upkeep.failed(Action::TakeBack);
                    tracing::error!(%id, %error, "reconciling");
                }
            }
        }
    }

    /// What else is left to do: netdevs that nobody remembers, PFs without networks.
    pub async fn tidy(&self) {
        self.recover_strays().await;
        self.leave_pfs().await;
    }

    /// Forgets a network that Docker says it does not have: it was removed while no driver ran. Not if
    /// it is so new that Docker is still creating it, or if a container has something of it after all.
    pub async fn forget_removed(&self, network_id: &NetworkId) -> Result<()> {
        let _network = self.locks.lock(network_id).await;
        let state = self.store.get();
        let Some(network) = state.networks.get(network_id) else { return Ok(()) };
        if now().saturating_sub(network.created) < APPEARING {
            return Ok(());
        }
        for (id, endpoint) in &network.endpoints {
            if let Place::Away(..) = self.locate(id, endpoint).await? {
                tracing::warn!(network = network_id.short(), %id, "Docker does not know the network of a running container");
                return Ok(());
            }
        }
        let forgotten = self.forget(network_id).await;
        match &forgotten {
            Ok(()) => {
                self.upkeep.done(Action::ForgetNetwork);
                tracing::info!(network = network_id.short(), "Docker has it no more: forgotten");
            }
            Err(_) => self.upkeep.failed(Action::ForgetNetwork),
        }
        forgotten
    }

    /// Whether the endpoint is over without Docker having said so; if it is, its netdev is taken back.
    pub(super) async fn release_if_over(
        &self,
        network_id: &NetworkId,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<bool> {
        let over = match self.locate(id, endpoint).await? {
            Place::Away(..) => false,
            Place::Gone => true,
            Place::Home(link) => {
                let late = now().saturating_sub(endpoint.joined.unwrap_or(endpoint.created)) > STARTING;
                // Without its mark it has been away and is back, or Docker is moving it just now: a
                // second look tells.
                let back = !endpoint.unmarked
                    && !self.rtnl.is_marked(link.ifindex).await?
                    && matches!(self.locate(id, endpoint).await?, Place::Home(_));
                late || back
            }
        };
        if over {
            self.release(network_id, id, endpoint).await?;
        }
        Ok(over)
    }

    async fn adopt(&self, options: &NetworkOptions, id: &EndpointId, endpoint: &Endpoint) {
        let plan = Plan {
            ifindex: endpoint.ifindex,
            // The hook stays what it is; multi-buffer frames are exact either way.
            rx_hook: Hook::in_stack(),
            spoof_check: spoof_check(options, endpoint),
            frags: true,
            // As stored when the network was made: the endpoint's map has the size for it.
            counters: options.counters,
        };
        let endpoint_id = id.clone();
        match self.counters(move |counters| counters.adopt(&endpoint_id, &plan)).await {
            Ok(Adopted::Unchanged) => tracing::debug!(%id, "counters adopted"),
            Ok(Adopted::Replaced) => {
                self.upkeep.done(Action::ReplacePrograms);
                tracing::info!(%id, "counters adopted, with this driver's programs");
            }
            Ok(Adopted::Kept { pinned, ours }) => {
                tracing::warn!(%id, pinned, ours, "counters adopted as they are: their layout is another's");
            }
            Err(error) => {
                self.upkeep.failed(Action::ReplacePrograms);
                tracing::error!(%id, %error, "adopting the counters");
            }
        }
    }
}
