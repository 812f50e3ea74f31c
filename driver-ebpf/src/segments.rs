//! How many frames on the wire an skb stands for, and their bytes.
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};

use crate::{
    counters,
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
    /// Bytes of each but the last. Known only if frames are counted by class.
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

/// Whether an skb is one frame, and not several that GRO merged or that segmentation will make of it.
#[inline(always)]
pub fn is_one(ctx: &TcContext) -> bool {
    // SAFETY: the context is the one the kernel gave.
    unsafe { (*ctx.skb.skb).gso_size == 0 }
}

/// Bytes of one frame at TCX ingress. Its `len` begins at the MAC header (`tcx_run` with `needs_mac`), and its
/// `wire_len` is just `len`, even after GRO.
#[inline(always)]
pub fn received_one(ctx: &TcContext) -> u64 {
    // SAFETY: the context is the one the kernel gave.
    let length = unsafe { (*ctx.skb.skb).len };
    u64::from(length) + tag(ctx)
}

/// Bytes of one frame at TCX egress.
#[inline(always)]
pub fn sent_one(ctx: &TcContext) -> u64 {
    // SAFETY: the context is the one the kernel gave.
    let length = unsafe { (*ctx.skb.skb).wire_len };
    u64::from(length) + tag(ctx)
}

/// What several at TCX ingress were on the wire.
#[inline(always)]
pub fn received(ctx: &TcContext) -> Frames {
    // SAFETY: the context is the one the kernel gave.
    let frames = merged(unsafe { &*ctx.skb.skb });
    with_tags(frames, ctx)
}

/// What several at TCX egress will be on the wire.
#[inline(always)]
pub fn sent(ctx: &TcContext) -> Frames {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    let length = skb.wire_len;
    let frames = if skb.gso_segs != 0 && skb.len <= BIG {
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
    let headers = headers::usual(skb).unwrap_or_else(|| headers::parse(skb));
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
    if !counters::is_detailed() || packets < 2 {
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
