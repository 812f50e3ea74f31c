//! The driver dies, fails or hangs between any two of its steps, and goes on as if nothing had been: a build
//! that has fault points, spoken to as an engine would, and under one.
//!
//! Whole netdevs; the suite `sriov` walks VFs' own steps the same way, with much of what is here.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod faults {
    pub mod docker;
    pub mod engine;
    pub mod fate;
    pub mod hang;
    pub mod nic;
    pub mod plan;
    pub mod points;
    pub mod race;
    pub mod scene;
    pub mod twice;
    pub mod walk;
}

fn main() -> std::process::ExitCode {
    use faults::{engine, hang, points, race, twice, walk};

    let trials =
        [engine::trials(), hang::trials(), race::trials(), walk::trials(), twice::trials(), points::trials()];
    support::machine::main(trials.into_iter().flatten().collect())
}
