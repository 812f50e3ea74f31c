//! Ethernet frames, made by hand and seen as they are, tags included.
use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use docker_passthrough::device::mac::Mac;
use nix::libc;

use crate::support::{PATIENCE, command, frames::within, look::Place};

/// Everybody.
pub const BROADCAST: Mac = Mac([0xff; 6]);
/// A local experiment (IEEE 802): nothing answers it, and nobody else sends it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Tags of a VLAN, and of a VLAN around VLANs.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// A frame that arrives at all does so within this time, or is sent once more.
const ARRIVAL: Duration = Duration::from_millis(500);

/// A frame of ours, known by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub to: Mac,
    pub from: Mac,
    /// Whole tags (priority and VLAN), the outermost first.
    pub tags: Vec<u16>,
    pub number: u64,
}

impl Frame {
    /// One without a tag.
    pub fn new(to: Mac, from: Mac) -> Self {
        Self::tagged(to, from, &[])
    }

    /// One with tags.
    pub fn tagged(to: Mac, from: Mac, tags: &[u16]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { to, from, tags: tags.to_vec(), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// As long as the shortest on a wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.to.0, self.from.0].concat();
        for tag in &self.tags {
            bytes.extend(TAGS[0]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(ETHERTYPE);
        bytes.extend(self.number.to_be_bytes());
        bytes.resize(60 + 4 * self.tags.len(), 0x55);
        bytes
    }

    /// None if it is not ours. A NIC takes the outermost tag off, and hands it over beside the frame.
    fn parse(bytes: &[u8], outer: Option<u16>) -> Option<Self> {
        let (to, rest) = bytes.split_first_chunk()?;
        let (from, mut rest) = rest.split_first_chunk()?;
        let mut tags: Vec<u16> = outer.into_iter().collect();
        loop {
            let (kind, after) = rest.split_first_chunk::<2>()?;
            rest = after;
            if *kind == ETHERTYPE {
                break;
            }
            if !TAGS.contains(kind) {
                return None;
            }
            let (tag, after) = rest.split_first_chunk()?;
            tags.push(u16::from_be_bytes(*tag));
            rest = after;
        }
        let number = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self { to: Mac(*to), from: Mac(*from), tags, number })
    }
}

/// The VLAN in a tag.
pub fn vlan(tag: u16) -> u16 {
    tag & 0xfff
}

/// A packet socket on a netdev: sends any frame, and hears all.
pub struct Port {
    socket: OwnedFd,
    ifindex: i32,
}

impl Port {
    /// On a netdev, wherever that is.
    #[track_caller]
    pub fn open(place: &Place, netdev: &str) -> Self {
        let links: serde_json::Value =
            serde_json::from_str(&place.run(&format!("ip -j link show dev {netdev}"))).expect("JSON");
        let ifindex = i32::try_from(links[0]["ifindex"].as_u64().expect("an ifindex")).expect("an ifindex");
        let all = u16::try_from(libc::ETH_P_ALL).expect("an ethertype").to_be();
        let socket = within(place, || {
            // SAFETY: no pointers.
            let fd =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
            assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
            // SAFETY: just opened, and nobody else's.
            unsafe { OwnedFd::from_raw_fd(fd) }
        });
        let mut address = address(ifindex);
        address.sll_protocol = all;
        // SAFETY: the address lives as long as the call, and its size is right.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size(&address)) };
        assert_eq!(bound, 0, "binding to {netdev}: {}", io::Error::last_os_error());
        let port = Self { socket, ifindex };
        port.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32);
        // What arrived between socket() and bind() came from any netdev.
        while port.next(Duration::from_millis(1)).is_some() {}
        port
    }

    /// Hears also what is for others, if the netdev may.
    #[track_caller]
    pub fn promiscuous(self) -> Self {
        // SAFETY: all zero is a valid packet_mreq.
        let mut request: libc::packet_mreq = unsafe { mem::zeroed() };
        request.mr_ifindex = self.ifindex;
        request.mr_type = u16::try_from(libc::PACKET_MR_PROMISC).expect("a type");
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request);
        self
    }

