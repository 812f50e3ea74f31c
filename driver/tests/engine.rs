//! The real binary under a real engine: containers on NICs, their traffic, and what goes wrong.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod engine {
    pub mod addressing;
    pub mod confined;
    pub mod documents;
    pub mod errors;
    pub mod failure;
    pub mod hostile;
    pub mod import;
    pub mod installed;
    pub mod lifecycle;
    pub mod metrics;
    pub mod plugin;
    pub mod restart;
    pub mod traffic;
}

fn main() -> std::process::ExitCode {
    use engine::{
        addressing, confined, documents, errors, failure, hostile, import, installed, lifecycle, metrics,
        plugin, restart, traffic,
    };

    // Those that take longest come first. What the documents say is not about an engine's version: under one.
    let trials = [
        failure::trials(),
        if support::docker::is_installed() { documents::trials() } else { Vec::new() },
        restart::trials(),
        installed::trials(),
        hostile::trials(),
        metrics::trials(),
        traffic::trials(),
        lifecycle::trials(),
        addressing::trials(),
        plugin::trials(),
        errors::trials(),
        import::trials(),
        confined::trials(),
    ];
    support::machine::main(trials.into_iter().flatten().collect())
}
