//! Sent frames, and whether they bear the endpoint's own source MAC.
//!
//! As in [`rx`](crate::rx), what takes more than nearly all frames do is counted from its beginning by a
//! function of its own.
use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::classifier,
    programs::TcContext,
};
use driver_common::{Counters, DetailedCounters, SPOOF_DROP, Tx};

use crate::{
    classes::{self, Usual},
    config, counters,
    frame::{Ethernet, Frame},
    segments::{self, Segmented},
};

pub const SOURCE_MAC_OFFSET: usize = 6;

/// Sees frames before they are segmented, and looks at their source MACs.
#[classifier]
pub fn passthru_tx_tcx(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(counters) = counters::basic() else { return TCX_NEXT };
    // SAFETY: integers only, and aligned as it says.
    let Some(ethernet) = (unsafe { ctx.head::<Ethernet>(Ethernet::OFFSET) }) else {
        return any(ctx.skb.skb, counters);
    };
    if ethernet.is_not_from(config::source_mac()) {
        if cfg!(feature = "log") || !segments::is_one_sent(skb) {
            return any(ctx.skb.skb, counters);
        }
        counters.tx.spoofed += 1;
        if config::spoof_check() == SPOOF_DROP {
            return TC_ACT_SHOT as i32;
        }
    }
    if count_usual(skb, &mut counters.tx).is_none() {
        return any(ctx.skb.skb, counters);
    }
    TCX_NEXT
}

/// Does not look at them: the link layer is not Ethernet.
#[classifier]
pub fn passthru_tx_tcx_unchecked(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(counters) = counters::basic() else { return TCX_NEXT };
    if count_usual(skb, &mut counters.tx).is_none() {
        return any(ctx.skb.skb, counters);
    }
    TCX_NEXT
}

/// Counts by class, too, and looks at source MACs if there are any.
#[classifier]
pub fn passthru_tx_tcx_detailed(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one the kernel gave.
    let skb = unsafe { &*ctx.skb.skb };
    let Some(counters) = counters::detailed() else { return TCX_NEXT };
    if count_usual_detailed(&ctx, skb, counters).is_none() {
        return any_detailed(ctx.skb.skb, counters);
    }
    TCX_NEXT
}

/// `None`, and nothing is counted, if that takes a call.
#[inline(always)]
fn count_usual(skb: &__sk_buff, tx: &mut Tx) -> Option<()> {
    if segments::is_one_sent(skb) {
        tx.packets += 1;
        tx.bytes += u64::from(skb.wire_len);
    } else {
        let segmented = Segmented::of(skb)?;
        tx.packets += segmented.packets;
        tx.bytes += segmented.bytes;
    }
    Some(())
}

/// By class; `None`, and nothing is counted, if that takes a call or its source MAC is foreign.
#[inline(always)]
fn count_usual_detailed(ctx: &TcContext, skb: &__sk_buff, counters: &mut DetailedCounters) -> Option<()> {
    if !config::is_ethernet() {
        return None;
    }
    let usual = Usual::of(ctx)?;
    if usual.ethernet.is_not_from(config::source_mac()) {
        return None;
    }
    let classes = &mut counters.tx_detailed;
    if segments::is_one_sent(skb) {
        let bytes = u64::from(skb.wire_len);
        counters.tx.packets += 1;
        counters.tx.bytes += bytes;
        usual.count(classes, 1);
        classes::size(classes, bytes, 1);
    } else {
        let segmented = Segmented::of(skb)?;
        counters.tx.packets += segmented.packets;
        counters.tx.bytes += segmented.bytes;
        usual.count(classes, segmented.packets);
        let full = segmented.full(skb);
        classes::sizes(classes, full.bytes, full.packets);
        classes::size(classes, full.rest, 1);
    }
    Some(())
}

#[inline(never)]
fn any(skb: *mut __sk_buff, counters: &mut Counters) -> i32 {
    let ctx = TcContext::new(skb);
    if is_foreign(&ctx) && spoofed(&ctx, &mut counters.tx) {
        return TC_ACT_SHOT as i32;
    }
    let frames = segments::sent(&ctx);
    counters.tx.packets += frames.packets;
    counters.tx.bytes += frames.bytes;
    TCX_NEXT
}

#[inline(never)]
fn any_detailed(skb: *mut __sk_buff, counters: &mut DetailedCounters) -> i32 {
    let ctx = TcContext::new(skb);
    if is_foreign(&ctx) && spoofed(&ctx, &mut counters.tx) {
        return TC_ACT_SHOT as i32;
    }
    let frames = segments::sent(&ctx);
    counters.tx.packets += frames.packets;
    counters.tx.bytes += frames.bytes;
    classes::count(&mut counters.tx_detailed, &ctx, &frames, segments::is_tagged(&ctx));
    TCX_NEXT
}

/// Counts frames with a foreign source MAC, and says whether that is the end of them.
#[inline(always)]
fn spoofed(ctx: &TcContext, tx: &mut Tx) -> bool {
    tx.spoofed += segments::sent(ctx).packets;
    #[cfg(feature = "log")]
    crate::report::foreign(ctx);
    config::spoof_check() == SPOOF_DROP
}

/// Whether the source MAC is looked at, and another than the endpoint's. A frame too short to have one is
/// foreign.
#[inline(always)]
fn is_foreign(ctx: &TcContext) -> bool {
    if !config::is_ethernet() {
        return false;
    }
    // Not in the linear part perhaps, which a sender of paged frames can bring about.
    match (ctx.load::<u32>(SOURCE_MAC_OFFSET), ctx.load::<u16>(SOURCE_MAC_OFFSET + 4)) {
        (Ok(head), Ok(tail)) => [head, tail.into()] != config::source_mac(),
        _ => true,
    }
}
