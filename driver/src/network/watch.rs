//! The kernel tells what becomes of the host's netdevs, so that one which comes home without a word from
//! Docker is put right at once, and not at the next look at all of them.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Driver, Error, Result, chores::Chore};
use crate::{
    device::watch::{Seen, Watch},
    fault,
    state::{EndpointId, NetworkId},
};

/// How long after an event an endpoint is looked at: Docker moves a netdev in several steps, and says itself
/// what it is about, as a rule.
const SETTLED: Duration = Duration::from_millis(500);

/// More events than this within that time are not read one by one: all endpoints are looked at then.
const FLOOD: usize = 1000;

impl Driver {
    /// Watches the host's netdevs, and looks at the endpoints whose netdevs come, change or go. Ends only with
    /// an error.
    pub async fn watch(self: &Arc<Self>) -> Result<()> {
        let what = "watching the host's netdevs";
        let mut watch = Watch::on(&self.home).map_err(Error::io(what))?;
        loop {
            let until = Instant::now() + SETTLED;
            let (mut endpoints, mut events, mut lost) = (BTreeSet::new(), 0, false);
            while events < FLOOD
                && let Ok(told) = tokio::time::timeout_at(until, watch.next()).await
            {
                match told.map_err(Error::io(what))? {
                    Some(seen) => {
                        events += seen.len().max(1);
                        for seen in &seen {
                            self.concerned(seen, &mut endpoints);
                        }
                    }
                    None => {
                        lost = true;
                        break;
                    }
                }
            }
            tokio::time::sleep_until(until).await;
            if lost || events >= FLOOD {
                tracing::debug!(events, "more has happened to netdevs than was read");
                self.look_soon();
            }
            for (network, id) in endpoints {
                fault::point!("watch.looking");
                let (driver, chore) = (Arc::clone(self), Chore::Endpoint(id.clone()));
                let look = async move {
                    #[cfg(feature = "faults")]
                    let _ = fault::reach("look.endpoint").await;
                    driver.look_at(&network, &id).await;
                };
                self.aside(chore, look).await;
            }
        }
    }

    /// The endpoints that a netdev may be that of. One of nobody that we remember is a stray.
    fn concerned(&self, seen: &Seen, endpoints: &mut BTreeSet<(NetworkId, EndpointId)>) {
        let state = self.store.get();
        for (network, _, id, endpoint) in state.endpoints() {
            let is_hardware = || {
                let hardware = seen.hardware.as_ref().zip(endpoint.hardware.as_ref());
                hardware.is_some_and(|(seen, ours)| ours.starts_with(seen.as_str()))
            };
            if seen.ifindex == endpoint.ifindex
                || seen.name == endpoint.original.name
                || is_hardware()
                || seen.alias.contains(id.as_str())
            {
                endpoints.insert((network.clone(), id.clone()));
            }
        }
        if self.is_stray(&seen.alias) {
            self.look_soon();
        }
    }
}
