//! HTTP as both of the driver's sockets have it: Docker's, and that of the metrics.
pub mod listener;
pub mod refusal;
pub mod server;
