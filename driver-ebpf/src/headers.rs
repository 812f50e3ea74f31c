//! How long a GSO packet's headers are: each segment has them.
//!
//! Ethernet, VLAN tags, IPv4, IPv6 with extension headers, TCP, UDP. Of a tunnel only the outer headers
//! are seen. Packets that aren't GSO never come here.
use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes};

use crate::{
    config,
    protocol::{DESTINATION, HOP_BY_HOP, IPV4, IPV6, QINQ, ROUTING, TCP, UDP, VLAN},
};

const ETHERTYPE_OFFSET: u32 = 12;
const ETHERTYPE_LEN: u32 = 2;
const IPV4_TCP_START: usize = 14 + 20;
const IPV6_TCP_START: usize = 14 + 40;
const TCP_HEADER: usize = 20;

/// The address that the stack puts before a frame's own four bytes (`IPOIB_HARD_LEN`).
const IPOIB_HEADER: u32 = 24;

const JUMBO_OPTION: u8 = 0xc2;
const JUMBO_HEADER: u32 = 8;

const MAX_VLAN_TAGS: u32 = 2;
const MAX_EXTENSIONS: u32 = 2;

/// Lengths from the start of the frame.
pub struct Headers {
    /// Link and network layer.
    pub network: u32,
    /// These and TCP or UDP.
    pub all: u32,
    /// The part of both that the kernel takes out again: the jumbo header of IPv6 BIG TCP.
    pub not_on_wire: u32,
}

/// How long the headers are of TCP in an Ethernet frame without tags, options of IPv4 or extension headers.
#[inline(always)]
pub fn usual(skb: &__sk_buff) -> Option<u32> {
    let (data, end) = (skb.data as usize, skb.data_end as usize);
    if data + IPV4_TCP_START + TCP_HEADER > end {
        return None;
    }
    // SAFETY: only of offsets within what was just compared.
    let byte = |offset: usize| unsafe { *((data + offset) as *const u8) };
    let (network, data_offset) = match u16::from_be_bytes([byte(12), byte(13)]) {
        IPV4 if byte(14) == 0x45 && byte(23) == TCP => (IPV4_TCP_START, byte(IPV4_TCP_START + 12)),
        IPV6 if byte(20) == TCP && data + IPV6_TCP_START + TCP_HEADER <= end => {
            (IPV6_TCP_START, byte(IPV6_TCP_START + 12))
        }
        _ => return None,
    };
    Some(network as u32 + u32::from(data_offset >> 4) * 4)
}

/// The headers. Where the frame ends early, zeros are read.
#[inline(always)]
pub fn parse(skb: &__sk_buff) -> Headers {
    let (start, ethertype) = link(skb);
    let mut not_on_wire = 0;
    let (network, protocol) = match ethertype {
        IPV4 => ipv4(skb, start),
        IPV6 => ipv6(skb, start, &mut not_on_wire),
        _ => (start, 0),
    };
    let transport = match protocol {
        TCP => {
            let [data_offset] = read(skb, network + 12);
            u32::from(data_offset >> 4) * 4
        }
        UDP => 8,
        _ => 0,
    };
    Headers { network, all: network + transport, not_on_wire }
}

/// Without a branch: those would multiply the paths that the verifier walks.
#[inline(always)]
fn read<const N: usize>(skb: &__sk_buff, offset: u32) -> [u8; N] {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes all N bytes, zeros if it fails.
    unsafe {
        bpf_skb_load_bytes(ptr::from_ref(skb).cast(), offset, bytes.as_mut_ptr().cast(), N as u32);
        bytes.assume_init()
    }
}

/// Where the network layer starts, and which EtherType it is, as the frame has it, if the link layer is not
/// Ethernet: there is nothing before raw IP, and IPoIB has a header of its own.
#[inline(always)]
pub fn without_ethernet(skb: &__sk_buff) -> Option<(u32, u16)> {
    if config::is_ethernet() {
        return None;
    }
    let ethertype = skb.protocol as u16;
    let [version] = read(skb, 0);
    let start = match (version >> 4, u16::from_be(ethertype)) {
        (4, IPV4) | (6, IPV6) => 0,
        _ => IPOIB_HEADER,
    };
    Some((start, ethertype))
}

/// Where the network layer starts, and which it is.
#[inline(always)]
fn link(skb: &__sk_buff) -> (u32, u16) {
    if let Some((start, ethertype)) = without_ethernet(skb) {
        return (start, u16::from_be(ethertype));
    }
    let mut offset = ETHERTYPE_OFFSET;
    let mut ethertype = u16::from_be_bytes(read(skb, offset));
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != VLAN && ethertype != QINQ {
            break;
        }
        offset += 4;
        ethertype = u16::from_be_bytes(read(skb, offset));
    }
    (offset + ETHERTYPE_LEN, ethertype)
}

#[inline(always)]
fn ipv4(skb: &__sk_buff, start: u32) -> (u32, u8) {
    let [version_and_length, .., protocol] = read::<10>(skb, start);
    (start + u32::from(version_and_length & 0xf) * 4, protocol)
}

/// No fragments and no IPsec among the extension headers: nothing of these is GSO.
#[inline(always)]
fn ipv6(skb: &__sk_buff, start: u32, not_on_wire: &mut u32) -> (u32, u8) {
    let [.., length_1, length_2, mut next] = read::<7>(skb, start);
    let mut end = start + 40;
    let is_big = length_1 | length_2 == 0;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
            break;
        }
        let [following, length, option] = read(skb, end);
        if is_big && next == HOP_BY_HOP && option == JUMBO_OPTION {
            *not_on_wire = JUMBO_HEADER;
        }
        next = following;
        end += (u32::from(length) + 1) * 8;
    }
    (end, next)
}
