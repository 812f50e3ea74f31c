//! What the engine speaks, spoken to the real binary: no engine, netdevs on a machine of its own.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod protocol {
    pub mod transport;
}

fn main() -> std::process::ExitCode {
    let trials = [protocol::transport::trials()].into_iter().flatten().collect();
    support::machine::main(trials)
}
