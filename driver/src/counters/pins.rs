//! The folder on a BPF file system that keeps an endpoint's counters alive without the driver.
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{
    Error, Hook, Result,
    kernel::{self, AttachType, Attachment, Kind},
    parked::Parked,
};
use crate::{fault, state::id::EndpointId};

/// Where the kernel expects its BPF file system, and systemd mounts it.
const STANDARD: &str = "/sys/fs/bpf";
const PRIVATE: u32 = 0o700;

const COUNTERS: &str = "counters";
const RX: &str = "rx";
const TX: &str = "tx";
/// What is about to take the place of one of these. No name there may have a dot.
const RX_NEW: &str = "rx_new";
const TX_NEW: &str = "tx_new";

/// Makes `bpffs` a private folder on a BPF file system; mounts one at the standard place if need be.
pub(super) fn prepare(bpffs: &Path) -> Result<()> {
    let failed = |doing| move |source| Error::Folder { doing, path: bpffs.to_owned(), source };
    let standard = Path::new(STANDARD);
    if bpffs.starts_with(standard) && standard.is_dir() && !is_bpf(standard).map_err(failed("examine"))? {
        mount(Some("bpf"), standard, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
            .map_err(|errno| Error::Mount { source: errno.into() })?;
        tracing::info!("mounted a BPF file system on {STANDARD}");
    }
    // Not created before it's known where: a folder on another file system would stay behind.
    let existing = bpffs.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if !is_bpf(existing).map_err(failed("examine"))? {
        return Err(Error::NoBpffs { path: bpffs.to_owned() });
    }
    DirBuilder::new().recursive(true).mode(PRIVATE).create(bpffs).map_err(failed("create"))?;
    fs::set_permissions(bpffs, Permissions::from_mode(PRIVATE)).map_err(failed("make private"))
}

fn is_bpf(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// The endpoints that have a folder; none if there is no folder for them yet.
pub fn endpoints(bpffs: &Path) -> Result<Vec<EndpointId>> {
    let failed = |source| Error::Folder { doing: "list", path: bpffs.to_owned(), source };
    let entries = match fs::read_dir(bpffs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut endpoints = Vec::new();
    for entry in entries {
        // Something else's folder is none of ours, whatever its name.
        if let Some(endpoint) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok())
        {
            endpoints.push(endpoint);
        }
    }
    endpoints.sort();
    Ok(endpoints)
}

/// An endpoint's folder: one map, two links or programs.
pub(super) struct Pins {
    endpoint: EndpointId,
    folder: PathBuf,
}

/// Which of the two sides of a netdev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Rx,
    Tx,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Rx => RX,
            Self::Tx => TX,
        }
    }

    fn new_name(self) -> &'static str {
        match self {
            Self::Rx => RX_NEW,
            Self::Tx => TX_NEW,
        }
    }
}

/// What is pinned for one side.
pub(super) enum Pinned {
    /// A link, and what it is attached to.
    Link { fd: OwnedFd, at: Attachment },
    /// A program that a filter has, or is to have.
    Program { fd: OwnedFd, id: u32 },
}

impl Pinned {
    pub fn hook(&self) -> Hook {
        match self {
            Self::Link { at, .. } => at.to.into(),
            Self::Program { .. } => Hook::Clsact,
        }
    }

    /// The netdev's number where it is now, 0 once it is destroyed; none if that is not known, as a
    /// program does not know who runs it.
    pub fn ifindex(&self) -> Option<u32> {
        match self {
            Self::Link { at, .. } => Some(at.ifindex),
            Self::Program { .. } => None,
        }
    }

    /// Which of our programs it has.
    pub fn program(&self, side: Side) -> AttachType {
        match (self, side) {
            (Self::Link { at, .. }, _) => at.to,
            (Self::Program { .. }, Side::Rx) => AttachType::TcxIngress,
            (Self::Program { .. }, Side::Tx) => AttachType::TcxEgress,
        }
    }
}

impl Pins {
    pub fn new(bpffs: &Path, endpoint: &EndpointId) -> Self {
        Self { folder: bpffs.join(endpoint.as_str()), endpoint: endpoint.clone() }
    }

    pub fn counters_path(&self) -> PathBuf {
        self.folder.join(COUNTERS)
    }

