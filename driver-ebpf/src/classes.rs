//! Frames by class: `driver_common` says what each is.
use driver_common::Detailed;

use crate::{
    frame::Frame,
    protocol::{self, ARP, ICMP, ICMPV6, IPV4, IPV6, QINQ, TCP, UDP, VLAN},
    segments::Frames,
};

/// Octets that RMON counts and we don't.
const FCS: u64 = 4;
const MAX_VLAN_TAGS: u32 = 2;
const MAX_EXTENSIONS: u32 = 6;
/// Of an IPv6 fragment header's third and fourth byte.
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// What nearly all frames begin with. The kernel aligns them so that what follows the Ethernet header is
/// aligned to 4; so are these fields then, to their size.
#[repr(C, packed(2))]
struct Head {
    to: u16,
    to_rest: u32,
    from: [u16; 3],
    ethertype: u16,
    ip: [u8; 20],
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
    } else if frame.has(size_of::<Head>()) {
        // SAFETY: as just asked, and integers only.
        let head = unsafe { frame.head::<Head>() };
        cast(classes, head.to, head.to_rest, packets);
        // Without a call where all can be told from these bytes.
        match (u16::from_be(head.ethertype), head.ip[6]) {
            (IPV4, _) => {
                classes.ipv4 += packets;
                transport(classes, head.ip[9], packets);
            }
            (IPV6, next @ (TCP | UDP)) => {
                classes.ipv6 += packets;
                transport(classes, next, packets);
            }
            (IPV6 | VLAN | QINQ, _) => behind_tags(frame, classes, packets, is_tagged),
            (ARP, _) => classes.arp += packets,
            _ => classes.other_ethertype += packets,
        }
    } else {
        let [a, b, c, d, e, f] = frame.load(0);
        cast(classes, u16::from_ne_bytes([a, b]), u32::from_ne_bytes([c, d, e, f]), packets);
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

#[inline(always)]
fn cast(classes: &mut Detailed, to: u16, to_rest: u32, packets: u64) {
    if u16::from_le(to) & 1 == 0 {
        classes.unicast += packets;
    } else if to == u16::MAX && to_rest == u32::MAX {
        classes.broadcast += packets;
    } else {
        classes.multicast += packets;
    }
}

/// In the order that most frames, which are full or acknowledgements, are done with the soonest.
#[inline(always)]
fn size(classes: &mut Detailed, bytes: u64, packets: u64) {
    if bytes > 1023 - FCS {
        if bytes > 1518 - FCS {
            classes.pkts_1519_to_max_octets += packets;
        } else {
            classes.pkts_1024_to_1518_octets += packets;
        }
    } else if bytes <= 127 - FCS {
        if bytes <= 64 - FCS {
            classes.pkts_64_octets += packets;
        } else {
            classes.pkts_65_to_127_octets += packets;
        }
    } else if bytes <= 255 - FCS {
        classes.pkts_128_to_255_octets += packets;
    } else if bytes <= 511 - FCS {
        classes.pkts_256_to_511_octets += packets;
    } else {
        classes.pkts_512_to_1023_octets += packets;
    }
}

/// Any frame.
#[inline(never)]
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
    match protocol {
        TCP => classes.tcp += packets,
        UDP => classes.udp += packets,
        ICMP => classes.icmp += packets,
        _ => {}
    }
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
