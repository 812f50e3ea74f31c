//! The state file: written whole, and on disk before the reply that depends on it.
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Mutex;

use super::model::{State, VERSION};

const FILE: &str = "state.json";
const NEXT: &str = "state.json.new";
const LOCK: &str = "lock";

/// A state file as large as this is none of ours (1 000 endpoints are about 1 MiB).
const MAX_SIZE: u64 = 64 << 20;

/// Why the state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system's reason.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what we write.
    #[error(
        "{}: {reason}; the networks and the devices out in containers are remembered there, so the \
         driver does not start without it: mend the file, or move it away to start from nothing",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer driver wrote it.
    #[error("{}: layout {found} of a newer driver, this one knows {VERSION}: run that driver", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// Another driver has it.
    #[error("{}: another docker-passthrough uses this folder: end that one, or use another --state-dir", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

/// The state, in memory and on disk. In memory is never what is not on disk.
#[derive(Debug)]
pub struct Store {
    /// None for a rehearsal.
    folder: Option<PathBuf>,
    current: ArcSwap<State>,
    writer: Mutex<()>,
    /// Keeps a second driver out for as long as this one lives.
    _lock: Option<Flock<File>>,
}

impl Store {
    /// Opens the state in `folder`, which is made if it is missing, and keeps other drivers out.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::Locked { path: folder.to_owned() },
            other => Error::Io { path, source: other.into() },
        })?;
        let state = read(folder)?;
        Ok(Self {
            folder: Some(folder.to_owned()),
            current: ArcSwap::from_pointee(state),
            writer: Mutex::new(()),
            _lock: Some(lock),
        })
    }

    /// The state in `folder` to try changes on: they are not written, and a driver may run meanwhile.
    pub fn rehearsal(folder: &Path) -> Result<Self, Error> {
        let current = ArcSwap::from_pointee(read(folder)?);
        Ok(Self { folder: None, current, writer: Mutex::new(()), _lock: None })
    }

    /// The state as it is on disk.
    pub fn get(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Changes the state. When this returns without an error, the change is on disk; with one, it has
    /// not happened.
    pub async fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        let _writing = self.writer.lock().await;
        let before = self.current.load_full();
        let mut next = State::clone(&before);
        let answer = change(&mut next);
        if next == *before {
            return Ok(answer);
        }
        let next = Arc::new(next);
        if let Some(folder) = self.folder.clone() {
            let (path, written) = (folder.clone(), Arc::clone(&next));
            tokio::task::spawn_blocking(move || write(&folder, &written))
                .await
                .unwrap_or_else(|panic| Err(Error::Io { path, source: panic.into() }))?;
        }
        self.current.store(next);
        Ok(answer)
    }
}

/// Reads the state in `folder`; an empty one if there is none yet. Needs no lock: the file is always
/// whole. This is how the commands read it while the driver is down.
pub fn read(folder: &Path) -> Result<State, Error> {
    let path = folder.join(FILE);
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let size = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    if size > MAX_SIZE {
        return Err(damaged(format!("{size} bytes are too many")));
    }
    let bytes = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        None => return Err(damaged("it has no version".into())),
        Some(found) if found > u64::from(VERSION) => return Err(Error::Newer { path, found }),
        Some(_) => {}
    }
    serde_json::from_value(value).map_err(|error| damaged(error.to_string()))
}

fn write(folder: &Path, state: &State) -> Result<(), Error> {
    let (next, path) = (folder.join(NEXT), folder.join(FILE));
    let bytes = serde_json::to_vec_pretty(state)
        .map_err(|error| Error::Io { path: path.clone(), source: error.into() })?;
    let written = (|| {
        // Before the rename, after which there is no way back.
        let directory = File::open(folder)?;
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&next, &path)?;
        directory.sync_all()
    })();
    written.map_err(|source| Error::Io { path, source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::model::{CounterSet, Mode, Network, NetworkOptions, RxHook, VfOptions};

    fn network() -> Network {
        let options = NetworkOptions {
            netdevice: "nic0".into(),
            privileged: false,
            prefix: "net".into(),
            mtu: Some(9000),
            rx_hook: RxHook::Auto,
            counters: CounterSet::Basic,
            force: false,
            vf: VfOptions::default(),
        };
        Network {
            name: None,
            created: 0,
            mode: Mode::Passthrough,
            options,
            gateways: Vec::new(),
            endpoints: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.update(|state| state.networks.insert("n1".parse().unwrap(), network())).await.unwrap();
        let written = State::clone(&store.get());
        drop(store);
        assert_eq!(read(folder.path()).unwrap(), written);
        assert_eq!(written.networks.len(), 1);
    }

    #[tokio::test]
    async fn a_failed_write_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        // A folder in the temporary file's place: the write fails, for root too.
        fs::create_dir(folder.path().join(NEXT)).unwrap();
        let change = |state: &mut State| state.networks.insert("n1".parse().unwrap(), network());
        store.update(change).await.unwrap_err();
        assert!(store.get().networks.is_empty());
        fs::remove_dir(folder.path().join(NEXT)).unwrap();
        store.update(change).await.unwrap();
        assert_eq!(store.get().networks.len(), 1);
    }

    #[test]
    fn never_a_silent_start_from_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, words) in [
            (&b""[..], "EOF"),
            (b"{\"version\":1,\"networks\":{", "EOF"),
            (b"{}", "no version"),
            (b"{\"version\":2}", "newer driver"),
            (b"{\"version\":1,\"networks\":{\"../x\":{}}}", "an id is"),
        ] {
            fs::write(folder.path().join(FILE), bytes).unwrap();
            let error = Store::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn strays_are_of_no_interest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NEXT), b"garbage").unwrap();
        fs::write(folder.path().join("config.json"), b"").unwrap();
        assert_eq!(*Store::open(folder.path()).unwrap().get(), State::default());
    }

    #[test]
    fn a_second_driver_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(Error::Locked { .. })));
        drop(first);
        Store::open(folder.path()).unwrap();
    }
}