    #[track_caller]
    fn set<T>(&self, level: i32, name: i32, value: &T) {
        let value_ptr = ptr::from_ref(value).cast();
        // SAFETY: the value lives as long as the call, and its size is right.
        let set = unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, name, value_ptr, size(value)) };
        assert_eq!(set, 0, "setsockopt {name}: {}", io::Error::last_os_error());
    }

    /// Sends; a frame that a TCX program drops shows as ENOBUFS.
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        self.send_bytes(&frame.bytes());
    }

    /// Sends them in this order.
    #[track_caller]
    pub fn send_all(&self, frames: &[Frame]) {
        for frame in frames {
            self.send(frame);
        }
    }

    #[track_caller]
    fn send_bytes(&self, bytes: &[u8]) {
        let address = address(self.ifindex);
        // SAFETY: both live as long as the call, and their sizes are right.
        let sent = unsafe {
            let to = (&raw const address).cast();
            libc::sendto(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, to, size(&address))
        };
        let error = io::Error::last_os_error();
        assert!(
            sent == bytes.len().cast_signed() || error.raw_os_error() == Some(libc::ENOBUFS),
            "sending: {error}"
        );
    }

    /// The next frame of ours that arrives within this time.
    pub fn next(&self, patience: Duration) -> Option<Frame> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // At least once: what is here already needs no time.
            let left = left.max(Duration::from_millis(1));
            let left = libc::timeval {
                tv_sec: left.as_secs().try_into().expect("seconds"),
                tv_usec: left.subsec_micros().into(),
            };
            self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &left);
            match self.receive() {
                Some(Some(frame)) => return Some(frame),
                Some(None) if Instant::now() < deadline => {}
                _ => return None,
            }
        }
    }

    /// None if nothing came, Some(None) if what came is not ours or left this very netdev.
    #[expect(clippy::option_option, reason = "no answer and no frame differ")]
    fn receive(&self) -> Option<Option<Frame>> {
        let mut bytes = [0_u8; 2048];
        let mut control = [0_u64; 16];
        // SAFETY: all zero is valid for these.
        let (mut sender, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { mem::zeroed() };
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        message.msg_name = (&raw mut sender).cast();
        message.msg_namelen = size(&sender);
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        // SAFETY: all that the message points to lives as long as the call.
        let received = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let received = usize::try_from(received).ok()?;
        let mut outer = None;
        // SAFETY: the kernel has filled in the message; the macros stay within its control data.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_PACKET && (*header).cmsg_type == libc::PACKET_AUXDATA {
                    let data: libc::tpacket_auxdata = ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                    if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                        outer = Some(data.tp_vlan_tci);
                    }
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        if sender.sll_pkttype == libc::PACKET_OUTGOING {
            return Some(None);
        }
        Some(Frame::parse(&bytes[..received], outer))
    }

    /// All frames of ours that have arrived when `witness` does, which `send` sends until then. What was
    /// sent before on the same way has arrived by then, or never will.
    #[track_caller]
    pub fn heard_by(&self, witness: &Frame, send: impl Fn()) -> Vec<Frame> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            send();
            while let Some(frame) = self.next(ARRIVAL) {
                if frame.number == witness.number {
                    return heard;
                }
                heard.push(frame);
            }
        }
        panic!("{witness:?} did not arrive, only {heard:?}");
    }

    /// Sends `frames` and then `witness` until the listener hears that one; all that it heard of `frames`.
    #[track_caller]
    pub fn tell(&self, listener: &Self, frames: &[Frame], witness: &Frame) -> Vec<Frame> {
        let heard = listener.heard_by(witness, || {
            self.send_all(frames);
            self.send(witness);
        });
        heard.into_iter().filter(|frame| frames.iter().any(|sent| sent.number == frame.number)).collect()
    }
}

fn address(ifindex: i32) -> libc::sockaddr_ll {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a family");
    address.sll_ifindex = ifindex;
    address
}

fn size<T>(value: &T) -> libc::socklen_t {
    mem::size_of_val(value).try_into().expect("a size")
}

/// The MAC of a netdev.
#[track_caller]
pub fn mac_of(place: &Place, netdev: &str) -> Mac {
    let look = crate::support::look::Look::at(place, netdev);
    look.unwrap_or_else(|| panic!("no {netdev}: {}", command::ip("-br link"))).mac.parse().expect("a MAC")
}

/// No chatter of the kernel's own in there: each frame is a test's.
#[track_caller]
pub fn hush(place: &Place) {
    within(place, || {
        for netdevs in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{netdevs}/disable_ipv6");
            std::fs::write(&path, "1").unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    });
}
