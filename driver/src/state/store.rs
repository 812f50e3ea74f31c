//! The state file: written whole, and on disk before the reply that depends on it.
use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    lines::Lines,
    model::{State, VERSION},
};
use crate::{blocking, fault};

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
    /// Others than root could change what is remembered.
    #[error("{}: {reason}: who can write there could have the driver hand out any netdev", path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// How, and what would be right.
        reason: String,
    },
    /// Another driver has it.
    #[error("{}: another docker-passthrough uses this folder: end that one, or use another --state-dir", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// Whether it stays so until somebody mends it.
    pub fn is_for_good(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Newer { .. } | Self::Exposed { .. } => true,
            Self::Io { .. } | Self::Locked { .. } => false,
        }
    }
}

/// The state, in memory and on disk. In memory is never what is not on disk.
#[derive(Debug)]
pub struct Store {
    /// None for a rehearsal.
    folder: Option<PathBuf>,
    current: Arc<ArcSwap<State>>,
    writer: Arc<Mutex<Writer>>,
    /// Keeps a second driver out for as long as this one lives, or writes.
    lock: Option<Arc<Flock<File>>>,
}

/// What there is once a write.
#[derive(Debug, Default)]
struct Writer {
    lines: Lines,
    /// The file may have what failed, and could not be taken back: it is written the next time, whatever changes.
    unsure: bool,
}

impl Store {
    /// Opens the state in `folder`, which is made if it is missing, and keeps other drivers out.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
        let metadata = fs::metadata(folder).map_err(at(folder))?;
        if let Some(reason) = exposed(&metadata) {
            return Err(Error::Exposed { path: folder.to_owned(), reason });
        }
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(at(&path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::Locked { path: folder.to_owned() },
            other => Error::Io { path, source: other.into() },
        })?;
        let state = read(folder)?;
        Ok(Self {
            folder: Some(folder.to_owned()),
            current: Arc::new(ArcSwap::from_pointee(state)),
            writer: Arc::default(),
            lock: Some(Arc::new(lock)),
        })
    }

    /// The state in `folder` to try changes on: they are not written, and a driver may run meanwhile.
    pub fn rehearsal(folder: &Path) -> Result<Self, Error> {
        let current = Arc::new(ArcSwap::from_pointee(read(folder)?));
        Ok(Self { folder: None, current, writer: Arc::default(), lock: None })
    }

    /// The state as it is on disk.
    pub fn get(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Changes the state. When this returns without an error, the change is on disk; with one, it has
    /// not happened.
    pub async fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let before = self.current.load_full();
        let mut next = State::clone(&before);
        let answer = change(&mut next);
        if next == *before && !writer.unsure {
            return Ok(answer);
        }
        let Some(folder) = self.folder.clone() else {
            self.current.store(next.into());
            return Ok(answer);
        };
        let (path, current, lock) = (folder.clone(), Arc::clone(&self.current), self.lock.clone());
        // Goes on to its end, with the lock, also if nobody waits for it any more.
        let written = blocking::run(move || {
            let _lock = lock;
            let Writer { lines, unsure } = &mut *writer;
            write(&folder, lines, &next).inspect_err(|_| {
                // It may be in place, and only not known to last: what failed shall not come back.
                if !read(&folder).is_ok_and(|found| found == *before) {
                    *unsure = write(&folder, lines, &before)
                        .inspect_err(
                            |error| tracing::error!(%error, "taking back what could not be remembered"),
                        )
                        .is_err();
                }
            })?;
            *unsure = false;
            current.store(next.into());
            Ok(())
        });
        written.await.unwrap_or_else(|source| Err(Error::Io { path, source }))?;
        Ok(answer)
    }

    /// Makes good what could not be taken back. What fails is logged, and left for the next time.
    pub async fn settle(&self) {
        if self.writer.lock().await.unsure
            && let Err(error) = self.update(|_| ()).await
        {
            tracing::warn!(%error, "the state file may have what failed");
        }
    }
}

