//! Frames by class: `driver_common` says what each is.
use core::ptr;

use driver_common::Detailed;

use crate::{
    frame::{Ethernet, Frame},
    protocol::{self, ARP, ICMP, ICMPV6, IPV4, IPV6, QINQ, TCP, UDP, VLAN},
    segments::Frames,
};

/// Octets that RMON counts and we don't.
const FCS: u64 = 4;
const MAX_VLAN_TAGS: u32 = 2;
const MAX_EXTENSIONS: u32 = 6;
/// Of an IPv6 fragment header's third and fourth byte.
const FRAGMENT_OFFSET: u16 = 0xfff8;

const IPV4_IN_FRAME: u16 = IPV4.to_be();
const IPV6_IN_FRAME: u16 = IPV6.to_be();

/// What nearly all frames begin with.
#[repr(C)]
struct Head {
    ethernet: Ethernet,
    ip: [u8; 20],
}

/// A frame as nearly all are: its classes but the size can be told from its first bytes.
pub struct Usual<'a> {
    /// Without the two bytes before.
    pub ethernet: &'a Ethernet,
    is_ipv4: bool,
    protocol: u8,
}

impl<'a> Usual<'a> {
    #[inline(always)]
    pub fn of<F: Frame>(frame: &'a F) -> Option<Self> {
        // SAFETY: integers only, and aligned as `Ethernet` says.
        let Head { ethernet, ip } = unsafe { frame.head::<Head>(Ethernet::OFFSET)? };
        match ethernet.ethertype {
            IPV4_IN_FRAME => Some(Self { ethernet, is_ipv4: true, protocol: ip[9] }),
            IPV6_IN_FRAME if matches!(ip[6], TCP | UDP) => {
                Some(Self { ethernet, is_ipv4: false, protocol: ip[6] })
            }
            _ => None,
        }
    }

    /// Counts so many of it, by all but the size.
    #[inline(always)]
    pub fn count(&self, classes: &mut Detailed, packets: u64) {
        // SAFETY: the frame has these two bytes before the rest of its header.
        let (first, to) = unsafe {
            let start = ptr::from_ref(self.ethernet).cast::<u16>().sub(1);
            (*start.cast::<u8>(), start)
        };
        // SAFETY: as above.
        let is_broadcast = || unsafe { *to } == u16::MAX && self.ethernet.to == u32::MAX;
        cast(classes, first, is_broadcast, packets);
        let network = if self.is_ipv4 { &mut classes.ipv4 } else { &mut classes.ipv6 };
        *network += packets;
        transport(classes, self.protocol, packets);
    }
}

/// Counts frames that an skb or an XDP frame stands for; `is_tagged` if a VLAN tag is beside its bytes.
#[inline(always)]
pub fn count<F: Frame>(classes: &mut Detailed, frame: &F, frames: &Frames, is_tagged: bool) {
    let packets = frames.packets;
    if is_tagged {
        classes.vlan_tagged += packets;
    }
    if let Some((start, ethertype)) = frame.without_ethernet() {
        network(classes, frame, start, u16::from_be(ethertype), packets);
    } else {
        let [a, b, c, d, e, f] = frame.load(0);
        cast(classes, a, || a & b & c & d & e & f == 0xff, packets);
        behind_tags(frame, classes, packets, is_tagged);
    }
    if packets == 1 {
        size(classes, frames.bytes, 1);
    } else {
        let full = packets.wrapping_sub(1);
        size(classes, frames.each, full);
        size(classes, frames.bytes.wrapping_sub(full.wrapping_mul(frames.each)), 1);
    }
}

/// By the MAC that they go to: its first byte, and whether all bits are set.
#[inline(always)]
fn cast(classes: &mut Detailed, first: u8, is_broadcast: impl FnOnce() -> bool, packets: u64) {
    let class = if first & 1 == 0 {
        &mut classes.unicast
    } else if is_broadcast() {
        &mut classes.broadcast
    } else {
        &mut classes.multicast
    };
    *class += packets;
}

