//! What the programs report, as events of the driver's own log.
use std::{
    collections::HashMap,
    error::Error,
    io,
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::task::AbortOnDropHandle;

use super::kernel;
use crate::state::id::EndpointId;

/// The tasks that read the endpoints' rings.
#[derive(Default)]
pub(super) struct Reports(Mutex<HashMap<EndpointId, AbortOnDropHandle<()>>>);

impl Reports {
    /// Reads what a program will report, until [`end`](Self::end) or the next program for this endpoint.
    pub fn follow(
        &self,
        endpoint: &EndpointId,
        program: BorrowedFd<'_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let id = kernel::program_id(program)?;
        let logger = EbpfLogger::init_from_id_with_logger(id, Reporter(endpoint.clone()))?;
        // SAFETY: its descriptor is the ring's, the same and open for as long as the logger lives.
        let ring = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let ring = ring.map_err(io::Error::from)?;
        let task = AbortOnDropHandle::new(tokio::spawn(read(ring)));
        self.tasks().insert(endpoint.clone(), task);
        Ok(())
    }

    /// Fine if nothing of this endpoint is read.
    pub fn end(&self, endpoint: &EndpointId) {
        self.tasks().remove(endpoint);
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<EndpointId, AbortOnDropHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(mut ring: AsyncFd<EbpfLogger<Reporter>>) {
    // An error means that the runtime ends.
    while let Ok(mut ready) = ring.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// Where aya-log hands an endpoint's reports, as the `log` crate has it.
struct Reporter(EndpointId);

impl Log for Reporter {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::warn!(endpoint = %self.0, "{}", record.args());
    }

    fn flush(&self) {}
}
