//! The calls of bpf(2) that aya hasn't in the shape needed here.
//!
//! Links are made here by ifindex and nothing else: aya's XDP falls back to netlink, whose attachment a
//! container can take off, and its TCX wants a name, which a container can change.
use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::libc;
use zerocopy::IntoBytes;

/// `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_BEFORE: u32 = 1 << 3;

const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ProgDetach = 9,
    ProgFdById = 13,
    ObjInfo = 15,
    ProgQuery = 16,
    BtfLoad = 18,
    MapFreeze = 22,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkFdById = 30,
    LinkNextId = 31,
    LinkDetach = 34,
}

/// A command's part of `union bpf_attr`; the kernel takes what is missing at its end as zero. Without padding, as
/// [`IntoBytes`] sees to: what happens to be in that, an older kernel refuses.
///
/// # Safety
/// Laid out as the kernel has it for this command; pointers in it are valid for what
/// the kernel reads and writes through them.
pub(super) unsafe trait Attr: IntoBytes {}

pub(super) fn bpf<A: Attr>(command: Command, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: `Attr` promises that the kernel finds what it expects, and the size tells where it ends.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, mem::size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

pub(super) fn bpf_fd<A: Attr>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command returned a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pointer as `union bpf_attr` has it.
pub(super) fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

#[derive(IntoBytes)]
#[repr(C)]
struct ObjAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}
// SAFETY: BPF_OBJ_*; the path is a C string that lives as long as the call.
unsafe impl Attr for ObjAttr {}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Opens what is pinned at `path`.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf_fd(Command::ObjGet, &mut ObjAttr { pathname: address(path.as_ptr()), fd: 0, flags: 0 })
}

/// What can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Map,
    Program,
    Link,
}

/// What this is, as the kernel names it: `bpf(2)` itself answers about each as if it were what was asked
/// for.
pub(super) fn kind(object: BorrowedFd<'_>) -> io::Result<Kind> {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    // Some kernels have it in brackets.
    match name.to_string_lossy().trim_start_matches("anon_inode:").trim_matches(['[', ']']) {
        "bpf-map" => Ok(Kind::Map),
        "bpf-prog" => Ok(Kind::Program),
        "bpf_link" | "bpf-link" => Ok(Kind::Link),
        other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("a {other}"))),
    }
}

/// Pins a link, map or program.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: address(path.as_ptr()), fd: raw(object), flags: 0 };
    bpf(Command::ObjPin, &mut attr).map(drop)
}

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

#[derive(IntoBytes)]
#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}
// SAFETY: BPF_LINK_CREATE; no pointers.
unsafe impl Attr for LinkCreateAttr {}

/// Attaches a program to a netdev of the calling thread's namespace. XDP in driver mode or not at all; TCX
/// before what is there, for a program may end the chain.
pub(super) fn link(program: BorrowedFd<'_>, ifindex: u32, to: AttachType) -> io::Result<OwnedFd> {
    let flags = match to {
        AttachType::Xdp => XDP_FLAGS_DRV_MODE,
        AttachType::TcxIngress | AttachType::TcxEgress => BPF_F_BEFORE,
    };
    let program = raw(program);
    let mut attr = LinkCreateAttr {
        program,
        ifindex,
        attach_type: to as u32,
        flags,
        relative: 0,
        padding: 0,
        revision: 0,
    };
    bpf_fd(Command::LinkCreate, &mut attr)
}

#[derive(IntoBytes)]
#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}
// SAFETY: BPF_LINK_UPDATE; no pointers.
unsafe impl Attr for LinkUpdateAttr {}

/// Swaps the program of a link, which keeps its id and its place.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link: raw(link), program: raw(program), flags: 0, old_program: 0 };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

#[derive(IntoBytes)]
#[repr(C)]
struct LinkDetachAttr {
    link: u32,
}
// SAFETY: BPF_LINK_DETACH; no pointers.
unsafe impl Attr for LinkDetachAttr {}

/// Detaches a link now. Without this it ends some time after its last reference has gone.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(Command::LinkDetach, &mut LinkDetachAttr { link: raw(link) }).map(drop)
}

#[derive(IntoBytes)]
#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}
// SAFETY: BPF_*_GET_FD_BY_ID; no pointers.
unsafe impl Attr for IdAttr {}

#[derive(IntoBytes)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}
// SAFETY: BPF_OBJ_GET_INFO_BY_FD; used by `info` alone.
unsafe impl Attr for InfoAttr {}

/// The head of a `struct bpf_…_info`; the kernel fills as much as it is given room for.
///
/// # Safety
/// All bit patterns are valid, and pointers in it are valid for what the kernel writes through them.
unsafe trait Info {}

fn info<I: Info>(object: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    let len = u32::try_from(mem::size_of::<I>()).map_err(io::Error::other)?;
    let mut attr = InfoAttr { fd: raw(object), len, info: address(&raw mut *info) };
    bpf(Command::ObjInfo, &mut attr).map(drop)
}