/// By the size of each of several that are equally long, of which the bytes of all are known. Most are full, and
/// told without a division.
#[inline(always)]
pub fn sizes(classes: &mut Detailed, bytes: u64, packets: u64) {
    if bytes > packets * (1518 - FCS) {
        classes.pkts_1519_to_max_octets += packets;
    } else if bytes > packets * (1023 - FCS) {
        classes.pkts_1024_to_1518_octets += packets;
    } else {
        size(classes, bytes / packets, packets);
    }
}

/// By their size. In the order that most frames, which are acknowledgements or full, are done with the soonest.
#[inline(always)]
pub fn size(classes: &mut Detailed, bytes: u64, packets: u64) {
    let class = if bytes <= 64 - FCS {
        &mut classes.pkts_64_octets
    } else if bytes > 1518 - FCS {
        &mut classes.pkts_1519_to_max_octets
    } else if bytes > 1023 - FCS {
        &mut classes.pkts_1024_to_1518_octets
    } else if bytes <= 127 - FCS {
        &mut classes.pkts_65_to_127_octets
    } else if bytes <= 255 - FCS {
        &mut classes.pkts_128_to_255_octets
    } else if bytes <= 511 - FCS {
        &mut classes.pkts_256_to_511_octets
    } else {
        &mut classes.pkts_512_to_1023_octets
    };
    *class += packets;
}

/// Any frame.
#[inline(always)]
fn behind_tags<F: Frame>(frame: &F, classes: &mut Detailed, packets: u64, is_tagged: bool) {
    let mut offset = 12;
    let mut ethertype = u16::from_be_bytes(frame.load(offset));
    if matches!(ethertype, VLAN | QINQ) && !is_tagged {
        classes.vlan_tagged += packets;
    }
    for _ in 0..MAX_VLAN_TAGS {
        if !matches!(ethertype, VLAN | QINQ) {
            break;
        }
        offset += 4;
        ethertype = u16::from_be_bytes(frame.load(offset));
    }
    network(classes, frame, offset + 2, ethertype, packets);
}

#[inline(always)]
fn network<F: Frame>(classes: &mut Detailed, frame: &F, start: u32, ethertype: u16, packets: u64) {
    match ethertype {
        IPV4 => {
            classes.ipv4 += packets;
            transport(classes, frame.load::<1>(start + 9)[0], packets);
        }
        IPV6 => {
            classes.ipv6 += packets;
            transport(classes, ipv6(frame, start), packets);
        }
        ARP => classes.arp += packets,
        _ => classes.other_ethertype += packets,
    }
}

/// By a protocol as IPv4 names it.
#[inline(always)]
fn transport(classes: &mut Detailed, protocol: u8, packets: u64) {
    let class = match protocol {
        TCP => &mut classes.tcp,
        UDP => &mut classes.udp,
        ICMP => &mut classes.icmp,
        _ => return,
    };
    *class += packets;
}

/// What the extension headers end with, as IPv4 has it.
#[inline(always)]
fn ipv6(frame: &impl Frame, start: u32) -> u8 {
    let [mut next] = frame.load(start + 6);
    let mut offset = start + 40;
    for _ in 0..MAX_EXTENSIONS {
        let [following, length, fragment @ ..] = frame.load::<4>(offset);
        offset += match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => (u32::from(length) + 1) * 8,
            protocol::AUTHENTICATION => (u32::from(length) + 2) * 4,
            protocol::FRAGMENT => {
                if u16::from_be_bytes(fragment) & FRAGMENT_OFFSET != 0 {
                    // What follows is no header.
                    next = following;
                    break;
                }
                8
            }
            _ => break,
        };
        next = following;
    }
    match next {
        ICMPV6 => ICMP,
        // Of IPv4.
        ICMP => protocol::NONE,
        next => next,
    }
}
