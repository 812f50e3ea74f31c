//! What the driver keeps of its endpoints' counters to read them often: their maps, and what is attached where. No
//! links: one that is held open outlives its pin.
use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Hook, Reading, Result,
    kernel::{self, AttachType},
    pins::{self, Pinned, Pins},
    read::{self, Opened},
    tcx,
};
use crate::state::id::EndpointId;

/// An endpoint's counters, as they were found once.
#[derive(Debug)]
pub struct Known {
    map: OwnedFd,
    value_size: u32,
    rx_hook: Hook,
    tx_link: u32,
    ifindex: u32,
}

impl Known {
    /// The netdev's ifindex, if the counters are still attached to it, under that number, in the calling thread's
    /// network namespace.
    pub fn attached_here(&self) -> Option<u32> {
        let chain = tcx::chain(self.ifindex, AttachType::TcxEgress).ok()?;
        chain.iter().any(|chained| chained.link == self.tx_link).then_some(self.ifindex)
    }
}

/// Those that are kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<HashMap<EndpointId, Arc<Known>>>);

impl Kept {
    /// To be called before an endpoint's counters end, and after that: who reads them meanwhile finds out.
    pub fn forget(&self, endpoint: &EndpointId) {
        self.table().remove(endpoint);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads endpoints' counters: by their pins, and the driver by what it keeps of them, too.
#[derive(Clone, Debug)]
pub struct Reader {
    bpffs: PathBuf,
    kept: Option<Arc<Kept>>,
}

impl Reader {
    /// By their pins.
    pub fn new(bpffs: PathBuf) -> Self {
        Self { bpffs, kept: None }
    }

    pub(super) fn keeping(bpffs: PathBuf, kept: Arc<Kept>) -> Self {
        Self { bpffs, kept: Some(kept) }
    }

    /// The endpoints that have pins at this moment; none if they can't be listed.
    pub fn endpoints(&self) -> Vec<EndpointId> {
        pins::endpoints(&self.bpffs).unwrap_or_default()
    }

    /// Whether the endpoint has pins, of whatever kind.
    pub fn has(&self, endpoint: &EndpointId) -> bool {
        self.bpffs.join(endpoint.as_str()).exists()
    }

    /// What is kept of the endpoint.
    pub fn known(&self, endpoint: &EndpointId) -> Option<Arc<Known>> {
        self.kept.as_ref()?.table().get(endpoint).cloned()
    }

    /// Opens the endpoint's pins.
    pub fn open(&self, endpoint: &EndpointId) -> Result<Opened> {
        read::open(&self.bpffs, endpoint)
    }

    /// What is counted at this moment; none if what is known is no longer so.
    pub fn read(&self, endpoint: &EndpointId, known: &Arc<Known>) -> Option<Reading> {
        let (counters, detailed) = read::values(known.map.as_fd(), known.value_size).ok()?;
        // The map may be the next endpoint's meanwhile: then this one's is no longer kept.
        let still = self.known(endpoint).is_some_and(|now| Arc::ptr_eq(&now, known));
        let (rx_hook, ifindex) = (known.rx_hook, Some(known.ifindex));
        still.then_some(Reading { counters, detailed, rx_hook, tx_hook: Hook::Tcx, ifindex })
    }

    /// Keeps what is pinned, if that can be kept.
    pub fn keep(&self, endpoint: &EndpointId, opened: &Opened) {
        let Some(kept) = &self.kept else { return };
        let (Pinned::Link { at: rx, .. }, Pinned::Link { at: tx, .. }) = opened.sides() else { return };
        let pins = Pins::new(&self.bpffs, endpoint);
        let Ok(map) = pins.counters() else { return };
        let Ok(info) = kernel::map_info(map.as_fd()) else { return };
        let known = Known {
            map,
            value_size: info.value_size,
            rx_hook: rx.to.into(),
            tx_link: tx.link_id,
            ifindex: tx.ifindex,
        };
        kept.table().insert(endpoint.clone(), Arc::new(known));
        // It may have ended before it was kept.
        if !pins.counters_path().exists() {
            kept.forget(endpoint);
        }
    }
}
