//! The endpoint's map.
use core::ptr;

use aya_ebpf::{Global, btf_maps::PerCpuArray, helpers::bpf_map_lookup_elem, macros::btf_map};
use driver_common::{Counters, DetailedCounters};

// An endpoint has one map, and the loader lets it stand for that of these which its programs look at.
#[btf_map(name = "counters")]
static BASIC: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map(name = "counters_detailed")]
static DETAILED: PerCpuArray<DetailedCounters, 1> = PerCpuArray::new();

/// The key of a map's entry. It is just loaded from here: a key on the stack is stored for each frame, and loaded
/// right behind that. All endpoints' programs share it.
#[unsafe(no_mangle)]
static FIRST: Global<u32> = Global::new(0);

/// This CPU's counters where frames aren't counted by class. Always there: the verifier wants the question
/// asked.
#[inline(always)]
pub fn basic() -> Option<&'static mut Counters> {
    // SAFETY: the map's entries are of this type. Each CPU has its own, and no two programs of this object run on
    // one CPU at a time within the same direction; Rx and Tx touch different fields.
    unsafe { first(&BASIC).cast::<Counters>().as_mut() }
}

/// This CPU's counters where they are.
#[inline(always)]
pub fn detailed() -> Option<&'static mut DetailedCounters> {
    // SAFETY: as in `basic`.
    unsafe { first(&DETAILED).cast::<DetailedCounters>().as_mut() }
}

#[inline(always)]
fn first<M>(map: &'static M) -> *mut u8 {
    // SAFETY: the map is one, and the key is as long as its keys are.
    unsafe { bpf_map_lookup_elem(ptr::from_ref(map).cast_mut().cast(), (&raw const FIRST).cast()).cast() }
}
