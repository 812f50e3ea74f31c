//! One rtnetlink socket in one network namespace, with a bound on every request.
use std::{io, time::Duration};

use netlink_packet_core::{DecodeError, ErrorMessage, NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{
    netlink::{Raw, attributes},
    netns::NetNs,
};
use crate::fault;

/// How long the kernel may take for one answer, once it has the request.
pub(super) const REQUEST: Duration = Duration::from_secs(3);

/// How long a request may wait, behind others and for the kernel's lock: making VFs holds that for seconds. On a call's
/// own thread nothing ends that wait; Docker is answered in time all the same.
pub(super) const TURN: Duration = Duration::from_secs(10);

/// Its turn did not come.
pub(super) fn late(what: String) -> Error {
    let reason = format!("the kernel has not taken the request within {} s", TURN.as_secs());
    Error::Protocol { what, reason }
}

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

    pub(super) fn refused(what: String, message: &ErrorMessage) -> Self {
        let source = io::Error::from_raw_os_error(message.raw_code().saturating_neg());
        Self::Kernel { what, source, extack: extack(message) }
    }

    /// A netdev that must be there is not.
    pub(super) fn gone(what: impl Into<String>) -> Self {
        Self::io(what, io::Error::from_raw_os_error(nix::libc::ENODEV))
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

/// rtnetlink in one network namespace: one request after the other. Dropping it closes the socket, which matters: an
/// open one keeps a dead namespace, and the netdevs in it, alive.
#[derive(Debug)]
pub struct Rtnl(Raw);

impl Rtnl {
    /// In the namespace of the calling thread.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Raw::on(socket()?)?))
    }

    /// In another namespace. The socket is made on a thread that enters it and ends.
    pub fn within(netns: &NetNs) -> io::Result<Self> {
        Ok(Self(Raw::on(netns.run(socket)??)?))
    }

    pub(super) fn raw(&self) -> &Raw {
        &self.0
    }

    /// Has something done, whose only answer is its acknowledgement.
    pub(super) async fn acked(
        &self,
        what: impl Into<String>,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        let what = what.into();
        let asked = async {
            fault::point!("netlink.ask");
            let answer = self.raw().ask(&what, request, NLM_F_ACK | flags).await;
            fault::point!("netlink.answered");
            answer
        };
        let answer = tokio::time::timeout(TURN, asked).await;
        answer.unwrap_or_else(|_| Err(late(what.clone()))).map(drop)
    }

    /// The answers to a dump that are `wanted`, decoded.
    pub(super) async fn dump<T>(
        &self,
        what: impl Into<String>,
        request: RouteNetlinkMessage,
        wanted: impl Fn(&[u8]) -> bool,
        decode: impl Fn(&[u8]) -> std::result::Result<T, DecodeError>,
    ) -> Result<Vec<T>> {
        let what = what.into();
        let bodies = self.raw().ask(&what, request, NLM_F_DUMP).await?;
        let decoded = bodies.iter().filter(|body| wanted(body)).map(|body| decode(body));
        decoded
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::Protocol { what, reason: error.to_string() })
    }
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    Ok(socket)
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
