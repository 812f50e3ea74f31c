//! A frame's bytes, as either kind of program gets at them.
use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_skb_load_bytes, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};

use crate::headers;

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

    /// Whether so many bytes can be read without a call.
    #[inline(always)]
    fn has(&self, bytes: usize) -> bool {
        let (start, end) = self.linear();
        start + bytes <= end
    }

    /// The beginning of the frame as some type.
    ///
    /// # Safety
    /// The frame [`has`](Self::has) so many bytes, and any are valid for the type.
    #[inline(always)]
    unsafe fn head<T>(&self) -> &T {
        // SAFETY: as the caller says.
        unsafe { &*(self.linear().0 as *const T) }
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
