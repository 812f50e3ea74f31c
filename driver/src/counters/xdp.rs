//! Others' XDP on a netdev. Whoever has CAP_BPF in a container can attach it by a link, which the netdev then takes
//! along, and which nobody takes off over netlink.
use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::libc;
use zerocopy::IntoBytes;

use super::{
    Error, Result,
    kernel::{self, AttachType, Attr, Command, bpf},
};

/// How often each is asked for its program.
pub const SAMPLES: usize = 64;

/// Detaches the links by which these programs are on the netdev of the calling thread's namespace. Each link that
/// there is has to be asked: a netdev tells its programs, and not their links.
pub fn clear_xdp(ifindex: u32, programs: &BTreeSet<u32>) -> Result<()> {
    let mut id = 0;
    loop {
        let failed = |source| Error::Links { source };
        id = match next(id) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(()),
            Err(source) => return Err(failed(source)),
        };
        let Some(link) = open(id).map_err(failed)? else { continue };
        // Another namespace has the number, too, but on a netdev that is another's not these programs.
        if let Some(program) = program_on(link.as_fd(), ifindex, programs) {
            tracing::warn!(
                ifindex,
                program,
                link = id,
                "taking off an XDP program that the container attached"
            );
            kernel::detach(link.as_fd()).map_err(|source| Error::Foreign { ifindex, program, source })?;
        }
    }
}

#[derive(IntoBytes)]
#[repr(C)]
struct NextAttr {
    start: u32,
    next: u32,
}
// SAFETY: BPF_LINK_GET_NEXT_ID; no pointers.
unsafe impl Attr for NextAttr {}

/// The id of the link that comes after this one; none after the last.
fn next(id: u32) -> io::Result<Option<u32>> {
    let mut attr = NextAttr { start: id, next: 0 };
    match bpf(Command::LinkNextId, &mut attr) {
        Ok(_) => Ok(Some(attr.next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The program of the link, if it is an XDP one on such a netdev.
fn program_on(link: BorrowedFd<'_>, ifindex: u32, programs: &BTreeSet<u32>) -> Option<u32> {
    let attachment = || kernel::attachment(link).ok();
    let is_there = |of: &kernel::Attachment| of.to == AttachType::Xdp && of.ifindex == ifindex;
    attachment().filter(is_there)?;
    let seen = (0..SAMPLES).filter_map(|_| Some(attachment()?.program_id));
    seen.into_iter().find(|program| programs.contains(program))
}

/// None if it has gone meanwhile.
fn open(id: u32) -> io::Result<Option<OwnedFd>> {
    match kernel::link_by_id(id) {
        Ok(link) => Ok(Some(link)),
        // Gone, or its last reference is just going.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => Ok(None),
        Err(error) => Err(error),
    }
}
