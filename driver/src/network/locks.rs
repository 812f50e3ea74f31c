//! One lock a network, and one a PF: what one waits for, no other does.
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

/// The locks of those that something is under way for.
#[derive(Debug)]
pub struct Locks<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits for what is under way for `key`.
    pub async fn lock(&self, key: &K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for.
            table.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(table.entry(key.clone()).or_default())
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
        let (a, b) = ("a", "b");
        let held = locks.lock(&a).await;
        let other = locks.lock(&b).await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), locks.lock(&a)).await;
        assert!(waiting.is_err());
        drop((held, other));
        drop(locks.lock(&a).await);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
