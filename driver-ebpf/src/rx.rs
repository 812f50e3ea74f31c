//! Received frames: either of the two programs, never both.
use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, tcx_action_base::TCX_NEXT, xdp_action::XDP_PASS},
    helpers::bpf_xdp_get_buff_len,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use driver_common::{Counters, DetailedCounters};

use crate::{
    classes, config, counters,
    segments::{self, Frames},
};

// What is counted by class, and what is several frames, has a path of its own: what they shared with the
// shortest would cost it.

/// Sees frames as they are on the wire, before GRO.
#[xdp(frags)]
pub fn passthru_rx_xdp(ctx: XdpContext) -> u32 {
    if counters::is_detailed() {
        if let Some(counters) = counters::detailed() {
            let bytes = if in_several_buffers() { length_of_all(&ctx) } else { length(&ctx) };
            counters.rx.packets += 1;
            counters.rx.bytes += bytes;
            classes::count(&mut counters.rx_detailed, &ctx, &Frames::one(bytes), false);
        }
    } else if in_several_buffers() {
        if let Some(counters) = counters::basic() {
            counters.rx.packets += 1;
            counters.rx.bytes += length_of_all(&ctx);
        }
    } else if let Some(counters) = counters::basic() {
        counters.rx.packets += 1;
        counters.rx.bytes += length(&ctx);
    }
    XDP_PASS
}

#[inline(always)]
fn in_several_buffers() -> bool {
    config::XDP_FRAGS.load() != 0
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

/// `PACKET_LOOPBACK` (include/uapi/linux/if_packet.h).
const LOOPED_BACK: u32 = 5;

/// Sees what GRO made of the frames.
#[classifier]
pub fn passthru_rx_tcx(ctx: TcContext) -> i32 {
    // A copy of what the container itself sends to a group that it is in, or to all: it never was on the
    // wire (`dev_loopback_xmit`, net/core/dev.c).
    // SAFETY: the context is the one the kernel gave.
    if unsafe { (*ctx.skb.skb).pkt_type } == LOOPED_BACK {
        return TCX_NEXT;
    }
    if counters::is_detailed() {
        match counters::detailed() {
            Some(counters) if segments::is_one(&ctx) => {
                count_detailed(&ctx, counters, &Frames::one(segments::received_one(&ctx)));
            }
            Some(counters) => merged_detailed(ctx.skb.skb, counters),
            None => {}
        }
    } else {
        match counters::basic() {
            Some(counters) if segments::is_one(&ctx) => {
                counters.rx.packets += 1;
                counters.rx.bytes += segments::received_one(&ctx);
            }
            Some(counters) => merged(ctx.skb.skb, counters),
            None => {}
        }
    }
    TCX_NEXT
}

#[inline(never)]
fn merged(skb: *mut __sk_buff, counters: &mut Counters) {
    let frames = segments::received(&TcContext::new(skb));
    counters.rx.packets += frames.packets;
    counters.rx.bytes += frames.bytes;
}

#[inline(never)]
fn merged_detailed(skb: *mut __sk_buff, counters: &mut DetailedCounters) {
    let ctx = TcContext::new(skb);
    count_detailed(&ctx, counters, &segments::received(&ctx));
}

#[inline(always)]
fn count_detailed(ctx: &TcContext, counters: &mut DetailedCounters, frames: &Frames) {
    counters.rx.packets += frames.packets;
    counters.rx.bytes += frames.bytes;
    classes::count(&mut counters.rx_detailed, ctx, frames, segments::is_tagged(ctx));
}
