//! `docker-passthrough`: reads the command line, nothing else.
use std::process::ExitCode;

use docker_passthrough::cli;

fn main() -> ExitCode {
    cli::main()
}
