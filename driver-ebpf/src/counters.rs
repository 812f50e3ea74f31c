//! The endpoint's map.
use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use driver_common::Counters;

#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

/// This CPU's counters. Always there: the verifier wants the question asked.
#[inline(always)]
pub fn here() -> Option<&'static mut Counters> {
    let counters = COUNTERS.get_ptr_mut(0)?;
    // SAFETY: each CPU has its own entry, and no two programs of this object run on one CPU at a time
    // within the same direction; Rx and Tx touch different fields.
    Some(unsafe { &mut *counters })
}
