//! The counters on the bare machine: what generators sent is what is counted, whatever a container does.
//!
//! Needs root, iproute2 and bpftool; makes all else itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helpers may fail it")]

#[path = "counting/lab.rs"]
mod lab;
#[path = "counting/packet.rs"]
mod packet;
#[path = "counting/traffic.rs"]
mod traffic;

#[path = "counting/adoption.rs"]
mod adoption;
#[path = "counting/classes.rs"]
mod classes;
#[path = "counting/exact.rs"]
mod exact;
#[path = "counting/hostile.rs"]
mod hostile;
#[path = "counting/lifecycle.rs"]
mod lifecycle;
#[path = "counting/parked.rs"]
mod parked;
