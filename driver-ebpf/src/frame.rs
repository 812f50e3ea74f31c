//! A frame's bytes, as either kind of program gets at them.
use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};

use crate::headers;

/// An Ethernet header without its first two bytes. The kernel aligns frames so that what follows it is aligned
/// to 4, and so are then these fields; the verifier refuses the program on machines that need it and don't.
#[repr(C)]
pub struct Ethernet {
    /// The rest of the MAC that it goes to.
    pub to: u32,
    from: u32,
    from_rest: u16,
    /// As the frame has it.
    pub ethertype: u16,
}

impl Ethernet {
    /// Where it begins.
    pub const OFFSET: usize = 2;

    /// Whether it comes from another MAC.
    #[inline(always)]
    pub fn is_not_from(&self, mac: [u32; 2]) -> bool {
        (self.from ^ mac[0]) | (u32::from(self.from_rest) ^ mac[1]) != 0
    }
}

/// A context that has a frame.
pub trait Frame {
    /// Where its first bytes are, and where those end that can be read without a call.
    fn linear(&self) -> (usize, usize);

    /// Bytes from an offset; zeros where the frame ends before. Without a branch: those would multiply the
    /// paths that the verifier walks.
    fn load<const N: usize>(&self, offset: u32) -> [u8; N];

    /// Where the network layer starts, and its EtherType as a frame has it, if the link layer is not
    /// Ethernet.
    fn without_ethernet(&self) -> Option<(u32, u16)>;

    /// What the frame has at some offset, if it can be read without a call.
    ///
    /// # Safety
    /// Any bytes are valid for the type, and aligned for it at that offset.
    #[inline(always)]
    unsafe fn head<T>(&self, offset: usize) -> Option<&T> {
        let (start, end) = self.linear();
        if start + offset + size_of::<T>() > end {
            return None;
        }
        // SAFETY: within the frame, as just compared; the rest is as the caller says.
        Some(unsafe { &*((start + offset) as *const T) })
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> [u8; N] {
        let mut bytes = [0; N];
        // SAFETY: the helper writes N bytes, or none.
        unsafe { bpf_xdp_load_bytes(self.as_ptr().cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        bytes
    }

    /// Other link layers are counted at TCX.
    #[inline(always)]
    fn without_ethernet(&self) -> Option<(u32, u16)> {
        None
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn linear(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> [u8; N] {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes all N bytes, zeros if it fails.
        unsafe {
            bpf_skb_load_bytes(self.as_ptr().cast(), offset, bytes.as_mut_ptr().cast(), N as u32);
            bytes.assume_init()
        }
    }

    #[inline(always)]
    fn without_ethernet(&self) -> Option<(u32, u16)> {
        // SAFETY: the context is the one the kernel gave.
        headers::without_ethernet(unsafe { &*self.skb.skb })
    }
}
