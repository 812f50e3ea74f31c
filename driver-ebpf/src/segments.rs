//! How many frames on the wire an skb stands for, and their bytes.
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};

use crate::{
    config,
    headers::{self, Headers},
};

/// A VLAN tag that the skb has beside the frame, for the hardware to put in or as it took it out.
const VLAN_TAG: u64 = 4;
/// The most that one IP packet can hold with its link layer; beyond, the kernel writes BIG TCP headers.
const BIG: u32 = 65535;

/// Frames on the wire.
pub struct Frames {
    pub packets: u64,
    pub bytes: u64,
    /// Bytes of each but the last.
    pub each: u64,
}

impl Frames {
    /// One frame.
    #[inline(always)]
    pub fn one(bytes: u64) -> Self {
        Self { packets: 1, bytes, each: bytes }
    }
}

/// Whether there is a VLAN tag beside the frame.
#[inline(always)]
pub fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one the kernel gave.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// Whether an skb at TCX ingress is one frame, and not several that GRO merged, without a tag beside it. Its
/// `len` is then the frame's: it begins at the MAC header (`tcx_run` with `needs_mac`).
#[inline(always)]
pub fn is_one_received(skb: &__sk_buff) -> bool {
    skb.gso_size | skb.vlan_proto == 0
}

/// Whether an skb at TCX egress is one frame, and not several that segmentation will make of it, without a tag
/// beside it. Its `wire_len` is then the frame's: `qdisc_pkt_len_init` has added the headers of further ones.
#[inline(always)]
pub fn is_one_sent(skb: &__sk_buff) -> bool {
    (skb.wire_len ^ skb.len) | skb.vlan_proto == 0
}

/// A GRO packet as most are: TCP in an Ethernet frame without tags, options of IPv4 or extension headers, none
/// of its headers paged.
pub struct Merged {
    pub packets: u64,
    headers: u64,
    length: u64,
    size: u64,
}

impl Merged {
    #[inline(always)]
    pub fn of(skb: &__sk_buff) -> Option<Self> {
        if !config::is_ethernet() || skb.vlan_proto != 0 {
            return None;
        }
        let (packets, size) = (u64::from(skb.gso_segs), u64::from(skb.gso_size));
        if packets == 0 || size == 0 {
            return None;
        }
        let headers = u64::from(headers::usual(skb)?);
        Some(Self { packets, headers, length: skb.len.into(), size })
    }

    /// Bytes on the wire.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        self.length + (self.packets - 1) * self.headers
    }

    /// Bytes of each frame but the last.
    #[inline(always)]
    pub fn each(&self) -> u64 {
        self.headers + self.size
    }

    /// Bytes of the last.
    #[inline(always)]
    pub fn last(&self) -> u64 {
        self.length.wrapping_sub((self.packets - 1) * self.size)
    }
}

/// A GSO packet as most are: the kernel has counted its segments, and there is no tag beside it.
pub struct Segmented {
    pub packets: u64,
    /// On the wire.
    pub bytes: u64,
}

impl Segmented {
    #[inline(always)]
    pub fn of(skb: &__sk_buff) -> Option<Self> {
        let packets = u64::from(skb.gso_segs);
        if skb.vlan_proto != 0 || packets < 2 || skb.len > BIG {
            return None;
        }
        Some(Self { packets, bytes: skb.wire_len.into() })
    }

    /// Its segments by length.
    #[inline(always)]
    pub fn full(&self, skb: &__sk_buff) -> Full {
        let (packets, length) = (self.packets - 1, u64::from(skb.len));
        let payload = packets * u64::from(skb.gso_size);
        Full { packets, bytes: self.bytes.wrapping_sub(length) + payload, rest: length.wrapping_sub(payload) }
    }
}

/// The segments of a packet that are as long as they may be: all but the last.
pub struct Full {
    pub packets: u64,
    /// Of all of them.
    pub bytes: u64,
    /// Of the last.
    pub rest: u64,
}

