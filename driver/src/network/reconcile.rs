//! What is remembered against what is: after a start, and before a netdev that seems taken is refused.
use std::{sync::Arc, time::Instant};

use super::{
    Driver, Error, Result,
    assign::spoof_check,
    chores::{Chore, PATIENCE},
    locate::Place,
    locks::Hold,
    now,
    upkeep::Action,
};
use crate::{
    counters::{Adopted, Hook, Plan},
    state::{Endpoint, EndpointId, NetworkId, model::NetworkOptions},
};

/// How long Docker may take from Join to moving the netdev, in seconds. It reports failures; this is for
/// when it died in between.
const STARTING: u64 = 600;

/// How long it may take from CreateEndpoint to Join, in seconds. One comes right after the other, and for a
/// driver that is away the engine tries for a quarter of a minute.
const JOINING: u64 = 30;

/// How long Docker may take to show a network that it has created here, in seconds.
const APPEARING: u64 = 15;

impl Driver {
    /// Takes over the counters that a driver before this one left on running containers' netdevs.
    pub async fn adopt_all(self: &Arc<Self>) {
        let (begun, endpoints) = (Instant::now(), self.store.get().endpoints().count());
        self.look_at_networks(async |driver, network_id| {
            for id in driver.endpoints_of(&network_id) {
                let Some(_hold) = driver.when_idle(&network_id, &id).await else { continue };
                // As it is now: calls are served meanwhile.
                let state = driver.store.get();
                let Some(network) = state.networks.get(&network_id) else { return };
                if let Some(endpoint) = network.endpoints.get(&id) {
                    driver.adopt(&network.options, &id, endpoint).await;
                    driver.filter_again(&network_id, &id, endpoint).await;
                }
            }
        })
        .await;
        if endpoints > 0 {
            let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(endpoints, millis, "the counters of a driver before this one are taken over");
        }
    }

    /// Goes through all endpoints that are remembered, and takes back the netdevs of those that ended
    /// without Docker having said so.
    pub async fn reconcile(self: &Arc<Self>) {
        self.look_at_networks(async |driver, network_id| {
            for id in driver.endpoints_of(&network_id) {
                let (looking, network, endpoint) = (Arc::clone(&driver), network_id.clone(), id.clone());
                let look = async move { looking.look_at(&network, &endpoint).await };
                driver.aside(Chore::Endpoint(id), look).await;
            }
        })
        .await;
    }

