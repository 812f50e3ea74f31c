//! What the engine speaks, spoken to the real binary: no engine, netdevs on a machine of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod protocol {
    pub mod detailed;
    pub mod handover;
    pub mod hostile;
    pub mod import;
    pub mod lifecycle;
    pub mod logs;
    pub mod messages;
    pub mod metrics;
    pub mod options;
    pub mod reports;
    pub mod rescue;
    pub mod restart;
    pub mod transport;
    pub mod tun;
}

fn main() -> std::process::ExitCode {
    use protocol::{
        detailed, handover, hostile, import, lifecycle, logs, messages, metrics, options, reports, rescue,
        restart, transport, tun,
    };

    let trials = [
        transport::trials(),
        metrics::trials(),
        logs::trials(),
        messages::trials(),
        options::trials(),
        lifecycle::trials(),
        tun::trials(),
        reports::trials(),
        rescue::trials(),
        handover::trials(),
        detailed::trials(),
        hostile::trials(),
        restart::trials(),
        import::trials(),
    ];
    support::machine::main(trials.into_iter().flatten().collect())
}
