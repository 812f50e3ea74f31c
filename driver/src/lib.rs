//! Docker remote network driver that hands containers real network hardware, and counts their traffic.
//!
//! A request flows one way: [`plugin`] decodes it, [`network`] decides, [`device`] does it, [`counters`]
//! watch it, [`state`] remembers it.
mod blocking;
pub mod cli;
pub mod counters;
pub mod device;
pub mod docker;
mod fault;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod metrics;
pub mod network;
pub mod plugin;
pub mod report;
pub mod state;
