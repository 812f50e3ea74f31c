//! OpenMetrics: what the endpoints' counters, their netdevs and the hardware say, and how the driver is.
//!
//! Asks the state and the kernel, never Docker, and is asked by nobody but scrapers: of all this, a call of
//! Docker's only ever meets [`Recorder`].
mod address;
mod classic;
mod collect;
mod families;
mod labels;
mod recorder;
mod server;

pub use address::{Address, Error};
pub use recorder::Recorder;
pub use server::serve;
