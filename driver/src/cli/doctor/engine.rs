//! The engine: whether it is there, fits, and sees the driver.
use std::path::Path;

use super::{Finding, Patient, error, ok, shared, warning};
use crate::docker::{EngineFacts, Managed, PLUGINS};

/// Versions that the driver is tested with.
const OLDEST: (u32, u32) = (20, 10);
const NEWEST: u32 = 28;

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    match &patient.engine {
        Ok(engine) => {
            let mut findings = vec![version(engine), sees(engine, patient)];
            findings.extend(swarm(engine, patient));
            findings
        }
        Err(failure) => {
            let mend = "start it: systemctl start docker; or name its socket: --docker-host unix:///PATH";
            let share = if shared::contained(patient) {
                "; -v /var/run/docker.sock:/var/run/docker.sock"
            } else {
                ""
            };
            vec![error("engine", failure.to_string(), format!("{mend}{share}"))]
        }
    }
}

fn version(engine: &EngineFacts) -> Finding {
    let found = format!("Docker {}", engine.version);
    let mut numbers = engine.version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < OLDEST {
        return error("engine", found, "Docker 20.10 or newer");
    }
    if major > NEWEST {
        return warning("engine", found, format!("the driver is tested with Docker 20.10 to {NEWEST}"));
    }
    ok("engine", found)
}

/// An engine looks for sockets when a network is asked for, and lists drivers that have networks.
fn sees(engine: &EngineFacts, patient: &Patient) -> Finding {
    let (name, check) = (&patient.global.name, "engine and driver");
    let networks = patient.remembered().networks.len();
    let managed = patient.managed();
    let name = managed.map_or(name, |plugin| &plugin.name);
    let listed = engine.network_drivers.iter().any(|driver| driver == name);
    let seen = Path::new(PLUGINS).join(format!("{name}.sock"));
    if patient.answers.is_ok() && managed.is_none() && patient.socket != seen && !named_by_file(name) {
        return error(
            check,
            format!("the socket {} is not where engines look", patient.socket.display()),
            format!(
                "serve with --socket {}, or write its address into /etc/docker/plugins/{name}.spec",
                seen.display()
            ),
        );
    }
    match (listed, networks) {
        (true, _) => ok(check, format!("the engine has networks of driver {name}")),
        (false, 0) => ok(check, format!("the engine has no network of driver {name} yet")),
        (false, networks) => warning(
            check,
            format!("{networks} networks are remembered, and the engine has none of driver {name}"),
            "is it the right engine (--docker-host)? The driver forgets what the engine does not have",
        ),
    }
}

/// Engines also look for files that say where a plugin's socket is.
fn named_by_file(name: &str) -> bool {
    let folders = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
    let files =
        folders.into_iter().flat_map(|folder| ["spec", "json"].map(|kind| format!("{folder}/{name}.{kind}")));
    files.into_iter().any(|file| Path::new(&file).exists())
}

/// Networks of a swarm are those of managed plugins.
fn swarm(engine: &EngineFacts, patient: &Patient) -> Option<Finding> {
    let check = "swarm";
    engine.swarm.then(|| match (patient.managed(), engine.managed.first()) {
        (Some(plugin), _) => ok(check, format!("it has this driver as a managed plugin, {}", plugin.name)),
        (None, Some(plugin)) => warning(
            check,
            format!("it has the managed plugin {}, not the driver that is looked at here", plugin.name),
            look_at(plugin),
        ),
        (None, None) => error(
            check,
            "the engine is in swarm mode, which takes no drivers that listen on a socket",
            "docker swarm leave, or the managed plugin: docker plugin create",
        ),
    })
}

/// What has a command look at a managed plugin.
pub fn look_at(plugin: &Managed) -> String {
    let Managed { name, socket, state_dir } = plugin;
    format!("to look at {name}: --socket {} --state-dir {}", socket.display(), state_dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn versions_that_fit() {
        for (text, status) in [
            ("19.03.15", Status::Error),
            ("20.10.24+dfsg1", Status::Ok),
            ("28.2.2", Status::Ok),
            ("29.0.0-rc.1", Status::Warning),
            ("dev", Status::Error),
        ] {
            let engine = EngineFacts { version: text.into(), ..EngineFacts::default() };
            assert_eq!(version(&engine).status, status, "{text}");
        }
    }
}