/// Why others can write to a folder, and what would be right.
fn exposed(metadata: &Metadata) -> Option<String> {
    let (mode, owner, me) = (metadata.mode() & 0o777, metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != me {
        return Some(format!("belongs to user {owner}; chown it to {me}"));
    }
    (mode & 0o022 != 0).then(|| format!("its mode is {mode:o}; chmod it to 700"))
}

/// Reads the state in `folder`; an empty one if there is none yet. Needs no lock: the file is always
/// whole. This is how the commands read it while the driver is down.
pub fn read(folder: &Path) -> Result<State, Error> {
    let path = folder.join(FILE);
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let size = match fs::symlink_metadata(&path) {
        Ok(metadata) if !metadata.is_file() => return Err(damaged("it is no regular file".into())),
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    if size > MAX_SIZE {
        return Err(damaged(format!("{size} bytes are too many")));
    }
    let bytes = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let Head { version } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match version.as_ref().and_then(serde_json::Value::as_u64) {
        None => return Err(damaged("it has no version".into())),
        Some(found) if found > u64::from(VERSION) => return Err(Error::Newer { path, found }),
        Some(0) => return Err(damaged("no driver writes layout 0".into())),
        // Those before this one lack fields, which have defaults.
        Some(_) => {}
    }
    let state: State = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    Ok(State { version: VERSION, ..state })
}

/// What is looked at before the rest, which a newer driver may write differently.
#[derive(Deserialize)]
struct Head {
    version: Option<serde_json::Value>,
}

fn write(folder: &Path, lines: &mut Lines, state: &State) -> Result<(), Error> {
    let (next, path) = (folder.join(NEXT), folder.join(FILE));
    let text = lines.text(state).map_err(|error| Error::Io { path: path.clone(), source: error.into() })?;
    let written = (|| {
        fault::step!("state.begin");
        // Before the rename, after which there is no way back.
        let directory = File::open(folder)?;
        // What is there is of a driver that died, or a link that leads elsewhere.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next)?;
        fault::step!("state.opened");
        file.write_all(text.as_bytes())?;
        fault::step!("state.written");
        file.sync_all()?;
        fault::step!("state.synced");
        fs::rename(&next, &path)?;
        fault::step!("state.renamed");
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
            pf: None,
            gateways: Vec::new(),
            endpoints: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.update(|state| state.networks.insert("n1".parse().unwrap(), network().into())).await.unwrap();
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
        let change = |state: &mut State| state.networks.insert("n1".parse().unwrap(), network().into());
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
            (b"{\"version\":0}", "layout 0"),
            (b"{\"version\":1,\"networks\":{\"../x\":{}}}", "an id is"),
        ] {
            fs::write(folder.path().join(FILE), bytes).unwrap();
            let error = Store::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn cut_off_anywhere_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.update(|state| state.networks.insert("n1".parse().unwrap(), network().into())).await.unwrap();
        drop(store);
        let whole = fs::read(folder.path().join(FILE)).unwrap();
        assert!(whole.len() > 100);
        for length in 0..whole.len() {
            fs::write(folder.path().join(FILE), &whole[..length]).unwrap();
            assert!(matches!(read(folder.path()), Err(Error::Damaged { .. })), "{length} bytes");
        }
    }

    /// As little as the first driver of this layout wrote.
    const OLDEST: &str = r#"{"version": 1, "networks": {"n1": {
        "mode": "passthrough", "options": {"netdevice": "nic0"}, "endpoints": {"e1": {
            "original": {"name": "nic0", "mac": "02:00:00:00:00:01", "mtu": 1500, "up": true, "alias": "",
                "flags": {"promisc": false, "allmulti": false, "arp": true, "multicast": true}},
            "ifindex": 7, "mac": "02:00:00:00:00:01", "created": 1700000000}}}}}"#;

    #[tokio::test]
    async fn an_older_file_is_read_and_written_as_ours() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), OLDEST).unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (network_id, id) = ("n1".parse().unwrap(), "e1".parse().unwrap());
        let read = store.get();
        let endpoint = read.endpoint(&network_id, &id).unwrap();
        assert_eq!((endpoint.original.name.as_str(), endpoint.ifindex), ("nic0", 7));
        assert!(!endpoint.ending && endpoint.joined.is_none() && endpoint.vf.is_none());
        assert_eq!(read.networks[&network_id].options.prefix, "eth");
        store.update(|state| state.endpoint_mut(&network_id, &id).unwrap().joined = Some(1)).await.unwrap();
        let written: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(written["version"], VERSION);
        assert_eq!(written["networks"]["n1"]["endpoints"]["e1"]["original"]["mtu"], 1500);
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
