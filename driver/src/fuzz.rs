//! What `driver/fuzz` reaches of the rooms' insides. No part of the library.
use crate::{
    device::raw,
    network,
    state::{EndpointId, State, lines::Lines},
};

/// The tag of a netdev that `driver` gave away, and what it says to that driver.
pub fn tag(driver: &str, id: &EndpointId, netdev: &str) -> (String, Option<(EndpointId, String)>) {
    let tag = network::tag(driver, id, netdev);
    let read = tagged(&tag, driver);
    (tag, read)
}

/// What an alias that anybody can have written says to `driver`.
pub fn tagged(alias: &str, driver: &str) -> Option<(EndpointId, String)> {
    network::tagged(alias, driver)
}

/// Reads what the kernel may say of a netdev: attributes, what it stands on, names.
pub fn link(body: &[u8]) -> Result<Vec<String>, String> {
    raw::fuzz(body)
}

/// The state file that says `state`.
pub fn file(state: &State) -> serde_json::Result<String> {
    Lines::default().text(state)
}
