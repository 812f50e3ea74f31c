//! What the loader puts into the programs before it loads them.
//!
//! Each is an instruction that sets a register to a [`placeholder`], which the loader finds and sets to the
//! constant. The verifier knows what such an instruction sets, and removes the branches that it rules out. The
//! same from `.rodata` would be a load each time, and a map for each endpoint.
use core::arch::asm;

use driver_common::{SPOOF_OFF, placeholder};

macro_rules! constant {
    ($placeholder:expr) => {{
        let constant: u32;
        // SAFETY: sets the register that is named as its output. It is not `pure`, or the compiler may set it
        // early and keep it in a register that has to be saved.
        unsafe {
            asm!(
                "{constant} = {placeholder}",
                constant = out(reg) constant,
                placeholder = const $placeholder,
                options(nomem, nostack, preserves_flags),
            );
        }
        constant
    }};
}

/// One of `driver_common::SPOOF_…`.
#[inline(always)]
pub fn spoof_check() -> u32 {
    constant!(placeholder::SPOOF_CHECK)
}

/// Whether the link layer is Ethernet: on no other is there a MAC to check.
#[inline(always)]
pub fn is_ethernet() -> bool {
    spoof_check() != SPOOF_OFF
}

/// The endpoint's MAC as the words that a frame has at offsets 6 and 10, in the machine's order.
#[inline(always)]
pub fn source_mac() -> [u32; 2] {
    [constant!(placeholder::SOURCE_MAC_HEAD), constant!(placeholder::SOURCE_MAC_TAIL)]
}
