//! What the allocator keeps of what was freed: a listing of a thousand netdevs takes some MiB for a moment.
use nix::libc;

/// Has all threads allocate from one arena: each of its own would keep the largest listing it ever held. Our
/// threads wait for the kernel, not for each other's allocations.
pub fn one_arena() {
    // SAFETY: takes two numbers.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(set, 1, "mallopt");
}

/// Gives back to the kernel what is free.
pub fn trim() {
    // SAFETY: takes a number; what is allocated stays where it is.
    unsafe { libc::malloc_trim(0) };
}
