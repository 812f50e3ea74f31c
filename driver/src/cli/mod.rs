//! The command line: one file a subcommand.
use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

mod detailed;
#[cfg(test)]
mod docs;
mod doctor;
mod ending;
mod generate;
mod heap;
mod import;
mod logging;
mod ls;
mod original;
mod plugin;
mod rates;
mod selection;
mod serve;
mod stats;
mod table;
mod top;
mod units;
mod watch;
mod watchdog;

/// Docker network driver that hands containers real network hardware, and counts their traffic.
#[derive(Debug, Parser)]
#[command(name = "docker-passthrough", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  docker-passthrough serve
  docker network create -d passthrough -o netdevice=ens2f0 -o mode=passthrough \\
      --subnet=194.168.1.0/24 --gateway=194.168.1.1 nic0
  docker run --rm -it --network nic0 busybox
  docker-passthrough stats

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Name of the driver, as in `docker network create -d NAME`
    #[arg(long, global = true, env = "DOCKER_PASSTHROUGH_NAME", default_value = "passthrough", value_parser = name)]
    name: String,
    /// Folder of what has to survive a restart
    #[arg(
        long,
        global = true,
        env = "DOCKER_PASSTHROUGH_STATE_DIR",
        default_value = "/var/lib/docker-passthrough",
        value_name = "DIR"
    )]
    state_dir: PathBuf,
    /// Folder of the pinned counters, on a BPF file system
    #[arg(
        long,
        global = true,
        env = "DOCKER_PASSTHROUGH_BPFFS",
        default_value = "/sys/fs/bpf/passthrough",
        value_name = "DIR"
    )]
    bpffs: PathBuf,
    /// The engine's socket: it is asked for containers' names, and which networks there are. `serve` forgets those that
    /// it does not have
    #[arg(
        long,
        global = true,
        env = "DOCKER_PASSTHROUGH_DOCKER_HOST",
        default_value = "unix:///var/run/docker.sock",
        value_name = "URL"
    )]
    docker_host: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the driver: answer Docker's calls until SIGTERM
    Serve(serve::Serve),
    /// Rx and Tx of each container, from the kernel; also while the driver is down
    Stats(stats::Stats),
    /// Networks, and which container has which netdev
    Ls(ls::Ls),
    /// Take over the networks of Mellanox's docker-passthrough-plugin or docker-sriov-plugin
    Import(import::Import),
    /// Rx and Tx of each container as it happens, on a full screen
    Top(top::TopArgs),
    /// What this host can do, what is missing, and the mend
    Doctor(doctor::Doctor),
}

/// The name becomes the name of a socket.
fn name(text: &str) -> Result<String, String> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(safe) {
        return Err("must be 1 to 64 letters, digits, '-', '_' or '.'".into());
    }
    Ok(text.to_owned())
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let done = if let Some(answer) = plugin::metadata(&arguments) {
        stats::print(&answer).map(|()| ExitCode::SUCCESS)
    } else if let Some(folder) = generate::is_asked(&arguments) {
        generate::generate(folder).map(|()| ExitCode::SUCCESS)
    } else if plugin::is_called(&arguments) {
        plugin::parse(&arguments).and_then(Cli::run)
    } else {
        Cli::parse_from(arguments).run()
    };
    match done {
        Ok(code) => code,
        // `docker-passthrough stats | head`: who reads has enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Who reads may be gone; the exit code is not.
fn complain(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "docker-passthrough: {error:#}");
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Self { global, command } = self;
        match command {
            Command::Serve(serve) => return serve.run(&global),
            Command::Stats(stats) => stats.run(&global)?,
            Command::Ls(ls) => ls.run(&global)?,
            Command::Import(import) => import.run(&global)?,
            Command::Top(top) => top.run(&global)?,
            Command::Doctor(doctor) => return doctor.run(&global),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A runtime for a command that asks a few questions and ends.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_name_is_no_path() {
        assert!(name("passthrough").is_ok());
        for bad in ["", "..", ".x", "a/b", "a b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
