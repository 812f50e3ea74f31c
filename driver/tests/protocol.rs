//! What the engine speaks, spoken to the real binary: no engine, netdevs on a machine of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod protocol {
    pub mod confined;
    pub mod detailed;
    pub mod doctor;
    pub mod handover;
    pub mod hostile;
    pub mod import;
    pub mod lifecycle;
    pub mod logs;
    pub mod messages;
    pub mod metrics;
    pub mod options;
    pub mod pages;
    pub mod reconcile;
    pub mod reports;
    pub mod rescue;
    pub mod restart;
    pub mod screens;
    pub mod service;
    pub mod state;
    pub mod top;
    pub mod transport;
    pub mod tun;
}

fn main() -> std::process::ExitCode {
    use protocol::{
        confined, detailed, doctor, handover, hostile, import, lifecycle, logs, messages, metrics, options,
        pages, reconcile, reports, rescue, restart, screens, service, state, top, transport, tun,
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
        reconcile::trials(),
        handover::trials(),
        detailed::trials(),
        confined::trials(),
        hostile::trials(),
        restart::trials(),
        import::trials(),
        state::trials(),
        screens::trials(),
        doctor::trials(),
        top::trials(),
        pages::trials(),
        service::trials(),
    ];
    support::machine::main(trials.into_iter().flatten().collect())
}
