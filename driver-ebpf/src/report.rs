//! What the object that logs tells the driver.
use aya_ebpf::{btf_maps::PerCpuArray, helpers::bpf_ktime_get_ns, macros::btf_map, programs::TcContext};
use aya_log_ebpf::warn;

use crate::{config, tx::SOURCE_MAC_OFFSET};

/// In nanoseconds; a container can forge frames as fast as it likes.
const PAUSE: u64 = 1_000_000_000;

/// When each CPU reported last, since the machine's start.
#[btf_map(name = "reported")]
static REPORTED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Reports a frame with a foreign source MAC, unless this CPU has reported one within [`PAUSE`].
#[inline(always)]
pub fn foreign(ctx: &TcContext) {
    let Some(reported) = REPORTED.get_ptr_mut(0) else { return };
    // SAFETY: each CPU has its own entry, and no program interrupts another of its direction.
    let reported = unsafe { &mut *reported };
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if *reported != 0 && now.wrapping_sub(*reported) < PAUSE {
        return;
    }
    *reported = now;
    let Ok(seen) = ctx.load::<[u8; 6]>(SOURCE_MAC_OFFSET) else { return };
    let [head, tail] = config::source_mac();
    let ([a, b, c, d], [e, f]) = (head.to_ne_bytes(), (tail as u16).to_ne_bytes());
    warn!(ctx, "a frame sent with the source MAC {:mac}, not {:mac}", seen, [a, b, c, d, e, f]);
}
