//! How long a GSO packet's headers are: each segment has them.
//!
//! Ethernet, VLAN tags, IPv4, IPv6 with extension headers, TCP, UDP. Of a tunnel only the outer headers
//! are seen. Packets that aren't GSO never come here.
use aya_ebpf::programs::TcContext;
use driver_common::SPOOF_OFF;

use crate::config;

const ETHERTYPE_OFFSET: u32 = 12;
const ETHERTYPE_LEN: u32 = 2;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const JUMBO_OPTION: u8 = 0xc2;
const JUMBO_HEADER: u32 = 8;

const MAX_VLAN_TAGS: u32 = 2;
const MAX_EXTENSIONS: u32 = 6;

/// Lengths from the start of the frame.
pub struct Headers {
    /// Link and network layer.
    pub network: u32,
    /// These and TCP or UDP.
    pub all: u32,
    /// The part of both that the kernel takes out again: the jumbo header of IPv6 BIG TCP.
    pub not_on_wire: u32,
}

/// Headers that end where reading failed, if it fails.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Headers {
    let (start, ethertype) = link(ctx);
    let mut not_on_wire = 0;
    let (network, protocol) = match ethertype {
        IPV4 => ipv4(ctx, start),
        IPV6 => ipv6(ctx, start, &mut not_on_wire),
        _ => (start, None),
    };
    let all = match protocol {
        Some(TCP) => network + u32::from(byte(ctx, network + 12) >> 4) * 4,
        Some(UDP) => network + 8,
        _ => network,
    };
    Headers { network, all, not_on_wire }
}

#[inline(always)]
fn byte(ctx: &TcContext, offset: u32) -> u8 {
    ctx.load(offset as usize).unwrap_or(0)
}

#[inline(always)]
fn be16(ctx: &TcContext, offset: u32) -> u16 {
    ctx.load(offset as usize).map_or(0, u16::from_be)
}

/// Where the network layer starts, and which it is.
#[inline(always)]
fn link(ctx: &TcContext) -> (u32, u16) {
    if config::SPOOF_CHECK.load() == SPOOF_OFF {
        // Perhaps no Ethernet. A raw IP packet shows its version where Ethernet has a group bit.
        match (byte(ctx, 0) >> 4, ctx.skb.protocol() as u16) {
            (4, protocol) if u16::from_be(protocol) == IPV4 => return (0, IPV4),
            (6, protocol) if u16::from_be(protocol) == IPV6 => return (0, IPV6),
            _ => {}
        }
    }
    let mut offset = ETHERTYPE_OFFSET;
    let mut ethertype = be16(ctx, offset);
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != VLAN && ethertype != QINQ {
            break;
        }
        offset += 4;
        ethertype = be16(ctx, offset);
    }
    (offset + ETHERTYPE_LEN, ethertype)
}

#[inline(always)]
fn ipv4(ctx: &TcContext, start: u32) -> (u32, Option<u8>) {
    (start + u32::from(byte(ctx, start) & 0xf) * 4, Some(byte(ctx, start + 9)))
}

#[inline(always)]
fn ipv6(ctx: &TcContext, start: u32, not_on_wire: &mut u32) -> (u32, Option<u8>) {
    let payload = be16(ctx, start + 4);
    let mut next = byte(ctx, start + 6);
    let mut end = start + 40;
    if payload == 0 && next == HOP_BY_HOP && byte(ctx, end + 2) == JUMBO_OPTION {
        *not_on_wire = JUMBO_HEADER;
    }
    for _ in 0..MAX_EXTENSIONS {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (u32::from(byte(ctx, end + 1)) + 1) * 8,
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(byte(ctx, end + 1)) + 2) * 4,
            _ => break,
        };
        next = byte(ctx, end);
        end += length;
    }
    (end, Some(next))
}
