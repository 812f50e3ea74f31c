//! What is remembered against what is: after a start, and before a netdev that seems taken is refused.
use super::{Driver, Result, assign::spoof_check, locate::Place, now};
use crate::{
    counters::{Adopted, Hook, Plan},
    state::{Endpoint, EndpointId, NetworkId, model::NetworkOptions},
};

/// How long Docker may take from CreateEndpoint to Join, and from Join to moving the netdev, in seconds.
const STARTING: u64 = 30;

impl Driver {
    /// Goes through all endpoints that are remembered: takes over the counters of those that live, and
    /// takes back the netdevs of those that ended while nobody looked.
    pub async fn reconcile(&self) {
        for (network_id, network, id, _) in self.store.get().endpoints() {
            let _network = self.locks.lock(network_id).await;
            // As it is now: calls are served meanwhile.
            let state = self.store.get();
            let Some(endpoint) = state.networks.get(network_id).and_then(|network| network.endpoints.get(id))
            else {
                continue;
            };
            match self.release_if_over(network_id, id, endpoint).await {
                Ok(true) => tracing::info!(%id, netdevice = endpoint.original.name, "taken back"),
                Ok(false) => self.adopt(&network.options, id, endpoint).await,
                Err(error) => tracing::error!(%id, %error, "reconciling"),
            }
            self.ask_names(network_id);
        }
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
            // Came home by itself, under another name, as a netdev does whose namespace died; or has
            // been home for longer than any container takes to start.
            Place::Home(link) => {
                let since = endpoint.joined.unwrap_or(endpoint.created);
                link.name != endpoint.original.name || now().saturating_sub(since) > STARTING
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
            rx_hook: Hook::Tcx,
            spoof_check: spoof_check(options, endpoint.mac),
            frags: true,
        };
        let endpoint_id = id.clone();
        match self.counters(move |counters| counters.adopt(&endpoint_id, &plan)).await {
            Ok(Adopted::Unchanged) => tracing::debug!(%id, "counters adopted"),
            Ok(Adopted::Replaced) => tracing::info!(%id, "counters adopted, with this driver's programs"),
            Ok(Adopted::Kept { pinned, ours }) => {
                tracing::warn!(%id, pinned, ours, "counters adopted as they are: their layout is another's");
            }
            Err(error) => tracing::error!(%id, %error, "adopting the counters"),
        }
    }
}
