//! Packet sockets, as a container with NET_RAW has them.
use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use nix::{libc, net::if_::if_nametoindex};

use super::tcx;

/// One that sends on a netdev, and was opened where that was at the time.
pub struct PacketSocket {
    socket: OwnedFd,
    ifindex: u32,
}

impl PacketSocket {
    /// In the namespace at `netns`.
    #[track_caller]
    pub fn open(netns: &Path, netdev: &str) -> Self {
        tcx::within(netns, || {
            let ifindex = if_nametoindex(netdev).expect("a netdev");
            // SAFETY: no pointers.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
            // SAFETY: just opened, for nobody else.
            Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, ifindex }
        })
    }

    /// From now on around the qdisc.
    #[track_caller]
    pub fn bypassing(self) -> Self {
        let on: libc::c_int = 1;
        // SAFETY: the value lives as long as the call, and its size is right.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                libc::socklen_t::try_from(size_of_val(&on)).expect("four"),
            )
        };
        assert_eq!(set, 0, "PACKET_QDISC_BYPASS: {}", io::Error::last_os_error());
        self
    }

    /// Sends a whole frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("a family");
        address.sll_ifindex = self.ifindex.cast_signed();
        // SAFETY: frame and address live as long as the call, and their sizes are right.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                libc::socklen_t::try_from(size_of_val(&address)).expect("twenty"),
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A broadcast of a protocol that nobody speaks, from `mac`.
pub fn frame(mac: &str) -> Vec<u8> {
    let octets = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("an octet"));
    // A local experiment (IEEE 802).
    [vec![0xff; 6], octets.collect(), vec![0x88, 0xb5], vec![0; 46]].concat()
}
