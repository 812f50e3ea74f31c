//! Who waits for whom: one lock a network, an endpoint, a PF; what one waits for, no other does.
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::Driver;
use crate::state::{EndpointId, Mode, NetworkId};

/// The locks of those that something is under way for.
#[derive(Debug)]
pub struct Locks<K>(Mutex<HashMap<K, Arc<RwLock<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits for what is under way for `key`, and keeps everybody else off it.
    pub async fn lock(&self, key: &K) -> OwnedRwLockWriteGuard<()> {
        self.of(key).write_owned().await
    }

    /// Waits for whoever has locked `key`, and keeps it from being locked, but not from being shared.
    pub async fn share(&self, key: &K) -> OwnedRwLockReadGuard<()> {
        self.of(key).read_owned().await
    }

    fn of(&self, key: &K) -> Arc<RwLock<()>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for.
        table.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(table.entry(key.clone()).or_default())
    }
}

/// Held by whoever makes, changes or ends an endpoint.
#[derive(Debug)]
pub(super) enum Hold {
    /// In passthrough mode all endpoints want the same netdev.
    Network(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
    /// In sriov mode each has its own. The network does not go meanwhile.
    Endpoint(
        #[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>,
        #[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>,
    ),
}

impl Driver {
    /// Waits for what is under way for the endpoint. In sriov mode a network's endpoints do not wait for
    /// each other.
    pub(super) async fn hold(&self, network: &NetworkId, id: &EndpointId) -> Hold {
        // A network never changes its mode.
        let mode = self.store.get().networks.get(network).map(|network| network.mode);
        if mode != Some(Mode::Sriov) {
            return Hold::Network(self.locks.lock(network).await);
        }
        let network = self.locks.share(network).await;
        Hold::Endpoint(self.endpoints.lock(id).await, network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn networks_do_not_wait_for_each_other_and_leave_nothing() {
        let locks = Locks::default();
        let (a, b) = ("a", "b");
        let held = locks.lock(&a).await;
        let other = locks.lock(&b).await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock(&a)).await;
        assert!(waiting.is_err());
        drop((held, other));
        drop(locks.lock(&a).await);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn who_shares_keeps_off_who_locks() {
        let locks = Locks::default();
        let shared = [locks.share(&"a").await, locks.share(&"a").await];
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock(&"a")).await;
        assert!(waiting.is_err());
        drop(shared);
        drop(locks.lock(&"a").await);
    }
}
