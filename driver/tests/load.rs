//! Much, often, and in any order: load, and random sequences of whatever happens.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod load {
    pub mod clients;
    pub mod cycles;
    pub mod sequences;
    pub mod world;
}

fn main() -> std::process::ExitCode {
    use load::{clients, cycles, sequences};

    let trials = [clients::trials(), cycles::trials(), sequences::trials()];
    support::machine::main(trials.into_iter().flatten().collect())
}

/// A number that the environment may change.
fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
