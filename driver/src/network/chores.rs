//! What is done without a call. It may take long, or hang in the kernel, and then holds up nothing else.
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::Driver;
use crate::state::{EndpointId, NetworkId};

/// How long one is waited for before the next.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What there is one of at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Chore {
    /// A look at a network's endpoints.
    Network(NetworkId),
    /// A look at one, as the kernel told of its netdev.
    Endpoint(EndpointId),
    /// Ending what Docker says that it does not have, or has no container of.
    Unknown(NetworkId),
    /// Netdevs that nobody remembers.
    Strays,
    /// A PF that may have lost its last network.
    Pf(String),
    /// The state file, if it has what failed.
    State,
}

impl Driver {
    /// Does it, and waits for that no longer than [`PATIENCE`]. What takes longer is gone on with beside what
    /// follows, and not begun again before it has ended.
    pub(super) async fn aside(
        self: &Arc<Self>,
        chore: Chore,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(under_way) = UnderWay::begin(self, chore.clone()) else { return };
        // A task of its own also ends alone where it panics.
        let task = tokio::spawn(async move {
            work.await;
            drop(under_way);
        });
        match tokio::time::timeout(PATIENCE, task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(?chore, %error, "upkeep"),
            Err(_) => tracing::warn!(?chore, "upkeep takes long"),
        }
    }
}

/// A chore is under way for as long as this lives.
struct UnderWay(Arc<Driver>, Chore);

impl UnderWay {
    /// None if it is already.
    fn begin(driver: &Arc<Driver>, chore: Chore) -> Option<Self> {
        let mut all = driver.chores.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(chore.clone()).then(|| Self(Arc::clone(driver), chore))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.chores.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}
