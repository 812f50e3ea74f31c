//! The BPF programs that count an endpoint's frames.
//!
//! The object is loaded once per endpoint, with a `counters` map and [`config`] of its own: neither XDP
//! nor TCX tells a program whom it works for, and an ifindex is unique only within a namespace.
#![no_std]
#![no_main]
// `config` sets registers by instructions of its own.
#![feature(asm_experimental_arch)]

mod classes;
mod config;
mod counters;
mod frame;
mod headers;
mod protocol;
#[cfg(feature = "log")]
mod report;
mod rx;
mod segments;
mod tx;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