    /// Takes the endpoint's netdev back if it ended without Docker having said so. One that a call is under
    /// way for is left to that.
    pub(super) async fn look_at(&self, network_id: &NetworkId, id: &EndpointId) {
        let Some(_hold) = self.when_idle(network_id, id).await else { return };
        let state = self.store.get();
        let Some(endpoint) = state.endpoint(network_id, id) else { return };
        let looked = match self.fate(id, endpoint).await {
            Ok(Fate::Over) => self.release(network_id, id, endpoint).await.map(|()| true),
            Ok(Fate::Lives | Fate::Bereft) => Ok(false),
            Err(error) => Err(error),
        };
        self.upkeep.looked(id, !matches!(looked, Err(Error::NotFound { .. })));
        match looked {
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

    /// Does it for one network after the other.
    async fn look_at_networks<F>(self: &Arc<Self>, work: impl Fn(Arc<Self>, NetworkId) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        for id in self.store.get().networks.keys() {
            let work = work(Arc::clone(self), id.clone());
            let look = async move {
                #[cfg(feature = "faults")]
                let _ = crate::fault::reach("look.network").await;
                work.await;
            };
            self.aside(Chore::Network(id.clone()), look).await;
        }
    }

    fn endpoints_of(&self, network: &NetworkId) -> Vec<EndpointId> {
        let state = self.store.get();
        state.networks.get(network).into_iter().flat_map(|known| known.endpoints.keys().cloned()).collect()
    }

    /// The endpoint, if nothing is under way for it, or only for a moment.
    pub(super) async fn when_idle(&self, network: &NetworkId, id: &EndpointId) -> Option<Hold> {
        tokio::time::timeout(PATIENCE, self.hold(network, id)).await.ok()
    }

    /// What else is left to do: netdevs that nobody remembers, PFs without networks, a state file that has what
    /// failed.
    pub async fn tidy(self: &Arc<Self>) {
        let driver = Arc::clone(self);
        let strays = async move {
            #[cfg(feature = "faults")]
            let _ = crate::fault::reach("tidy.strays").await;
            driver.recover_strays().await;
        };
        self.aside(Chore::Strays, strays).await;
        let pfs: Vec<_> = self.store.get().pfs.keys().cloned().collect();
        for hardware in pfs {
            let (driver, chore) = (Arc::clone(self), Chore::Pf(hardware.clone()));
            let leaving = async move {
                // Whose VFs are in use was told when the last network went.
                let _ = driver.leave_pf(&hardware).await;
            };
            self.aside(chore, leaving).await;
        }
        let driver = Arc::clone(self);
        self.aside(Chore::State, async move { driver.store.settle().await }).await;
    }

    /// Ends what Docker said that it does not have: the network, or else these endpoints of it, where a container
    /// had them for long and does not have their netdevs.
    pub async fn end_unknown(self: &Arc<Self>, network_id: &NetworkId, endpoints: Option<Vec<EndpointId>>) {
        let (driver, id) = (Arc::clone(self), network_id.clone());
        let end = async move {
            let ended = match endpoints {
                None => driver.forget_removed(&id).await,
                Some(endpoints) => driver.end_waiting(&id, &endpoints).await,
            };
            if let Err(error) = ended {
                tracing::error!(network = id.short(), %error, "forgetting");
            }
        };
        self.aside(Chore::Unknown(network_id.clone()), end).await;
    }

    async fn end_waiting(&self, network_id: &NetworkId, endpoints: &[EndpointId]) -> Result<()> {
        let mut ended = Ok(());
        for id in endpoints {
            let Some(_hold) = self.when_idle(network_id, id).await else { continue };
            // Still: a call may have been under way.
            if self.is_waiting(network_id, id).await {
                // The others all the same.
                ended = ended.and(self.end(network_id, id).await);
            }
        }
        ended
    }

    /// Forgets a network that Docker says it does not have: it was removed while no driver ran. Not if
    /// it is so new that Docker is still creating it, or if a container has something of it after all.
    async fn forget_removed(&self, network_id: &NetworkId) -> Result<()> {
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

    /// Whether a container has had the endpoint for long, and does not have its netdev: Docker must have moved
    /// it, or be done with it.
    pub async fn is_waiting(&self, network_id: &NetworkId, id: &EndpointId) -> bool {
        let state = self.store.get();
        let Some(endpoint) = state.endpoint(network_id, id) else { return false };
        let long = endpoint.joined.is_some_and(|joined| now().saturating_sub(joined) > JOINING);
        long && matches!(self.locate(id, endpoint).await, Ok(Place::Home(_) | Place::Gone))
    }

    /// Whether the endpoint is over without Docker having said so; if it is, its netdev is taken back.
    pub(super) async fn release_if_over(
        &self,
        network_id: &NetworkId,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<bool> {
        let over = !matches!(self.fate(id, endpoint).await?, Fate::Lives);
        if over {
            self.release(network_id, id, endpoint).await?;
        }
        Ok(over)
    }

    async fn fate(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Fate> {
        if endpoint.ending {
            return Ok(Fate::Over);
        }
        let link = match self.locate(id, endpoint).await? {
            Place::Away(..) => return Ok(Fate::Lives),
            // What it counted is still to be read.
            Place::Gone if endpoint.joined.is_some() && self.reading(id).await.is_ok() => {
                return Ok(Fate::Bereft);
            }
            Place::Gone => return Ok(Fate::Over),
            Place::Home(link) => link,
        };
        let late = match endpoint.joined {
            Some(joined) => now().saturating_sub(joined) > STARTING,
            None => now().saturating_sub(endpoint.created) > JOINING,
        };
        // Without its mark it has been away and is back, or Docker is moving it just now: a second look tells.
        let back = !endpoint.unmarked
            && !self.rtnl.is_marked(link.ifindex).await?
            && matches!(self.locate(id, endpoint).await?, Place::Home(_));
        Ok(if late || back { Fate::Over } else { Fate::Lives })
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

/// What became of an endpoint.
enum Fate {
    /// It has its netdev, or is about to get it.
    Lives,
    /// Its netdev ended in the container. Its counters are kept, as long as nobody needs its place.
    Bereft,
    /// It is over.
    Over,
}
