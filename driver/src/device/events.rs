//! What happens to netdevs and their qdiscs, on the host and in all namespaces that it has an id for: those
//! that a netdev of it was moved to have one.
//!
//! The socket is in the host's namespace: one in a container's would keep that alive, and the netdevs in it
//! from coming home (`sk_alloc` takes a reference; `NETLINK_LISTEN_ALL_NSID` takes none).
use std::{collections::BTreeSet, io, os::fd::AsRawFd as _};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

use super::netlink::message_at;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_TC: u32 = 4;

/// Links, qdiscs, filters: made, changed, deleted. The netdev's number is at the same place in all of them.
const KINDS: [u16; 6] = [16, 17, 36, 37, 44, 45];
const IFINDEX: usize = 4;

/// How much is read before it is answered.
const BATCH: usize = 256;

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    /// Something to netdevs of these numbers, in whatever namespace.
    Netdevs(BTreeSet<u32>),
    /// More than could be heard.
    Anything,
}

/// Hears of it. To be used within a tokio runtime.
pub struct Events(AsyncFd<Socket>);

impl Events {
    /// From now on.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_listen_all_namespaces(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(RTNLGRP_LINK)?;
        socket.add_membership(RTNLGRP_TC)?;
        socket.set_non_blocking(true)?;
        tracing::debug!(fd = socket.as_raw_fd(), "listening to all namespaces");
        // SAFETY: the socket owns its descriptor, keeps it as long as it lives, and is never given out.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(socket?))
    }

    /// Waits for something to happen. No netdev: much has, and none of it to one.
    pub async fn next(&self) -> io::Result<Changed> {
        loop {
            let mut guard = self.0.readable().await?;
            let (mut netdevs, mut all) = (BTreeSet::new(), false);
            for _ in 0..BATCH {
                match self.0.get_ref().recv_from_full() {
                    Ok((received, _)) => netdevs.extend(numbers(&received)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        guard.clear_ready();
                        all = true;
                        break;
                    }
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                        return Ok(Changed::Anything);
                    }
                    Err(error) => return Err(error),
                }
            }
            // Who is kept busy by what is of no concern says so, too: it is to take turns with others.
            if !netdevs.is_empty() || !all {
                return Ok(Changed::Netdevs(netdevs));
            }
        }
    }
}

/// The numbers of the netdevs that messages are about.
fn numbers(mut rest: &[u8]) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some((header, body)) = message_at(&mut rest) {
        let number = body.get(IFINDEX..).and_then(|at| at.first_chunk()).copied().map(u32::from_ne_bytes);
        numbers.extend(number.filter(|_| KINDS.contains(&header.kind)));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, ifindex: u32) -> Vec<u8> {
        let header = [28_u32.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 10]].concat();
        [header, vec![0; 4], ifindex.to_ne_bytes().to_vec(), vec![0; 4]].concat()
    }

    #[test]
    fn each_message_is_about_a_netdev() {
        let datagram = [message(17, 7), message(20, 8), message(45, 9)].concat();
        assert_eq!(numbers(&datagram), [7, 9]);
        assert_eq!(numbers(&datagram[..50]), [7]);
        assert!(numbers(&[]).is_empty());
    }
}
