//! `doctor`: what this host can do, what is missing, and the mend. Looks, and changes nothing.
use std::{fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::Serialize;

use super::{Global, serve, stats::print, table};
use crate::{
    docker::{self, Docker, EngineFacts, Managed},
    state::{self, State, store},
};

mod driver;
mod engine;
mod hardware;
mod kernel;
mod leftovers;
mod process;
mod shared;

/// A group of checks that takes longer is given up: something hangs.
const PATIENCE: Duration = Duration::from_secs(15);

/// What this host can do, what is missing, and the mend; changes nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at the kernel, the netdevs and PFs, the engine, the driver, and at what containers left behind. Works
while the driver or the engine is down, and says so. Nothing on the host is changed.

Examples:
  docker-passthrough doctor
  docker-passthrough doctor --json | jq '.[] | select(.status != \"ok\")'
  docker-passthrough doctor --socket /run/docker/plugins/ID/passthrough.sock \\
      --state-dir /var/lib/docker/plugins/ID/propagated-mount

Exit codes: 0 all is well, 1 warnings, 2 errors, or wrong usage.")]
pub struct Doctor {
    /// A JSON array
    #[arg(long)]
    json: bool,
    /// The driver's socket [default: /run/docker/plugins/NAME.sock]
    #[arg(long, env = "DOCKER_PASSTHROUGH_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// How a check came out. The names are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but not all of it, or not for long.
    Warning,
    /// Containers do not start, or hardware is lost to the host.
    Error,
}

/// What a check found. The field names are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub status: Status,
    /// What is.
    pub found: String,
    /// What would make it better.
    pub mend: Option<String>,
}

fn ok(check: impl Into<String>, found: impl Into<String>) -> Finding {
    Finding { check: check.into(), status: Status::Ok, found: found.into(), mend: None }
}

fn warning(check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check: check.into(), status: Status::Warning, found: found.into(), mend: Some(mend.into()) }
}

fn error(check: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { status: Status::Error, ..warning(check, found, mend) }
}

/// What all groups look at.
#[derive(Debug)]
struct Patient {
    global: Global,
    socket: PathBuf,
    state: Result<State, state::Error>,
    engine: Result<EngineFacts, docker::Error>,
    /// The engine's process, or the one that listens for it, if it has a number here.
    engine_process: Option<i32>,
    /// The process that has locked the state folder.
    holder: Option<i32>,
    /// Whether a driver answers.
    answers: Result<(), driver::Silence>,
}

impl Patient {
    async fn meet(global: &Global, socket: PathBuf) -> Self {
        let (engine, engine_process) = match Docker::new(&global.docker_host) {
            Ok(docker) => (docker.facts().await, docker.process()),
            Err(error) => (Err(error), None),
        };
        Self {
            engine_process,
            state: store::read(&global.state_dir),
            holder: driver::holder(&global.state_dir),
            answers: driver::ask(&socket).await,
            global: global.clone(),
            engine,
            socket,
        }
    }

    /// The managed plugin that is looked at, if it is one.
    fn managed(&self) -> Option<&Managed> {
        let engine = self.engine.as_ref().ok()?;
        engine.managed.iter().find(|plugin| plugin.socket == self.socket)
    }

    /// What is remembered; nothing, where that can't be read.
    fn remembered(&self) -> State {
        self.state.as_ref().cloned().unwrap_or_default()
    }
}

impl Doctor {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let socket = self.socket.unwrap_or_else(|| serve::default_socket(&global.name));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let findings = runtime.block_on(examine(global, socket));
        // A check that hangs is left behind.
        runtime.shutdown_background();
        let text = if self.json {
            serde_json::to_string_pretty(&findings)? + "\n"
        } else {
            text(&findings, utf8(), table::colour())
        };
        print(&text)?;
        Ok(match worst(&findings) {
            Status::Ok => ExitCode::SUCCESS,
            Status::Warning => ExitCode::from(1),
            Status::Error => ExitCode::from(2),
        })
    }
}

async fn examine(global: &Global, socket: PathBuf) -> Vec<Finding> {
    let patient = std::sync::Arc::new(Patient::meet(global, socket).await);
    let mut findings = Vec::new();
    macro_rules! group {
        ($name:literal, $checks:path) => {{
            let patient = std::sync::Arc::clone(&patient);
            let looking = tokio::spawn(async move { $checks(&patient).await });
            findings.extend(match tokio::time::timeout(PATIENCE, looking).await {
                Ok(Ok(found)) => found,
                Ok(Err(failure)) => vec![error($name, failure.to_string(), "report this")],
                Err(_) => vec![error(
                    $name,
                    format!("no answer within {} s", PATIENCE.as_secs()),
                    "see what the kernel or the engine is busy with: dmesg, systemctl status docker",
                )],
            });
        }};
    }
    group!("kernel", kernel::checks);
    group!("process", process::checks);
    group!("shared", shared::checks);
    group!("netdevs", hardware::checks);
    group!("engine", engine::checks);
    group!("driver", driver::checks);
    group!("leftovers", leftovers::checks);
    findings
}

fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
}

fn text(findings: &[Finding], utf8: bool, colour: bool) -> String {
    let checks = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, status, found, mend } in findings {
        let (sign, ascii, hue) = match status {
            Status::Ok => ("✓", "ok", AnsiColor::Green),
            Status::Warning => ("!", "!!", AnsiColor::Yellow),
            Status::Error => ("✗", "XX", AnsiColor::Red),
        };
        let sign = if utf8 { sign } else { ascii };
        let style = if colour { Style::new().fg_color(Some(hue.into())) } else { Style::new() };
        // Some of it is netdevs' and containers' own words.
        let plain = |text: &str| text.replace(char::is_control, " ");
        let _ = writeln!(text, "{style}{sign}{style:#} {check:checks$}  {}", plain(found));
        if let Some(mend) = mend {
            let arrow = if utf8 { "→" } else { ">" };
            let width = sign.chars().count() + checks + 3;
            let _ = writeln!(text, "{:width$}{arrow} {}", "", plain(mend));
        }
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let counted = |status, what: &str| {
        let count = count(status);
        format!("{count} {what}{}", if count == 1 { "" } else { "s" })
    };
    let (warnings, errors) = (counted(Status::Warning, "warning"), counted(Status::Error, "error"));
    text + &format!("{} ok, {warnings}, {errors}\n", count(Status::Ok))
}

/// Whether the user's locale has more than ASCII (`locale(7)`).
fn utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_people() {
        let findings = [ok("kernel", "Linux 6.18"), error("socket x", "nobody\x1b[2J listens", "start it")];
        assert_eq!(
            text(&findings, true, false),
            "✓ kernel    Linux 6.18\n✗ socket x  nobody [2J listens\n            → start it\n1 ok, 0 warnings, 1 error\n"
        );
        let ascii = text(&findings, false, true);
        assert!(ascii.starts_with("\x1b[32mok\x1b[0m kernel    Linux"), "{ascii:?}");
        assert!(ascii.is_ascii());
        assert_eq!(worst(&findings), Status::Error);
        assert_eq!(worst(&findings[..1]), Status::Ok);
    }
}
