//! What is remembered: only what the kernel can't tell.
pub mod id;
