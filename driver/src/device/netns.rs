//! Network namespaces: how one is held, entered, and which there are.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, statfs},
};

/// A network namespace, held open. Held as briefly as can be: it keeps the namespace's netdevs from
/// coming home.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    inode: u64,
}

/// Where engines and `ip netns` keep their namespaces.
const FOLDERS: [&str; 4] =
    ["/run/docker/netns", "/var/run/docker/netns", "/run/netns", "/run/containerd/netns"];

impl NetNs {
    /// The one at `path`, such as a `SandboxKey` of Docker's. An error if it is something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => opened_again(path, error)?,
            opened => opened?,
        };
        // Docker makes the file first and mounts the namespace on it later: ask what it is.
        // SAFETY: NS_GET_NSTYPE takes no argument and only reads from a descriptor that we own.
        let kind = unsafe { nix::libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != nix::libc::CLONE_NEWNET {
            return Err(no_namespace(path));
        }
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Another hold on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, inode: self.inode })
    }

    /// Names the namespace in this boot.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// For `IFLA_NET_NS_FD`.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` in this namespace, on a thread of its own, so that none of ours ever changes over.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                setns(self.as_fd(), CloneFlags::CLONE_NEWNET)?;
                io::Result::Ok(work())
            })?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
        })
    }
}

/// A thread that goes from namespace to namespace, and ends as it is.
#[derive(Debug)]
pub struct Traveller {
    /// Bound to its thread.
    _thread: PhantomData<*const ()>,
}

impl Traveller {
    /// Runs `work` on a thread of its own, at first in the calling thread's namespace.
    pub fn run<T: Send>(work: impl FnOnce(&Self) -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".into());
            let thread = thread.spawn_scoped(scope, || work(&Self { _thread: PhantomData }))?;
            thread.join().map_err(|_| io::Error::other("the thread between namespaces panicked"))
        })
    }

    /// Goes where `path` leads. An error if that is something else, which the kernel says itself.
    pub fn enter_at(&self, path: &Path) -> io::Result<()> {
        Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
    }

    /// Goes there.
    pub fn enter(&self, netns: &NetNs) -> io::Result<()> {
        Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `ip netns` makes its files without any right to open them, before it mounts a namespace on one and until after it
/// has unmounted it. Nobody without CAP_DAC_OVERRIDE can tell otherwise that nothing is there.
fn opened_again(path: &Path, refused: io::Error) -> io::Result<File> {
    match statfs(path) {
        // Mounted just now, or it is refused for good.
        Ok(found) if found.filesystem_type() == NSFS_MAGIC => File::open(path),
        Ok(_) | Err(Errno::ENOENT) => Err(no_namespace(path)),
        Err(_) => Err(refused),
    }
}

/// As if it were not there.
fn no_namespace(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} is not a network namespace", path.display()))
}

/// include/uapi/linux/nsfs.h: `_IO(0xb7, 3)`.
const NS_GET_NSTYPE: nix::libc::Ioctl = 0xb703;

/// Whether a namespace that could not be opened, or the process that it was found by, has ended.
pub fn is_over(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// Paths of the network namespaces that a process or a known folder holds, other than `but`, each once.
/// They are not opened; what ends meanwhile can't be.
pub fn others(but: &NetNs) -> impl Iterator<Item = PathBuf> + use<> {
    let mut seen = BTreeSet::from([but.inode]);
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    // Where /var/run leads to /run, each once.
    let folders: BTreeSet<_> =
        FOLDERS.into_iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
    let held = folders.into_iter().flat_map(entries).map(|entry| entry.path());
    let processes = entries("/proc".into())
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path().join("ns/net"));
    held.chain(processes)
        .filter(move |path| fs::metadata(path).is_ok_and(|metadata| seen.insert(metadata.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(NetNs::open(file.path()).unwrap_err().to_string().contains("not a network namespace"));
    }

    #[test]
    fn each_once_and_not_ours() {
        let ours = NetNs::current().unwrap();
        let inodes: Vec<_> =
            others(&ours).filter_map(|path| NetNs::open(&path).ok()).map(|netns| netns.inode()).collect();
        let distinct: BTreeSet<_> = inodes.iter().copied().collect();
        assert_eq!(inodes.len(), distinct.len());
        assert!(!distinct.contains(&ours.inode()));
    }
}