/// What any skb at TCX ingress was on the wire. Its `wire_len` is just `len`, even after GRO.
#[inline(always)]
pub fn received(ctx: &TcContext) -> Frames {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    with_tags(if skb.gso_size == 0 { Frames::one(skb.len.into()) } else { merged(skb) }, ctx)
}

/// What any skb at TCX egress will be on the wire.
#[inline(always)]
pub fn sent(ctx: &TcContext) -> Frames {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    let length = skb.wire_len;
    let frames = if skb.gso_size == 0 {
        Frames::one(length.into())
    } else if skb.gso_segs != 0 && skb.len <= BIG {
        // `qdisc_pkt_len_init` has added the headers of all segments but the first.
        let packets = skb.gso_segs.into();
        Frames { packets, bytes: length.into(), each: each_as_kernel_has_it(skb, packets) }
    } else {
        unusual(skb)
    };
    with_tags(frames, ctx)
}

#[inline(always)]
fn tag(ctx: &TcContext) -> u64 {
    // SAFETY: the context is the one the kernel gave.
    u64::from(unsafe { (*ctx.skb.skb).vlan_present }) * VLAN_TAG
}

#[inline(always)]
fn with_tags(frames: Frames, ctx: &TcContext) -> Frames {
    let tag = tag(ctx);
    Frames { bytes: frames.bytes + frames.packets * tag, each: frames.each + tag, ..frames }
}

/// A GRO packet, or a GSO packet that a virtual link handed over whole.
#[inline(never)]
fn merged(skb: &__sk_buff) -> Frames {
    let headers = headers::parse(skb);
    let packets = match u64::from(skb.gso_segs) {
        0 => segments(skb, headers.all),
        known => known,
    };
    let length = u64::from(skb.len.wrapping_sub(headers.not_on_wire));
    let on_wire = u64::from(headers.all - headers.not_on_wire);
    Frames { packets, bytes: length + (packets - 1) * on_wire, each: on_wire + u64::from(skb.gso_size) }
}

/// BIG TCP, and what came with a GSO header from user space (`SKB_GSO_DODGY`): older kernels count its
/// segments for `wire_len` but leave `gso_segs` 0.
#[inline(never)]
fn unusual(skb: &__sk_buff) -> Frames {
    let headers = headers::parse(skb);
    let packets = match u64::from(skb.gso_segs) {
        0 => counted_by_kernel(skb, &headers),
        known => known,
    };
    let not_on_wire = u64::from(headers.not_on_wire);
    Frames {
        packets,
        bytes: u64::from(skb.wire_len).wrapping_sub(packets * not_on_wire),
        each: each_as_kernel_has_it(skb, packets).wrapping_sub(not_on_wire),
    }
}

/// Bytes of each segment but the last, with the headers that `wire_len` has for it.
#[inline(always)]
fn each_as_kernel_has_it(skb: &__sk_buff, packets: u64) -> u64 {
    if packets < 2 {
        return 0;
    }
    let added = u64::from(skb.wire_len.wrapping_sub(skb.len));
    added / (packets - 1) + u64::from(skb.gso_size)
}

/// The number of segments that makes `wire_len` what it is: UDP is cut into datagrams (`UDP_SEGMENT`) or
/// into IP fragments, whose headers end earlier.
#[inline(always)]
fn counted_by_kernel(skb: &__sk_buff, headers: &Headers) -> u64 {
    let added = u64::from(skb.wire_len.wrapping_sub(skb.len));
    let packets = segments(skb, headers.all);
    if added == (packets - 1) * u64::from(headers.all) {
        return packets;
    }
    segments(skb, headers.network)
}

#[inline(always)]
fn segments(skb: &__sk_buff, headers: u32) -> u64 {
    let payload = u64::from(skb.len.saturating_sub(headers));
    let size = u64::from(skb.gso_size);
    if size == 0 || payload <= size { 1 } else { payload.div_ceil(size) }
}