    pub fn create(&self) -> Result<()> {
        DirBuilder::new().mode(PRIVATE).create(&self.folder).map_err(self.failed("create"))
    }

    /// Removes all of it, the links first, so that nothing counts into a map that can't be found. Fine
    /// if it is gone already.
    pub fn remove(&self) -> Result<()> {
        self.remove_but(&Parked::default())
    }

    /// The same, but these links stay attached.
    pub fn remove_but(&self, parked: &Parked) -> Result<()> {
        for pinned in [self.tx(), self.rx()].into_iter().flatten() {
            // A netdev that is gone has no link to detach; whatever the error, the file goes.
            if let Pinned::Link { fd, at } = pinned
                && !parked.ids().any(|id| id == at.link_id)
                && let Err(error) = kernel::detach(fd.as_fd())
            {
                tracing::debug!(endpoint = %self.endpoint, %error, "detaching a link");
            }
        }
        for name in [TX, RX, TX_NEW, RX_NEW, COUNTERS] {
            fault::step!("counters.removing");
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Folder { doing: "remove", path, source });
                }
                _ => {}
            }
        }
        fault::step!("counters.removed");
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(error)),
            _ => Ok(()),
        }
    }

    /// Pins a map.
    pub fn pin_counters(&self, map: &OwnedFd) -> Result<()> {
        self.pin_as(map, COUNTERS)
    }

    /// Pins a link or a program.
    pub fn pin(&self, side: Side, object: &OwnedFd) -> Result<()> {
        self.pin_as(object, side.name())
    }

    /// Puts a program in the place of what is pinned, which is there at any moment.
    pub fn replace(&self, side: Side, program: &OwnedFd) -> Result<()> {
        let (new, path) = (self.folder.join(side.new_name()), self.folder.join(side.name()));
        // Of a driver that was ended in between.
        let _ = fs::remove_file(&new);
        self.pin_as(program, side.new_name())?;
        fs::rename(&new, &path).map_err(|source| Error::Folder { doing: "replace", path, source })
    }

    pub fn counters(&self) -> Result<OwnedFd> {
        self.get(COUNTERS)
    }

    pub fn rx(&self) -> Result<Pinned> {
        self.pinned(RX)
    }

    pub fn tx(&self) -> Result<Pinned> {
        self.pinned(TX)
    }

    fn pin_as(&self, object: &OwnedFd, name: &'static str) -> Result<()> {
        let path = self.folder.join(name);
        kernel::pin(object.as_fd(), &path).map_err(|source| Error::Folder { doing: "pin", path, source })
    }

    fn pinned(&self, name: &'static str) -> Result<Pinned> {
        let fd = self.get(name)?;
        // Nothing but a link answers so: where that has the hook, a program has a length, a multiple of 8, and a map flags
        // that none has. Asking in /proc what it is takes longer than all the rest.
        if let Ok(at) = kernel::attachment(fd.as_fd())
            && at.to != AttachType::Xdp
        {
            return Ok(Pinned::Link { fd, at });
        }
        let pinned = match kernel::kind(fd.as_fd()) {
            Ok(Kind::Link) => kernel::attachment(fd.as_fd()).map(|at| Pinned::Link { fd, at }),
            Ok(Kind::Program) => kernel::program_id(fd.as_fd()).map(|id| Pinned::Program { fd, id }),
            Ok(Kind::Map) => Err(io::Error::new(io::ErrorKind::Unsupported, "a map")),
            Err(error) => Err(error),
        };
        pinned.map_err(|source| Error::Pin { path: self.folder.join(name), source })
    }

    fn get(&self, name: &'static str) -> Result<OwnedFd> {
        let path = self.folder.join(name);
        kernel::get(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotCounted { endpoint: self.endpoint.clone(), path },
            _ => Error::Pin { path, source },
        })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Folder { doing, path: self.folder.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_are_endpoints() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b1", "a0", "maps.debug", "progs.debug"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found: Vec<String> = endpoints(folder.path()).unwrap().into_iter().map(String::from).collect();
        assert_eq!(found, ["a0", "b1"]);
        assert!(endpoints(&folder.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn another_file_system_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passthrough");
        let error = prepare(&path).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!path.exists());
    }
}
