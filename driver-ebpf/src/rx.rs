//! Received frames: either of the two programs, never both.
//!
//! What nearly all frames are is counted in the programs themselves. Whatever takes more is counted from its
//! beginning by a function of its own: where a call may come back, registers must be saved for all, and on many
//! machines a return alone costs more than the count.
use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, tcx_action_base::TCX_NEXT, xdp_action::XDP_PASS, xdp_md},
    helpers::bpf_xdp_get_buff_len,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use driver_common::{Counters, DetailedCounters};

use crate::{
    classes::{self, Usual},
    config, counters,
    segments::{self, Frames, Merged},
};

/// Sees frames as they are on the wire, before GRO.
#[xdp(frags)]
pub fn passthru_rx_xdp(ctx: XdpContext) -> u32 {
    if let Some(counters) = counters::basic() {
        counters.rx.packets += 1;
        counters.rx.bytes += length(&ctx);
    }
    XDP_PASS
}

/// The same where the netdev hands it frames in several buffers; asking for their length costs a call.
#[xdp(frags)]
pub fn passthru_rx_xdp_frags(ctx: XdpContext) -> u32 {
    if let Some(counters) = counters::basic() {
        counters.rx.packets += 1;
        counters.rx.bytes += length_of_all(&ctx);
    }
    XDP_PASS
}

/// Counts by class, too.
#[xdp(frags)]
pub fn passthru_rx_xdp_detailed(ctx: XdpContext) -> u32 {
    if let Some(counters) = counters::detailed() {
        detailed_at_xdp(&ctx, counters, length(&ctx));
    }
    XDP_PASS
}

/// Counts by class, frames in several buffers.
#[xdp(frags)]
pub fn passthru_rx_xdp_frags_detailed(ctx: XdpContext) -> u32 {
    if let Some(counters) = counters::detailed() {
        detailed_at_xdp(&ctx, counters, length_of_all(&ctx));
    }
    XDP_PASS
}

#[inline(always)]
fn detailed_at_xdp(ctx: &XdpContext, counters: &mut DetailedCounters, bytes: u64) {
    if let Some(usual) = Usual::of(ctx) {
        counters.rx.packets += 1;
        counters.rx.bytes += bytes;
        usual.count(&mut counters.rx_detailed, 1);
        classes::size(&mut counters.rx_detailed, bytes, 1);
    } else {
        any_detailed_at_xdp(ctx.ctx, counters, bytes);
    }
}

#[inline(always)]
fn length_of_all(ctx: &XdpContext) -> u64 {
    // SAFETY: the context is the one the kernel gave.
    unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) }
}

#[inline(always)]
fn length(ctx: &XdpContext) -> u64 {
    (ctx.data_end() - ctx.data()) as u64
}

#[inline(never)]
fn any_detailed_at_xdp(ctx: *mut xdp_md, counters: &mut DetailedCounters, bytes: u64) {
    counters.rx.packets += 1;
    counters.rx.bytes += bytes;
    classes::count(&mut counters.rx_detailed, &XdpContext::new(ctx), &Frames::one(bytes), false);
}

/// `PACKET_LOOPBACK` (include/uapi/linux/if_packet.h).
const LOOPED_BACK: u32 = 5;

/// Sees what GRO made of the frames.
#[classifier]
pub fn passthru_rx_tcx(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    if !was_on_the_wire(skb) {
        return TCX_NEXT;
    }
    let Some(counters) = counters::basic() else { return TCX_NEXT };
    if segments::is_one_received(skb) {
        counters.rx.packets += 1;
        counters.rx.bytes += u64::from(skb.len);
    } else if let Some(merged) = Merged::of(skb) {
        counters.rx.packets += merged.packets;
        counters.rx.bytes += merged.bytes();
    } else {
        any(ctx.skb.skb, counters);
    }
    TCX_NEXT
}

/// Counts by class, too.
#[classifier]
pub fn passthru_rx_tcx_detailed(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    if !was_on_the_wire(skb) {
        return TCX_NEXT;
    }
    let Some(counters) = counters::detailed() else { return TCX_NEXT };
    if count_usual(&ctx, skb, counters).is_none() {
        any_detailed(ctx.skb.skb, counters);
    }
    TCX_NEXT
}

/// Not so a copy of what the container itself sends to a group that it is in, or to all
/// (`dev_loopback_xmit`, net/core/dev.c).
#[inline(always)]
fn was_on_the_wire(skb: &__sk_buff) -> bool {
    skb.pkt_type != LOOPED_BACK
}

/// By class; `None`, and nothing is counted, if that takes a call.
#[inline(always)]
fn count_usual(ctx: &TcContext, skb: &__sk_buff, counters: &mut DetailedCounters) -> Option<()> {
    if !config::is_ethernet() {
        return None;
    }
    let usual = Usual::of(ctx)?;
    let classes = &mut counters.rx_detailed;
    if segments::is_one_received(skb) {
        let bytes = u64::from(skb.len);
        counters.rx.packets += 1;
        counters.rx.bytes += bytes;
        usual.count(classes, 1);
        classes::size(classes, bytes, 1);
    } else {
        let merged = Merged::of(skb)?;
        counters.rx.packets += merged.packets;
        counters.rx.bytes += merged.bytes();
        usual.count(classes, merged.packets);
        classes::size(classes, merged.each(), merged.packets - 1);
        classes::size(classes, merged.last(), 1);
    }
    Some(())
}

#[inline(never)]
fn any(skb: *mut __sk_buff, counters: &mut Counters) {
    let frames = segments::received(&TcContext::new(skb));
    counters.rx.packets += frames.packets;
    counters.rx.bytes += frames.bytes;
}

#[inline(never)]
fn any_detailed(skb: *mut __sk_buff, counters: &mut DetailedCounters) {
    let ctx = TcContext::new(skb);
    let frames = segments::received(&ctx);
    counters.rx.packets += frames.packets;
    counters.rx.bytes += frames.bytes;
    classes::count(&mut counters.rx_detailed, &ctx, &frames, segments::is_tagged(&ctx));
}
