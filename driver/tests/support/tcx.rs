//! TCX and XDP programs, as a container with CAP_BPF has them: attached with a link, or without one.
use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
};

/// `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Hook {
    Ingress = 46,
    Egress = 47,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_QUERY: i32 = 16;
const LINK_CREATE: i32 = 28;

const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;

/// r0 = -1 (TCX_NEXT)
const NEXT: u64 = 0xffff_ffff_0000_00b7;
/// r0 = 2 (XDP_PASS)
const PASS: u64 = 0x0000_0002_0000_00b7;
const EXIT: u64 = 0x95;

/// Runs `work` in the network namespace at `path`.
#[track_caller]
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let netns = File::open(path).expect("a network namespace");
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&netns, CloneFlags::CLONE_NEWNET).expect("entering it");
            work()
        });
        thread.join().expect("what is done in there")
    })
}

/// Attaches a program that passes everything on, without a link.
#[track_caller]
pub fn attach(netdev: &str, hook: Hook) {
    attach_at(netdev, hook, 0);
}

/// Attaches one before all others, without a link.
#[track_caller]
pub fn attach_first(netdev: &str, hook: Hook) {
    const BPF_F_BEFORE: u32 = 1 << 3;
    attach_at(netdev, hook, BPF_F_BEFORE);
}

#[track_caller]
fn attach_at(netdev: &str, hook: Hook, flags: u32) {
    let program = program();
    let fd = program.as_raw_fd().cast_unsigned();
    // target, program, attach type, flags, replaced program, relative, expected revision
    let mut attr = [ifindex(netdev), fd, hook as u32, flags, 0, 0, 0, 0];
    bpf(PROG_ATTACH, &mut attr).expect("attaching a TCX program");
}

/// Attaches one with a link, for as long as the answer lives.
#[track_caller]
pub fn link(netdev: &str, hook: Hook) -> OwnedFd {
    let program = program();
    let fd = program.as_raw_fd().cast_unsigned();
    // program, target, attach type, flags, relative, padding, expected revision
    let mut attr = [fd, ifindex(netdev), hook as u32, 0, 0, 0, 0, 0];
    own(bpf(LINK_CREATE, &mut attr).expect("attaching a TCX link"))
}

/// Attaches an XDP program that passes everything on, with a link, for as long as the answer lives.
#[track_caller]
pub fn link_xdp(netdev: &str) -> OwnedFd {
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    let program = load(XDP, PASS);
    let fd = program.as_raw_fd().cast_unsigned();
    let mut attr = [fd, ifindex(netdev), BPF_XDP, XDP_FLAGS_SKB_MODE, 0, 0, 0, 0];
    own(bpf(LINK_CREATE, &mut attr).expect("attaching an XDP link"))
}

/// The ids of the programs at a hook.
#[track_caller]
pub fn programs(netdev: &str, hook: Hook) -> Vec<u32> {
    let mut ids = [0_u32; 64];
    let [low, high] = halves(ids.as_mut_ptr());
    // target, attach type, query flags, attach flags, ids, count, padding, program flags, links, link
    // flags, revision
    let mut attr = [ifindex(netdev), hook as u32, 0, 0, low, high, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    match bpf(PROG_QUERY, &mut attr) {
        // How some kernels say that there are none.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Vec::new(),
        answer => answer.expect("asking for TCX programs"),
    };
    ids[..attr[6] as usize].to_vec()
}

fn program() -> OwnedFd {
    load(SCHED_CLS, NEXT)
}

fn load(kind: u32, answer: u64) -> OwnedFd {
    let instructions: [u64; 2] = [answer, EXIT];
    let [code_low, code_high] = halves(instructions.as_ptr().cast_mut());
    let license = c"GPL";
    let [license_low, license_high] = halves(license.as_ptr().cast_mut());
    let mut attr = [kind, 2, code_low, code_high, license_low, license_high];
    own(bpf(PROG_LOAD, &mut attr).expect("loading a program"))
}

fn ifindex(netdev: &str) -> u32 {
    let name = CString::new(netdev).expect("a name");
    // SAFETY: a C string that lives as long as the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no netdev {netdev}");
    index
}

#[expect(clippy::cast_possible_truncation, reason = "that is what halves are")]
fn halves<T>(pointer: *mut T) -> [u32; 2] {
    let address = pointer.expose_provenance() as u64;
    [address as u32, (address >> 32) as u32]
}

fn bpf(command: i32, attr: &mut [u32]) -> io::Result<i32> {
    // SAFETY: laid out as the kernel has it for this command, and what it points to outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val::<[u32]>(attr)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(answer).map_err(io::Error::other) }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
