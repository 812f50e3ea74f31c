//! Frames made by hand, as a hostile container can.
use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use docker_passthrough::device::mac::Mac;
use nix::libc;

use super::{
    lab::{DUT, DUT_MAC, FAR, FAR_MAC, Frames, Lab, Netns},
    traffic::{From, setsockopt},
};

/// `struct virtio_net_hdr`'s `gso_type`.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Gso {
    Tcp4 = 1,
    /// Cut into IP fragments.
    Ufo = 3,
    Tcp6 = 4,
    /// Cut into datagrams.
    UdpL4 = 5,
}

/// A packet socket.
pub struct Packets {
    socket: OwnedFd,
    ifindex: u32,
    protocol: u16,
}

impl Lab {
    pub fn packets(&self, from: From) -> Packets {
        match from {
            From::Container => Packets::on(&self.container, DUT),
            From::Far => Packets::on(&self.far, FAR),
        }
    }
}

impl Packets {
    /// Sends through a netdev, which puts nothing before what is sent.
    pub fn on(netns: &Netns, name: &str) -> Self {
        let ifindex = netns.ifindex(name);
        let socket = netns.within(|| {
            // SAFETY: no pointers.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
            // SAFETY: just opened.
            unsafe { OwnedFd::from_raw_fd(fd) }
        });
        Self { socket, ifindex, protocol: 0 }
    }

    /// Says what EtherType it is, where the kernel can't tell by the frame.
    pub fn with_ethertype(self, ethertype: u16) -> Self {
        Self { protocol: ethertype.to_be(), ..self }
    }

    /// Around the qdisc, and so around TCX.
    pub fn bypassing(self) -> Self {
        setsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1);
        self
    }

    pub fn with_vnet_header(self) -> Self {
        setsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1);
        self
    }

    /// Sends; a frame that a TCX program drops is no error (`NET_XMIT_DROP` may show as ENOBUFS).
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = self.protocol;
        address.sll_ifindex = i32::try_from(self.ifindex).unwrap();
        // SAFETY: frame and address live as long as the call, and their sizes are right.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                libc::socklen_t::try_from(mem::size_of_val(&address)).unwrap(),
            )
        };
        let error = io::Error::last_os_error();
        assert!(
            sent == frame.len().cast_signed() || error.raw_os_error() == Some(libc::ENOBUFS),
            "sendto: {error}"
        );
    }
}

const IFF_TUN: u16 = 0x0001;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// A tap device, as a virtual machine's netdev: what is written comes in on it, after a virtio header.
pub fn tap(netns: &Netns, name: &str) -> File {
    tuntap(netns, name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
}

/// A netdev whose frames are raw IP packets.
pub fn tun(netns: &Netns, name: &str) -> File {
    tuntap(netns, name, IFF_TUN | IFF_NO_PI)
}

fn tuntap(netns: &Netns, name: &str, flags: u16) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    netns.within(|| {
        let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: as long as struct ifreq, and laid out so.
        let result = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(result, 0, "TUNSETIFF: {}", io::Error::last_os_error());
        tap
    })
}

/// The MACs of an honest frame.
pub fn macs(from: From) -> (Mac, Mac) {
    match from {
        From::Container => (FAR_MAC, DUT_MAC),
        From::Far => (DUT_MAC, FAR_MAC),
    }
}

/// A frame with a payload nobody understands, after any number of VLAN tags.
pub fn frame((to, source): (Mac, Mac), tags: &[u16], payload: usize) -> Vec<u8> {
    let mut frame = [to.0, source.0].concat();
    for tag in tags {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    // A local experiment (IEEE 802).
    frame.extend([0x88, 0xb5]);
    frame.resize(frame.len() + payload, 0x55);
    frame
}

/// A frame with a virtio header before it that asks for segmentation, and what it is on the wire.
pub fn gso(macs: (Mac, Mac), tags: &[u16], kind: Gso, size: usize, payload: usize) -> (Vec<u8>, Frames) {
    let mut headers = frame(macs, tags, 0);
    let v6 = matches!(kind, Gso::Tcp6);
    let ethertype: u16 = if v6 { 0x86dd } else { 0x0800 };
    let at = headers.len() - 2;
    headers[at..].copy_from_slice(&ethertype.to_be_bytes());
    let link = headers.len();
    let (protocol, transport): (u8, usize) = match kind {
        Gso::Tcp4 | Gso::Tcp6 => (6, 20 + 12),
        Gso::Ufo | Gso::UdpL4 => (17, 8),
    };
    let length = transport + payload;
    if v6 {
        headers.extend([0x60, 0, 0, 0]);
        // A destination options header of 8 bytes, padded.
        headers.extend(u16::try_from(length + 8).unwrap().to_be_bytes());
        headers.extend([60, 64]);
        headers.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        headers.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
        headers.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
    } else {
        headers.extend([0x45, 0]);
        headers.extend(u16::try_from(20 + length).unwrap().to_be_bytes());
        // Nobody's addresses, so that nobody answers.
        headers.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 9, 0, 3, 10, 9, 0, 4]);
        let sum = checksum(&headers[link..]);
        headers[link + 10..link + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let network = headers.len();
    headers.extend([0x12, 0x34, 0, 9]);
    if transport == 8 {
        headers.extend(u16::try_from(length).unwrap().to_be_bytes());
        headers.extend([0, 0]);
    } else {
        headers.extend([0, 0, 0, 1, 0, 0, 0, 1, 8 << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        headers.extend([1; 12]);
    }
    let all = headers.len();
    let checksum_at: u16 = if transport == 8 { 6 } else { 16 };
    let u16 = |n: usize| u16::try_from(n).unwrap().to_ne_bytes();
    // flags: VIRTIO_NET_HDR_F_NEEDS_CSUM
    let mut bytes = vec![1, kind as u8];
    bytes.extend(u16(all));
    bytes.extend(u16(size));
    bytes.extend(u16(network));
    bytes.extend(checksum_at.to_ne_bytes());
    bytes.extend(headers);
    bytes.resize(bytes.len() + payload, 0x55);
    // IP fragments have no UDP header but the first's, which is payload to them.
    let (each, cut) = if matches!(kind, Gso::Ufo) { (network, payload + 8) } else { (all, payload) };
    let packets = cut.div_ceil(size) as u64;
    (bytes, Frames { packets, bytes: cut as u64 + packets * each as u64 })
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0)
}
