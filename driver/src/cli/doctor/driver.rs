//! The driver: whether it runs, answers, and remembers.
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::{Finding, Patient, engine::look_at, error, ok, warning};
use crate::docker::PLUGINS;

/// How long a driver may take to say that it is one.
const PATIENCE: Duration = Duration::from_secs(3);
/// Its answer is shorter.
const LONGEST: u64 = 64 << 10;

/// Why a driver does not answer.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    #[error("there is no socket")]
    Absent,
    #[error("is there, and is no socket")]
    NoSocket,
    #[error("nobody listens: the driver that made it was killed")]
    Stale,
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Hangs,
    #[error("answers, but not as a network driver does: {0}")]
    Other(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Asks as an engine does before it uses a driver.
pub async fn ask(socket: &Path) -> Result<(), Silence> {
    match fs::symlink_metadata(socket) {
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => return Err(Silence::Absent),
        Err(failure) => return Err(failure.into()),
        Ok(found) if found.file_type().is_symlink() => {}
        Ok(found) if !found.file_type().is_socket() => return Err(Silence::NoSocket),
        Ok(_) => {}
    }
    let asked = async {
        let mut stream = UnixStream::connect(socket).await.map_err(|failure| match failure.kind() {
            io::ErrorKind::ConnectionRefused => Silence::Stale,
            _ => failure.into(),
        })?;
        let request = "POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.starts_with("HTTP/1.1 200") && answer.contains("NetworkDriver") {
            return Ok(());
        }
        Err(Silence::Other(answer.lines().next().unwrap_or("nothing").chars().take(80).collect()))
    };
    timeout(PATIENCE, asked).await.unwrap_or(Err(Silence::Hangs))
}

/// The process that has locked this state folder. The lock is not tried, as that would keep a driver out
/// that starts just then: `/proc/locks` tells who has it.
pub fn holder(state_dir: &Path) -> Option<i32> {
    let lock = fs::metadata(state_dir.join("lock")).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // File systems number their devices otherwise there: the process is asked whether it is this file.
    locks.lines().filter_map(|line| flock(line, lock.ino())).find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| {
            fs::metadata(fd.path()).is_ok_and(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()))
        })
    })
}

/// `7: FLOCK  ADVISORY  WRITE 4711 00:2b:15 0 EOF`
fn flock(line: &str, inode: u64) -> Option<i32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, file, ..] = words[..] else { return None };
    let same = file.rsplit(':').next()?.parse() == Ok(inode);
    pid.parse().ok().filter(|_| same)
}

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    let mut findings = vec![socket(patient), state(patient)];
    findings.extend(stale_sockets(&patient.socket).await);
    findings
}

fn socket(patient: &Patient) -> Finding {
    let path = patient.socket.display();
    let start = "start it: docker-passthrough serve";
    match &patient.answers {
        Ok(()) => ok("driver", format!("answers at {path}")),
        Err(silence) => {
            let managed = patient.engine.as_ref().ok().and_then(|engine| engine.managed.first());
            let other = managed.filter(|plugin| plugin.socket != patient.socket);
            let mend = match silence {
                Silence::Absent => {
                    other.map_or_else(|| start.into(), |plugin| format!("{start}; or, {}", look_at(plugin)))
                }
                Silence::Stale => format!("{start}; it replaces the socket"),
                Silence::Hangs => "its log says what it is busy with; else end it, and start it again".into(),
                Silence::NoSocket | Silence::Other(_) => {
                    format!("move {path} away, or use another --name or --socket")
                }
                Silence::Io(_) => "run this as root".into(),
            };
            error("driver", format!("{path}: {silence}"), mend)
        }
    }
}

fn state(patient: &Patient) -> Finding {
    let folder = patient.global.state_dir.display();
    let state = match &patient.state {
        Ok(state) => state,
        Err(failure) => {
            return error(
                "state",
                failure.to_string(),
                "see what the message says; a copy of the file first",
            );
        }
    };
    let remembered =
        format!("{folder}: {} networks, {} endpoints", state.networks.len(), state.endpoints().count());
    match (patient.holder, &patient.answers) {
        (Some(pid), Ok(())) => ok("state", format!("{remembered}, locked by the driver, process {pid}")),
        (None, Err(_)) => ok("state", format!("{remembered}, not locked")),
        (Some(pid), Err(_)) => error(
            "state",
            format!(
                "{remembered}, locked by process {pid}, which does not listen at {}",
                patient.socket.display()
            ),
            format!(
                "end process {pid}, or give this driver a --state-dir of its own; is its --name or --socket another?"
            ),
        ),
        (None, Ok(())) => warning(
            "state",
            format!("{remembered}, not locked by the driver that answers at {}", patient.socket.display()),
            "give this command the --state-dir of that driver",
        ),
    }
}

/// Other drivers' sockets that nobody listens at: an engine that meets one waits for seconds.
async fn stale_sockets(ours: &Path) -> Vec<Finding> {
    let entries = fs::read_dir(PLUGINS).into_iter().flatten().flatten();
    let sockets: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .filter(|path| path != ours && path.extension().is_some_and(|kind| kind == "sock"))
        .collect();
    let mut findings = Vec::new();
    for path in sockets {
        let connected = timeout(PATIENCE, UnixStream::connect(&path)).await;
        if let Ok(Err(failure)) = connected
            && failure.kind() == io::ErrorKind::ConnectionRefused
        {
            let path = path.display();
            findings.push(warning("stale socket", format!("{path}: nobody listens"), format!("rm {path}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_found_by_inode() {
        let line = "7: FLOCK  ADVISORY  WRITE 4711 00:2b:15 0 EOF";
        assert_eq!(flock(line, 15), Some(4711));
        assert_eq!(flock(line, 5), None);
        assert_eq!(flock("8: POSIX  ADVISORY  WRITE 4711 00:2b:15 0 EOF", 15), None);
        assert_eq!(flock("", 15), None);
    }

    #[test]
    fn the_holder_of_a_lock_is_found_without_trying_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(holder(folder.path()), None);
        let store = crate::state::Store::open(folder.path()).unwrap();
        assert_eq!(holder(folder.path()), i32::try_from(std::process::id()).ok());
        drop(store);
        assert_eq!(holder(folder.path()), None);
    }
}
