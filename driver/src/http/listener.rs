//! A Unix socket: made, or taken from systemd.
use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::FromRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A driver answers there.
    #[error("{}: a driver listens there already: end that one, or use another --name, --socket or --metrics", path.display())]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// Something is in the way that we did not make.
    #[error("{}: is there, and is no socket: move it away, or use another path", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system's reason.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// systemd handed over something else.
    #[error("socket activation: expected one listening Unix socket, got {what}")]
    Activation {
        /// What came.
        what: String,
    },
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    /// Where clients connect.
    pub socket: UnixListener,
    /// Its file, if it is ours to remove.
    pub file: Option<SocketFile>,
}

/// Removes the socket's file at the end, unless another driver has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "removing the socket");
        }
    }
}

/// The socket that systemd passed, else one made at `path`.
pub fn listen(path: &Path) -> Result<Listener, Error> {
    match passed()? {
        Some(socket) => Ok(Listener { socket, file: None }),
        None => make(path),
    }
}

/// The socket that systemd passed (`sd_listen_fds(3)`), if it did. Asked for once.
pub fn passed() -> Result<Option<UnixListener>, Error> {
    let passed: Vec<_> =
        sd_notify::listen_fds().map_err(|error| Error::Activation { what: error.to_string() })?.collect();
    match *passed {
        [] => Ok(None),
        [fd] => {
            // SAFETY: the service manager passed this descriptor to this process, and this is called once: nobody
            // else has it.
            let socket = unsafe { UnixListener::from_raw_fd(fd) };
            socket.local_addr().map_err(|error| Error::Activation { what: error.to_string() })?;
            Ok(Some(socket))
        }
        _ => Err(Error::Activation { what: format!("{} descriptors", passed.len()) }),
    }
}

/// One made at `path`, for root only. A stale socket, to which nobody answers, is replaced; a live one is not.
pub fn make(path: &Path) -> Result<Listener, Error> {
    let at = |source| Error::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        // The engine keeps what it runs with there, and makes the folder so itself.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {
            if UnixStream::connect(path).is_ok() {
                return Err(Error::Live { path: path.to_owned() });
            }
            fs::remove_file(path).map_err(at)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(at(source)),
    }
    // Under a name of its own until it is root's alone: Docker looks for files that end in .sock.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let socket = UnixListener::bind(&fresh).map_err(at)?;
    let made = (|| {
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(fs::metadata(path)?.ino())
    })();
    match made {
        Ok(inode) => Ok(Listener { socket, file: Some(SocketFile { path: path.to_owned(), inode }) }),
        Err(source) => {
            let _ = fs::remove_file(&fresh);
            Err(at(source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_is_replaced_live_and_foreign_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins/x.sock");
        let first = make(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(matches!(make(&path), Err(Error::Live { .. })));
        // Killed: the file stays, and nobody listens.
        let stale = UnixListener::bind(folder.path().join("stale.sock")).unwrap();
        drop(stale);
        let replaced = make(&folder.path().join("stale.sock")).unwrap();
        drop(replaced);
        assert!(!folder.path().join("stale.sock").exists());
        drop(first);
        assert!(!path.exists());
        // Replaced while it was ours: the other's stays.
        let first = make(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"").unwrap();
        assert!(matches!(make(&path), Err(Error::NoSocket { .. })));
    }
}
