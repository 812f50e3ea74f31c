//! One netlink socket, and one request after the other on it; blocking.
use std::{
    io,
    num::NonZeroI32,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use netlink_packet_core::{
    ErrorMessage, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use super::rtnl::{Error, REQUEST, Result, TURN, late};
use crate::blocking;

const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// How often, and for how long, a list is asked for that changes each time. A container can have a long one, and
/// change it all the time.
const ATTEMPTS: u32 = 10;
const ASKING: Duration = Duration::from_secs(1);

/// So many answers more than were asked for are read past. A container can make any number, for which the socket is
/// given up.
const UNREAD: u32 = 4096;

/// A socket that blocks, for as long as an answer may take.
#[derive(Clone, Debug)]
pub(super) struct Raw(Arc<Mutex<Connection>>);

/// A socket that waits so long for an answer, and takes none but the kernel's: others might send some of their own in a
/// container.
pub(super) fn to_kernel(socket: Socket, patience: Duration) -> io::Result<Socket> {
    let timeout = TimeVal::new(patience.as_secs().cast_signed(), 0);
    setsockopt(&socket.as_fd(), ReceiveTimeout, &timeout)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// One socket, and the number of its last request.
pub(super) struct Connection {
    socket: Socket,
    sequence: u32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("fd", &self.socket.as_raw_fd()).finish_non_exhaustive()
    }
}

/// Why there is no answer.
pub(super) enum Failure {
    Kernel(ErrorMessage),
    Io(io::Error),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Kernel(message) => Self::from_raw_os_error(message.raw_code().saturating_neg()),
            Failure::Io(error) => error,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Raw {
    pub fn on(socket: Socket) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Connection::on(socket)?))))
    }

    /// The bodies of at most so many answers to a request; blocks.
    pub fn ask_here(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        limit: usize,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(connection.exchange(message.into(), flags, limit)?)
    }

    /// Of any number of answers to a request the bodies of those that are wanted; blocks.
    pub fn find_here(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(connection.exchange_for(message.into(), flags, usize::MAX, wanted)?)
    }

    /// The bodies of the answers to a request.
    pub async fn ask(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<Vec<u8>>> {
        self.ask_some(what, message, flags, usize::MAX).await
    }

    /// The same; of more than `limit` answers the first.
    pub async fn ask_some(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let connection = Arc::clone(&self.0);
        let asked = blocking::run(move || {
            connection.lock().unwrap_or_else(PoisonError::into_inner).exchange(message.into(), flags, limit)
        });
        let what = what.to_owned();
        let Ok(asked) = tokio::time::timeout(TURN, asked).await else { return Err(late(what)) };
        match asked {
            Ok(Ok(bodies)) => Ok(bodies),
            Ok(Err(Failure::Kernel(message))) => Err(Error::refused(what, &message)),
            Ok(Err(Failure::Io(error))) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::Timeout { what })
            }
            Ok(Err(Failure::Io(error))) => Err(Error::Protocol { what, reason: error.to_string() }),
            Err(panic) => Err(Error::Protocol { what, reason: panic.to_string() }),
        }
    }
}

impl Connection {
    /// One that waits for an answer no longer than the kernel may take.
    pub fn on(socket: Socket) -> io::Result<Self> {
        Ok(Self { socket: to_kernel(socket, REQUEST)?, sequence: 0 })
    }

    /// The bodies of at most so many answers to a request; blocks. A list that the kernel says has changed while it
    /// was handing it out is asked for again, as it may lack some.
    pub fn exchange<T: NetlinkSerializable>(
        &mut self,
        request: NetlinkMessage<T>,
        flags: u16,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        self.exchange_for(request, flags, limit, &|_| true)
    }

    fn exchange_for<T: NetlinkSerializable>(
        &mut self,
        mut request: NetlinkMessage<T>,
        flags: u16,
        limit: usize,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let (mut asked, begun) = (0, Instant::now());
        loop {
            let (bodies, interrupted) = self.try_exchange(&mut request, flags, limit, wanted)?;
            asked += 1;
            // In a container's namespace that may be its doing, and nobody else is to suffer for it.
            if !interrupted || asked == ATTEMPTS || begun.elapsed() > ASKING {
                return Ok(bodies);
            }
        }
    }

    /// The answers, and whether the list was interrupted.
    fn try_exchange<T: NetlinkSerializable>(
        &mut self,
        request: &mut NetlinkMessage<T>,
        flags: u16,
        limit: usize,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(Vec<Vec<u8>>, bool), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (mut bodies, mut interrupted, mut others) = (Vec::new(), false, 0);
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let mut rest = received.as_slice();
            while let Some((header, body)) = message_at(&mut rest) {
                if header.sequence != self.sequence {
                    // Of a request that was given up.
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        // The first of many are what they are.
                        return outcome(body).map(|()| (bodies, interrupted && others == 0));
                    }
                    _ if !wanted(body) => {}
                    // A dump that is not read to its end keeps the socket from the next.
                    _ if bodies.len() == limit && others < UNREAD => others += 1,
                    _ if bodies.len() == limit => return Err(io::Error::other("there are too many").into()),
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }
}

pub(super) struct Header {
    pub kind: u16,
    flags: u16,
    sequence: u32,
}

/// Takes the first message off `rest`.
pub(super) fn message_at<'a>(rest: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
    let len = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let flags = u16::from_ne_bytes(*rest.get(6..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
    let body = rest.get(NLMSG_HEADER..len)?;
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((Header { kind, flags, sequence }, body))
}

/// What an error, an acknowledgement or the end of a dump says.
pub(super) fn outcome(body: &[u8]) -> Result<(), Failure> {
    let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
    let Some(code) = NonZeroI32::new(code) else { return Ok(()) };
    let mut message = ErrorMessage::default();
    message.code = Some(code);
    message.header = body.get(4..).unwrap_or_default().to_vec();
    Err(Failure::Kernel(message))
}

/// The attributes in `rest`; what is cut off at its end is left out.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        // NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of it.
        Some((kind & 0x3fff, value))
    })
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_ROUTE;

    use super::*;

    /// Without root nobody may send to others at all.
    #[test]
    fn answers_come_from_nobody_but_the_kernel() {
        let ours = Connection::on(Socket::new(NETLINK_ROUTE).unwrap()).unwrap();
        let mut address = SocketAddr::new(0, 0);
        ours.socket.get_address(&mut address).unwrap();
        assert_ne!(address.port_number(), 0);
        let theirs = Socket::new(NETLINK_ROUTE).unwrap();
        let forged = [16_u8, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert!(theirs.send_to(&forged, &address, 0).is_err());
    }
}
