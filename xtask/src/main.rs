//! What cargo cannot say. Each command sets up what it needs.
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

mod bpf;
mod build;
mod busybox;
mod compiler;
mod daemon;
mod demo;
mod engine;
mod interrupt;
mod linker;
mod packages;
mod process;
mod step;
mod test;
mod workspace;

/// What cargo cannot say. Each command sets up what it needs.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the BPF object, `target/bpf/docker-passthrough.o`
    BuildEbpf {
        /// Whose compiler to take [default: one that is there, else Debian's]
        #[arg(long)]
        toolchain: Option<compiler::Origin>,
        /// Build a second time in another folder and compare
        #[arg(long)]
        twice: bool,
    },
    /// Build the BPF object and the driver
    Build {
        /// With optimizations
        #[arg(long)]
        release: bool,
    },
    /// Run all tests, on real kernels and engines, with everything they need
    Test {
        /// For `cargo test`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Hand a netdev to a container, move traffic, compare the counters
    Demo(demo::Options),
}

fn main() -> ExitCode {
    match interrupt::watch().and_then(|()| run(&Arguments::parse().command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            step::show(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::BuildEbpf { toolchain, twice: false } => bpf::build(*toolchain),
        Command::BuildEbpf { toolchain, twice: true } => bpf::build_twice(*toolchain),
        Command::Build { release } => build::driver(*release).map(drop),
        Command::Test { arguments } => test::run(arguments),
        Command::Demo(options) => demo::run(options),
    }
}

fn must_be_root(command: &str, why: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    // Root's own HOME may have no toolchain.
    bail!(
        "{command} must run as root, for {why}; type\n    sudo env HOME=\"$HOME\" PATH=\"$PATH\" cargo xtask {command}"
    )
}
