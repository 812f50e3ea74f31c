//! A whole netdev keeps its TCX links from one container of its network to the next: see
//! [`counters::Parked`](crate::counters::Parked). A VF is made anew after each, and has none to keep.
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Driver, Result, blocking};
use crate::{
    counters::Parked,
    state::{EndpointId, NetworkId},
};

/// How many networks' links are kept: with what counted, each takes five descriptors.
const MOST: usize = 100;

/// The parked links of each network that has some.
#[derive(Debug, Default)]
pub(super) struct ParkedLinks(Mutex<HashMap<NetworkId, Parked>>);

impl ParkedLinks {
    /// Those that its next container's counters can have; maybe none.
    pub fn take(&self, network: &NetworkId) -> Parked {
        self.table().remove(network).unwrap_or_default()
    }

    /// The kernel's ids of all of them.
    pub fn ids(&self) -> Vec<u32> {
        self.table().values().flat_map(Parked::ids).collect()
    }

    fn are_many(&self) -> bool {
        self.table().len() >= MOST
    }

    fn table(&self) -> MutexGuard<'_, HashMap<NetworkId, Parked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// Ends the endpoint's counters; its netdev stays its network's.
    pub(super) async fn park(&self, network: &NetworkId, id: &EndpointId) -> Result<()> {
        if self.parked.are_many() {
            return self.detach(id).await;
        }
        self.filtered.end(id);
        let id = id.clone();
        let parked = self.counters(move |counters| counters.park(&id)).await?;
        if parked.is_empty() {
            // Those of before, if any, are its netdev's still.
            return Ok(());
        }
        let before = self.parked.table().insert(network.clone(), parked);
        detach(before).await
    }

    /// Takes the network's links off their netdev.
    pub(super) async fn end_parked(&self, network: &NetworkId) -> Result<()> {
        let parked = self.parked.table().remove(network);
        detach(parked).await
    }
}

async fn detach(parked: Option<Parked>) -> Result<()> {
    let Some(parked) = parked else { return Ok(()) };
    let work = move || {
        drop(parked);
        Ok(())
    };
    blocking("parked links", work).await
}
