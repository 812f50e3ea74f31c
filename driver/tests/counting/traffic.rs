//! Generators that know what they sent.
use std::{
    io::{Read, Write},
    mem,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    thread,
};

use nix::libc;

use super::lab::{Frames, Lab};

pub const ETHERNET: u64 = 14;
pub const UDP_OVER_IPV4: u64 = 20 + 8;
const PORT: u16 = 4000;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Container,
    Far,
}

impl Lab {
    fn sides(&self, from: From) -> [&super::lab::Netns; 2] {
        match from {
            From::Container => [&self.container, &self.far],
            From::Far => [&self.far, &self.container],
        }
    }

    fn destination(from: From, ipv6: bool, port: u16) -> SocketAddr {
        use super::lab::{DUT_IP, DUT_IP6, FAR_IP, FAR_IP6};
        let ip = match (from, ipv6) {
            (From::Container, false) => FAR_IP,
            (From::Container, true) => FAR_IP6,
            (From::Far, false) => DUT_IP,
            (From::Far, true) => DUT_IP6,
        };
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    /// Sends UDP datagrams with payloads of these sizes. The result is as on the wire.
    pub fn udp(&self, from: From, sizes: impl IntoIterator<Item = usize>) -> Frames {
        let mut sent = Frames::default();
        self.udp_with(from, |socket, to| {
            let payload = vec![0x55; 65_000];
            for size in sizes {
                socket.send_to(&payload[..size], to).unwrap();
                sent += Frames { packets: 1, bytes: size as u64 + ETHERNET + UDP_OVER_IPV4 };
            }
        });
        sent
    }

    /// Sends UDP payloads that the kernel is to cut into datagrams of `segment`.
    pub fn udp_gso(&self, from: From, segment: usize, sizes: &[usize]) -> Frames {
        let mut sent = Frames::default();
        self.udp_with(from, |socket, to| {
            let payload = vec![0x55; 65_000];
            setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, i32::try_from(segment).unwrap());
            for &size in sizes {
                socket.send_to(&payload[..size], to).unwrap();
                let packets = size.div_ceil(segment) as u64;
                sent += Frames { packets, bytes: size as u64 + packets * (ETHERNET + UDP_OVER_IPV4) };
            }
        });
        sent
    }

    fn udp_with(&self, from: From, send: impl FnOnce(&UdpSocket, SocketAddr)) {
        let [sender, receiver] = self.sides(from);
        let to = Self::destination(from, false, PORT);
        // Somebody has to listen, or ICMP errors come back.
        let _listener = receiver.within(|| UdpSocket::bind(to).unwrap());
        let socket = sender.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        send(&socket, to);
    }

    /// Sends `length` bytes by TCP.
    pub fn tcp(&self, from: From, ipv6: bool, length: usize) -> Transfer {
        let [sender, receiver] = self.sides(from);
        let to = Self::destination(from, ipv6, PORT);
        let listener = receiver.within(|| TcpListener::bind(to).unwrap());
        let mut stream = sender.within(|| TcpStream::connect(to).unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            let mut arrived = 0;
            while arrived < length {
                match peer.read(&mut buffer).unwrap() {
                    0 => break,
                    n => arrived += n,
                }
            }
            (peer, arrived)
        });
        let chunk = vec![0x55; 1 << 17];
        let mut left = length;
        while left > 0 {
            let n = left.min(chunk.len());
            stream.write_all(&chunk[..n]).unwrap();
            left -= n;
        }
        let (peer, arrived) = reader.join().unwrap();
        assert_eq!(arrived, length);
        self.settle();
        let info = TcpInfo::of(&stream);
        let network = if ipv6 { 40 } else { 20 };
        // 12 bytes of timestamps; the SYN has 20 bytes of options.
        let headers = ETHERNET + network + 20 + 12;
        let sent =
            Frames { packets: info.segments_out, bytes: info.bytes_sent + info.segments_out * headers + 8 };
        Transfer { sent, _open: [stream, peer] }
    }
}

/// A TCP connection that isn't closed yet.
pub struct Transfer {
    /// What the sender's socket says that it has sent, the SYN included.
    pub sent: Frames,
    _open: [TcpStream; 2],
}

struct TcpInfo {
    segments_out: u64,
    bytes_sent: u64,
}

impl TcpInfo {
    fn of(stream: &TcpStream) -> Self {
        let mut info = [0_u8; 256];
        let mut len = 256;
        // SAFETY: the kernel writes at most `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0);
        assert!(len >= 208, "this kernel's struct tcp_info has no tcpi_bytes_sent");
        Self {
            segments_out: u32::from_ne_bytes(info[136..140].try_into().unwrap()).into(),
            bytes_sent: u64::from_ne_bytes(info[200..208].try_into().unwrap()),
        }
    }
}

pub fn setsockopt(fd: RawFd, level: i32, name: i32, value: i32) {
    let size = libc::socklen_t::try_from(mem::size_of::<i32>()).unwrap();
    // SAFETY: the value is an int that lives as long as the call.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) };
    assert_eq!(result, 0, "setsockopt {name}: {}", std::io::Error::last_os_error());
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// Checksums in hardware; without them no segmentation there either.
pub const ETHTOOL_STXCSUM: u32 = 0x17;
pub const ETHTOOL_SGRO: u32 = 0x2c;

pub fn ethtool(name: &str, command: u32, value: u32) {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut [u32; 2],
        rest: [u8; 16],
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut data = [command, value];
    let mut request = Request { name: [0; 16], data: &raw mut data, rest: [0; 16] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: laid out as struct ifreq with ifr_data, which points to a struct ethtool_value.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    assert_eq!(result, 0, "ethtool {command:#x}: {}", std::io::Error::last_os_error());
}
