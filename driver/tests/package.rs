//! Ways of installing that want the machine for themselves: the Debian package, installed, upgraded and purged by
//! dpkg itself on an overlay of this machine's own root; and the plugin under Swarm.
//!
//! `cargo xtask test package` makes the package first.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod package {
    pub mod debian;
    pub mod swarm;
}

fn main() -> std::process::ExitCode {
    let trials = [package::debian::trials(), package::swarm::trials()];
    support::machine::main(trials.into_iter().flatten().collect())
}
