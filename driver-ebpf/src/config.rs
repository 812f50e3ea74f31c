//! What the loader sets before it loads the programs, in `.rodata`. The map is frozen, so the verifier
//! knows the values and removes the branches that they rule out.
use aya_ebpf::Global;
use driver_common::SPOOF_OFF;

/// One of `driver_common::SPOOF_…`.
#[unsafe(no_mangle)]
pub static SPOOF_CHECK: Global<u32> = Global::new(SPOOF_OFF);

/// The endpoint's MAC as the two words that a frame has at offsets 6 and 10, in the machine's order.
#[unsafe(no_mangle)]
pub static SOURCE_MAC: Global<[u32; 2]> = Global::new([0; 2]);

/// 1 where the netdev hands XDP frames in several buffers; asking for their length costs a call.
#[unsafe(no_mangle)]
pub static XDP_FRAGS: Global<u32> = Global::new(1);

/// 1 where frames are also counted by class; the `counters` map is then the larger one.
#[unsafe(no_mangle)]
pub static DETAILED: Global<u32> = Global::new(0);
