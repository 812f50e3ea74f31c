//! One lock a network: what one network waits for, no other does.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use crate::state::NetworkId;

type Table = HashMap<NetworkId, Arc<tokio::sync::Mutex<()>>>;

/// The locks of the networks that something is under way for.
#[derive(Debug, Default)]
pub struct Locks(Mutex<Table>);

impl Locks {
    /// Waits for what is under way for this network.
    pub async fn lock(&self, network: &NetworkId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for.
            table.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(table.entry(network.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn networks_do_not_wait_for_each_other_and_leave_nothing() {
        let locks = Locks::default();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let held = locks.lock(&a).await;
        let other = locks.lock(&b).await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock(&a)).await;
        assert!(waiting.is_err());
        drop((held, other));
        drop(locks.lock(&a).await);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
