//! Sent frames, and whether they bear the endpoint's own source MAC.
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::classifier,
    programs::TcContext,
};
use driver_common::{SPOOF_DROP, SPOOF_OFF};

use crate::{classes, config, counters, segments};

pub const SOURCE_MAC_OFFSET: usize = 6;

/// Sees frames before they are segmented.
#[classifier]
pub fn passthru_tx_tcx(ctx: TcContext) -> i32 {
    let Some((tx, classes)) = counters::tx() else { return TCX_NEXT };
    let frames = segments::sent(&ctx);
    let check = config::SPOOF_CHECK.load();
    if check != SPOOF_OFF && is_foreign(&ctx) {
        tx.spoofed += frames.packets;
        #[cfg(feature = "log")]
        crate::report::foreign(&ctx);
        if check == SPOOF_DROP {
            return TC_ACT_SHOT as i32;
        }
    }
    tx.packets += frames.packets;
    tx.bytes += frames.bytes;
    if let Some(classes) = classes {
        classes::count(classes, &ctx, &frames, segments::is_tagged(&ctx));
    }
    TCX_NEXT
}

/// Whether the source MAC is another than the endpoint's. A frame too short to have one is foreign.
#[inline(always)]
fn is_foreign(ctx: &TcContext) -> bool {
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
