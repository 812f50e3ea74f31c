//! What cargo cannot say. Each command sets up what it needs.
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

mod bench;
mod bpf;
mod build;
mod busybox;
mod compiler;
mod daemon;
mod deb;
mod demo;
mod dist;
mod engine;
mod fuzz;
mod guests;
mod image;
mod interrupt;
mod linker;
mod matrix;
mod notices;
mod packages;
mod process;
mod prometheus;
#[path = "../../driver/build/sources.rs"]
mod sources;
mod step;
mod test;
mod unpack;
mod vm;
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
    /// Build the BPF objects, `target/bpf/docker-passthrough.o` and `…-log.o`
    BuildEbpf {
        /// Whose compiler to take [default: one that is there, else Debian's]
        #[arg(long)]
        toolchain: Option<compiler::Origin>,
        /// Build a second time in another folder and compare
        #[arg(long)]
        twice: bool,
    },
    /// Build the BPF objects and the driver
    Build {
        /// With optimizations
        #[arg(long)]
        release: bool,
    },
    /// Lay out in target/dist what a package has in it: binary, man pages, completions, licence
    Dist,
    /// Run the tests, on real kernels, engines and VFs, with everything they need
    Test(test::Options),
    /// Fuzz what reads bodies, options, tags, the state file and netlink attributes
    Fuzz(fuzz::Options),
    /// Hand a netdev to a container, move traffic, compare the counters
    Demo(demo::Options),
    /// Measure this driver beside what one would otherwise have
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Make a Debian package, in `target/debian/`
    Deb {
        /// The build to take
        #[arg(long, default_value = "release")]
        profile: String,
    },
    /// Make an image for `docker load`, `target/docker-passthrough-image.tar`
    Image {
        /// The image's name
        #[arg(long, default_value = "docker-passthrough:latest")]
        tag: String,
    },
    /// Make a managed plugin for `docker plugin create`, `target/docker-passthrough-plugin/`
    Plugin,
    /// Run a program in a throw-away guest that has two NICs with SR-IOV
    Vm {
        /// End the guest after this time
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        /// The guest's kernel
        #[arg(long, value_enum, default_value = "own")]
        kernel: vm::Kernel,
        /// Boot systemd, which runs it as a unit
        #[arg(long)]
        systemd: bool,
        /// The program's path, here or in the guest, and its arguments
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
}

fn main() -> ExitCode {
    match interrupt::watch().and_then(|()| run(&Arguments::parse().command)) {
        Ok(code) => code,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(130),
        Err(error) => {
            step::show(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::BuildEbpf { toolchain, twice: false } => bpf::build(*toolchain),
        Command::BuildEbpf { toolchain, twice: true } => bpf::build_twice(*toolchain),
        Command::Build { release } => build::driver(*release).map(drop),
        Command::Dist => dist::run(),
        Command::Test(options) => test::run(options),
        Command::Fuzz(options) => fuzz::run(options),
        Command::Demo(options) => demo::run(options),
        Command::Bench(bench) => bench::run(bench),
        Command::Deb { profile } => deb::make(profile),
        Command::Image { tag } => image::make(tag),
        Command::Plugin => image::make_plugin(),
        Command::Vm { seconds, kernel, systemd, program } => {
            let guest = vm::prepare(*kernel)?.with_systemd(*systemd);
            let ended = vm::run(&guest, program, Duration::from_secs(*seconds))?;
            // Without a code it was killed.
            return Ok(ended.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(125).into());
        }
    }?;
    Ok(ExitCode::SUCCESS)
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
