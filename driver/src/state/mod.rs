//! What is remembered: only what the kernel can't tell.
pub mod id;
pub(crate) mod lines;
pub mod model;
pub mod store;

pub use id::{EndpointId, NetworkId};
pub use model::{Endpoint, Mode, Network, NetworkOptions, Original, State, VfGrant, VfOptions};
pub use store::{Error, Store};
