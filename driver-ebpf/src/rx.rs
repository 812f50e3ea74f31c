//! Received frames: either of the two programs, never both.
use aya_ebpf::{
    EbpfContext,
    bindings::{tcx_action_base::TCX_NEXT, xdp_action::XDP_PASS},
    helpers::bpf_xdp_get_buff_len,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{
    classes, config, counters,
    segments::{self, Frames},
};

/// Sees frames as they are on the wire, before GRO.
#[xdp(frags)]
pub fn passthru_rx_xdp(ctx: XdpContext) -> u32 {
    if let Some((rx, classes)) = counters::rx() {
        let bytes = if config::XDP_FRAGS.load() == 0 {
            (ctx.data_end() - ctx.data()) as u64
        } else {
            // SAFETY: the context is the one the kernel gave.
            unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) }
        };
        rx.packets += 1;
        rx.bytes += bytes;
        if let Some(classes) = classes {
            classes::count(classes, &ctx, &Frames::one(bytes), false);
        }
    }
    XDP_PASS
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
    if let Some((rx, classes)) = counters::rx() {
        let frames = segments::received(&ctx);
        rx.packets += frames.packets;
        rx.bytes += frames.bytes;
        if let Some(classes) = classes {
            classes::count(classes, &ctx, &frames, segments::is_tagged(&ctx));
        }
    }
    TCX_NEXT
}
