//! The endpoint's map.
use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use driver_common::{Counters, DetailedCounters};

use crate::config;

// An endpoint has one map, and the loader lets it stand for both of these. `.rodata` says which it is: where
// the other is looked at is dead code, and the verifier does not mind that the map would be too small for it.
#[btf_map(name = "counters")]
static BASIC: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map(name = "counters_detailed")]
static DETAILED: PerCpuArray<DetailedCounters, 1> = PerCpuArray::new();

/// Whether frames are counted by class. The verifier knows the answer, and removes what it rules out.
#[inline(always)]
pub fn is_detailed() -> bool {
    config::DETAILED.load() != 0
}

/// This CPU's counters where frames aren't counted by class. Always there: the verifier wants the question
/// asked.
#[inline(always)]
pub fn basic() -> Option<&'static mut Counters> {
    let counters = BASIC.get_ptr_mut(0)?;
    // SAFETY: each CPU has its own entry, and no two programs of this object run on one CPU at a time
    // within the same direction; Rx and Tx touch different fields.
    Some(unsafe { &mut *counters })
}

/// This CPU's counters where they are.
#[inline(always)]
pub fn detailed() -> Option<&'static mut DetailedCounters> {
    let counters = DETAILED.get_ptr_mut(0)?;
    // SAFETY: as in `basic`.
    Some(unsafe { &mut *counters })
}
