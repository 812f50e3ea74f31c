//! The endpoint's map.
use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use driver_common::{Counters, DetailedCounters};

// An endpoint has one map, and the loader lets it stand for that of these which its programs look at.
#[btf_map(name = "counters")]
static BASIC: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map(name = "counters_detailed")]
static DETAILED: PerCpuArray<DetailedCounters, 1> = PerCpuArray::new();

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