/// What the kernel tells about a link.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}
// SAFETY: integers only.
unsafe impl Info for LinkInfo {}

/// An attachment as the kernel has it now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub link_id: u32,
    pub program_id: u32,
    pub to: AttachType,
    /// 0 once the netdev is destroyed. In another namespace it is an index there.
    pub ifindex: u32,
}

/// Asks about a link; an error of kind `Unsupported` if it is none of ours.
pub(super) fn attachment(link: BorrowedFd<'_>) -> io::Result<Attachment> {
    let mut of = LinkInfo::default();
    info(link, &mut of)?;
    let to = match of.kind {
        BPF_LINK_TYPE_XDP => AttachType::Xdp,
        BPF_LINK_TYPE_TCX if of.attach_type == AttachType::TcxIngress as u32 => AttachType::TcxIngress,
        BPF_LINK_TYPE_TCX if of.attach_type == AttachType::TcxEgress as u32 => AttachType::TcxEgress,
        kind => return Err(io::Error::new(io::ErrorKind::Unsupported, format!("a BPF link of type {kind}"))),
    };
    Ok(Attachment { link_id: of.id, program_id: of.program, to, ifindex: of.ifindex })
}

/// What the kernel tells about a map.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    pub value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}
// SAFETY: integers only.
unsafe impl Info for MapInfo {}

/// Asks about a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut of = MapInfo::default();
    info(map, &mut of)?;
    Ok(of)
}

#[derive(IntoBytes)]
#[repr(C)]
struct BtfLoadAttr {
    btf: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    padding: u32,
}
// SAFETY: BPF_BTF_LOAD; the kernel reads `size` bytes, and is given no room for a log.
unsafe impl Attr for BtfLoadAttr {}

/// Has the kernel read an object's types.
pub(super) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let size = u32::try_from(btf.len()).map_err(io::Error::other)?;
    let btf = address(btf.as_ptr());
    let mut attr = BtfLoadAttr { btf, log: 0, size, log_size: 0, log_level: 0, padding: 0 };
    bpf_fd(Command::BtfLoad, &mut attr)
}

#[derive(IntoBytes)]
#[repr(C)]
struct LookupAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM; used by `on_first_entry` alone.
unsafe impl Attr for LookupAttr {}

#[derive(IntoBytes)]
#[repr(C)]
struct FreezeAttr {
    map: u32,
}
// SAFETY: BPF_MAP_FREEZE; no pointers.
unsafe impl Attr for FreezeAttr {}

/// Sets the entry 0 of an array whose entries are as long as this, and allows no other from then on.
pub(super) fn set_for_good(map: BorrowedFd<'_>, entry: &[u8]) -> io::Result<()> {
    if map_info(map)?.value_size as usize != entry.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    on_first_entry(Command::MapUpdate, map, address(entry.as_ptr()))?;
    bpf(Command::MapFreeze, &mut FreezeAttr { map: raw(map) }).map(drop)
}

/// Sets the entry 0 of a per-CPU array: for each CPU its words.
pub(super) fn set_first_entry(map: BorrowedFd<'_>, words: &[u64]) -> io::Result<()> {
    on_first_entry(Command::MapUpdate, map, address(words.as_ptr()))
}

/// The entry 0 of an array, as 8-byte words; a per-CPU array needs `copies` of it.
pub(super) fn first_entry(map: BorrowedFd<'_>, value_size: u32, copies: usize) -> io::Result<Vec<u64>> {
    let words = value_size.div_ceil(8) as usize * copies;
    let mut value = vec![0_u64; words];
    // The kernel writes `value_size`, rounded up to 8, once for each possible CPU.
    on_first_entry(Command::MapLookup, map, address(value.as_mut_ptr()))?;
    Ok(value)
}

/// Has the entry 0 of an array read from or written to where `value` points.
fn on_first_entry(command: Command, map: BorrowedFd<'_>, value: u64) -> io::Result<()> {
    let key = 0_u32;
    let mut attr = LookupAttr { map: raw(map), padding: 0, key: address(&raw const key), value, flags: 0 };
    bpf(command, &mut attr).map(drop)
}

/// What the kernel tells about a program.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
}
// SAFETY: integers only.
unsafe impl Info for ProgInfo {}

/// The id of a program.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut of = ProgInfo::default();
    info(program, &mut of)?;
    Ok(of.id)
}

/// What makes two programs the same: a hash of their instructions, whatever maps they work on.
pub(super) type Tag = [u8; 8];

/// Asks for a program's.
pub(super) fn tag(program: BorrowedFd<'_>) -> io::Result<Tag> {
    let mut of = ProgInfo::default();
    info(program, &mut of)?;
    Ok(of.tag)
}

/// Opens a loaded program.
pub(super) fn program(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(Command::ProgFdById, &mut IdAttr { id, next: 0, flags: 0 })
}

/// Opens a link.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(Command::LinkFdById, &mut IdAttr { id, next: 0, flags: 0 })
}
