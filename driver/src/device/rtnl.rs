//! One rtnetlink socket in one network namespace, with a bound on every request.
use std::{
    io,
    os::fd::{FromRawFd as _, IntoRawFd as _},
    sync::OnceLock,
    time::Duration,
};

use futures_util::{Stream, TryStreamExt as _};
use netlink_packet_core::ErrorMessage;
use netlink_sys::{Socket, TokioSocket, protocols::NETLINK_ROUTE};
use tokio::{runtime::Runtime, sync::Mutex, task::JoinHandle};

use super::{
    netns::NetNs,
    raw::{Raw, attributes},
};
use crate::fault;

/// How long the kernel may take for one answer. Requests have no timeout of their own, and an answer
/// that the crate can't decode never ends its stream.
pub(super) const REQUEST: Duration = Duration::from_secs(3);

/// What the kernel refused, in its words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's error to a request.
    #[error("{what}: {source}{}", extack.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Kernel {
        /// What was asked for, in the operator's words.
        what: String,
        /// The errno.
        source: io::Error,
        /// The kernel's own explanation, where it gives one.
        extack: Option<String>,
    },
    /// The kernel did not answer.
    #[error("{what}: no answer from the kernel within {} s", REQUEST.as_secs())]
    Timeout {
        /// What was asked for.
        what: String,
    },
    /// The netlink socket itself failed, or answered with something else.
    #[error("{what}: {reason}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// The crate's words.
        reason: String,
    },
}

/// The device room's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(feature = "faults")]
impl From<fault::Injected> for Error {
    fn from(injected: fault::Injected) -> Self {
        Self::io("a request", injected.into())
    }
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Kernel { what: what.into(), source, extack: None }
    }

    pub(super) fn netlink(what: String, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                let source = io::Error::from_raw_os_error(message.raw_code().saturating_neg());
                Self::Kernel { what, source, extack: extack(&message) }
            }
            other => Self::Protocol { what, reason: other.to_string() },
        }
    }

    /// The errno, where the kernel answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            Self::Timeout { .. } | Self::Protocol { .. } => None,
        }
    }

    /// Whether the kernel has no such netdev, address or route.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(nix::libc::ENODEV | nix::libc::ENOENT | nix::libc::ESRCH | nix::libc::EADDRNOTAVAIL)
        )
    }

    /// Whether it is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(nix::libc::EEXIST)
    }
}

/// The text of `NLMSGERR_ATTR_MSG`, which follows the 16 bytes of the request's header.
fn extack(message: &ErrorMessage) -> Option<String> {
    let (_, text) = attributes(message.header.get(16..)?).find(|(kind, _)| *kind == 1)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// A handle to rtnetlink in one network namespace. Dropping it closes the socket, which matters: an
/// open one keeps a dead namespace, and the netdevs in it, alive.
#[derive(Debug)]
pub struct Rtnl {
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
    raw: Raw,
    /// A socket has one dump at a time; the kernel refuses a second with EBUSY.
    dumping: Mutex<()>,
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Rtnl {
    /// In the namespace of the calling thread.
    pub fn new() -> io::Result<Self> {
        Self::on(socket()?, socket()?)
    }

    /// In another namespace. The socket is made on a thread that enters it and ends.
    pub fn within(netns: &NetNs) -> io::Result<Self> {
        let (socket, raw) = netns.run(|| io::Result::Ok((socket()?, socket()?)))??;
        Self::on(socket, raw)
    }

    fn on(socket: Socket, raw: Socket) -> io::Result<Self> {
        let raw = Raw::on(raw)?;
        let runtime = runtime()?;
        let _entered = runtime.enter();
        // SAFETY: the descriptor was just taken out of `Socket`, so this is its only owner.
        let socket = unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) };
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        Ok(Self { handle, connection: runtime.spawn(connection), raw, dumping: Mutex::default() })
    }

    pub(super) fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    pub(super) fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Collects the answers to a dump, which `start` asks for once the last one has all of its own.
    pub(super) async fn dump<T, S>(
        &self,
        what: impl Into<String>,
        start: impl FnOnce() -> S,
    ) -> Result<Vec<T>>
    where
        S: Stream<Item = std::result::Result<T, rtnetlink::Error>>,
    {
        let _dumping = self.dumping.lock().await;
        answers(what, start()).await
    }
}

/// Where netlink's sockets are driven. The kernel carries a request out while it is being sent, and takes
/// its time if somebody else holds its lock; the runtime that answers Docker shall not wait with it.
pub(super) fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime, io::ErrorKind>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("netlink")
            .enable_all()
            .build()
            .map_err(|error| error.kind())
    });
    runtime.as_ref().map_err(|kind| io::Error::from(*kind))
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    Ok(socket)
}

/// Runs a request that has no answer but its acknowledgement.
pub(super) async fn acked(
    what: impl Into<String>,
    request: impl Future<Output = std::result::Result<(), rtnetlink::Error>>,
) -> Result<()> {
    let what = what.into();
    let asked = async {
        fault::point!("netlink.ask");
        let answer = request.await;
        fault::point!("netlink.answered");
        Result::<_>::Ok(answer)
    };
    let Ok(answer) = tokio::time::timeout(REQUEST, asked).await else { return Err(Error::Timeout { what }) };
    match answer? {
        // The crate's property requests take an acknowledgement, which has no code, for an error.
        Err(rtnetlink::Error::NetlinkError(message)) if message.code.is_none() => Ok(()),
        answer => answer.map_err(|error| Error::netlink(what, error)),
    }
}

/// Collects the answers to a get or a dump.
pub(super) async fn answers<T>(
    what: impl Into<String>,
    stream: impl Stream<Item = std::result::Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>> {
    let what = what.into();
    match tokio::time::timeout(REQUEST, stream.try_collect()).await {
        Ok(answer) => answer.map_err(|error| Error::netlink(what, error)),
        Err(_) => Err(Error::Timeout { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extack_is_read_behind_the_header() {
        let mut message = ErrorMessage::default();
        message.header = vec![0; 16];
        // An unknown attribute of 5 bytes (padded to 8), then the text.
        message.header.extend([5, 0, 9, 0, 1, 0, 0, 0]);
        message.header.extend([4 + 4, 0, 1, 0]);
        message.header.extend(*b"no!\0");
        assert_eq!(extack(&message).as_deref(), Some("no!"));
        message.header.truncate(20);
        assert_eq!(extack(&message), None);
    }
}
