//! Where scrapers connect: `--metrics`.
use std::{fmt, io, net, os::unix, path::PathBuf, str::FromStr};

use crate::http::listener::{self, Listener, SocketFile};

/// `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port, as the system resolves them.
    Tcp(String),
    /// A socket, for root only.
    Unix(PathBuf),
}

/// Why nobody can scrape.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no address.
    #[error("{0}: must be HOST:PORT, such as 127.0.0.1:9639 or [::1]:9639, or unix: and an absolute path")]
    Malformed(String),
    /// The system's reason.
    #[error("{address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The socket can't be made.
    #[error(transparent)]
    Socket(#[from] listener::Error),
}

/// Somebody can connect.
#[derive(Debug)]
pub enum Listening {
    /// Over TCP.
    Tcp(net::TcpListener),
    /// At a socket of ours.
    Unix(unix::net::UnixListener, Option<SocketFile>),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let is_file = path.is_absolute() && path.file_name().is_some() && !text.ends_with('/');
            return is_file.then_some(Self::Unix(path)).ok_or_else(malformed);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        let is_port = port.parse().is_ok_and(|port: u16| port != 0) && !port.starts_with('+');
        if host.is_empty() || bare_v6 || !is_port {
            return Err(malformed());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Listens there.
    pub fn listen(&self) -> Result<Listening, Error> {
        match self {
            Self::Tcp(address) => {
                let failed = |source| Error::Listen { address: address.clone(), source };
                let socket = net::TcpListener::bind(address).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                Ok(Listening::Tcp(socket))
            }
            Self::Unix(path) => {
                let Listener { socket, file } = listener::make(path)?;
                let failed = |source| Error::Listen { address: self.to_string(), source };
                socket.set_nonblocking(true).map_err(failed)?;
                Ok(Listening::Unix(socket, file))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_or_a_path() {
        for good in ["127.0.0.1:9639", "[::1]:9639", "localhost:1", "unix:/run/metrics.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        let bad = [
            "",
            ":",
            "9639",
            ":9639",
            "::1:9639",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:+1",
            "localhost:65536",
            "unix:",
            "unix:x.sock",
            "unix:/",
            "unix:/run/",
            "unix:/run/..",
        ];
        for bad in bad {
            let error = bad.parse::<Address>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{bad}: must be HOST:PORT")), "{error}");
        }
    }
}
