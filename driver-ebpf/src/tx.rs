//! Sent frames, and whether they bear the endpoint's own source MAC.
use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::classifier,
    programs::TcContext,
};
use driver_common::{Counters, DetailedCounters, SPOOF_DROP, SPOOF_OFF, Tx};

use crate::{
    classes, config, counters,
    segments::{self, Frames},
};

pub const SOURCE_MAC_OFFSET: usize = 6;

/// Sees frames before they are segmented.
#[classifier]
pub fn passthru_tx_tcx(ctx: TcContext) -> i32 {
    // What is counted by class, and what is several frames, has a path of its own: what they shared with the
    // shortest would cost it.
    if counters::is_detailed() {
        let Some(counters) = counters::detailed() else { return TCX_NEXT };
        if is_foreign(&ctx) && spoofed(&ctx, &mut counters.tx) {
            return TC_ACT_SHOT as i32;
        }
        if segments::is_one(&ctx) {
            count_detailed(&ctx, counters, &Frames::one(segments::sent_one(&ctx)));
        } else {
            several_detailed(ctx.skb.skb, counters);
        }
    } else {
        let Some(counters) = counters::basic() else { return TCX_NEXT };
        if is_foreign(&ctx) && spoofed(&ctx, &mut counters.tx) {
            return TC_ACT_SHOT as i32;
        }
        if segments::is_one(&ctx) {
            counters.tx.packets += 1;
            counters.tx.bytes += segments::sent_one(&ctx);
        } else {
            several(ctx.skb.skb, counters);
        }
    }
    TCX_NEXT
}

/// Counts frames with a foreign source MAC, and says whether that is the end of them.
#[inline(always)]
fn spoofed(ctx: &TcContext, tx: &mut Tx) -> bool {
    tx.spoofed += if segments::is_one(ctx) { 1 } else { segments::sent(ctx).packets };
    #[cfg(feature = "log")]
    crate::report::foreign(ctx);
    config::SPOOF_CHECK.load() == SPOOF_DROP
}

#[inline(never)]
fn several(skb: *mut __sk_buff, counters: &mut Counters) {
    let frames = segments::sent(&TcContext::new(skb));
    counters.tx.packets += frames.packets;
    counters.tx.bytes += frames.bytes;
}

#[inline(never)]
fn several_detailed(skb: *mut __sk_buff, counters: &mut DetailedCounters) {
    let ctx = TcContext::new(skb);
    count_detailed(&ctx, counters, &segments::sent(&ctx));
}

#[inline(always)]
fn count_detailed(ctx: &TcContext, counters: &mut DetailedCounters, frames: &Frames) {
    counters.tx.packets += frames.packets;
    counters.tx.bytes += frames.bytes;
    classes::count(&mut counters.tx_detailed, ctx, frames, segments::is_tagged(ctx));
}

/// Whether the source MAC is looked at, and another than the endpoint's. A frame too short to have one is
/// foreign.
#[inline(always)]
fn is_foreign(ctx: &TcContext) -> bool {
    if config::SPOOF_CHECK.load() == SPOOF_OFF {
        return false;
    }
    let own = config::SOURCE_MAC.load();
    let mac = ctx.data() + SOURCE_MAC_OFFSET;
    let (head, tail) = if mac + 6 <= ctx.data_end() {
        // SAFETY: within the packet, as just compared. The kernel aligns frames so that what follows the
        // Ethernet header is aligned to 4, and these offsets are then aligned too; the verifier refuses
        // the program on machines that need it and don't.
        unsafe { (*(mac as *const u32), *((mac + 4) as *const u16)) }
    } else {
        // Not in the linear part, which a sender of paged frames can bring about.
        match (ctx.load(SOURCE_MAC_OFFSET), ctx.load(SOURCE_MAC_OFFSET + 4)) {
            (Ok(head), Ok(tail)) => (head, tail),
            _ => return true,
        }
    };
    (head ^ own[0]) | (u32::from(tail) ^ own[1]) != 0
}
