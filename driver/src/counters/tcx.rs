//! Others' programs at a netdev's TCX hooks. Whoever has CAP_BPF in a container can attach them there, and
//! they stay with the netdev: those without a link for good.
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::LazyLock,
};

use nix::libc;
use zerocopy::IntoBytes;

use super::{
    Error, Result,
    kernel::{self, AttachType, Attr, Command, address, bpf, raw},
};
use crate::state::model::TcxIds;

const HOOKS: [AttachType; 2] = [AttachType::TcxIngress, AttachType::TcxEgress];

/// `loopback_net_init` (drivers/net/loopback.c): each namespace has it, under this number.
const LOOPBACK: u32 = 1;

/// Whether this kernel has TCX: one that has not does not know the question.
pub fn has_tcx() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        !chain(LOOPBACK, AttachType::TcxEgress)
            .is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::E2BIG)))
    });
    *HAS
}

/// What is at both TCX hooks of a netdev of the calling thread's namespace.
pub fn tcx_ids(ifindex: u32) -> Result<TcxIds> {
    let mut ids = TcxIds::default();
    for hook in HOOKS {
        for Chained { program, link } in found(ifindex, hook)? {
            if link == 0 {
                ids.programs.push(program);
            } else {
                ids.links.push(link);
            }
        }
    }
    Ok(ids)
}

/// Takes off what is at the TCX hooks, other than `keep`.
pub fn clear_tcx(ifindex: u32, keep: &TcxIds) -> Result<()> {
    for hook in HOOKS {
        for chained in found(ifindex, hook)? {
            let Chained { program, link } = chained;
            let kept = if link == 0 { keep.programs.contains(&program) } else { keep.links.contains(&link) };
            if kept {
                continue;
            }
            tracing::warn!(ifindex, program, link, ?hook, "taking off a program that the container attached");
            match take_off(ifindex, hook, chained) {
                // It went meanwhile.
                Err(source) if source.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(Error::Foreign { ifindex, program, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

fn take_off(ifindex: u32, hook: AttachType, Chained { program, link }: Chained) -> io::Result<()> {
    if link == 0 {
        let program = kernel::program(program)?;
        detach_program(program.as_fd(), ifindex, hook)
    } else {
        let link = kernel::link_by_id(link)?;
        kernel::detach(link.as_fd())
    }
}

fn found(ifindex: u32, hook: AttachType) -> Result<Vec<Chained>> {
    match chain(ifindex, hook) {
        Ok(chain) => Ok(chain),
        // ENOENT: nothing is there. EINVAL: a kernel before 6.6, without the hooks.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(Vec::new()),
        Err(source) => Err(Error::Query { ifindex, source }),
    }
}

#[derive(IntoBytes)]
#[repr(C)]
struct DetachAttr {
    ifindex: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    revision: u64,
}
// SAFETY: BPF_PROG_DETACH; no pointers.
unsafe impl Attr for DetachAttr {}

/// Detaches a program that was attached without a link, in the calling thread's namespace.
fn detach_program(program: BorrowedFd<'_>, ifindex: u32, from: AttachType) -> io::Result<()> {
    let mut attr = DetachAttr {
        ifindex,
        program: raw(program),
        attach_type: from as u32,
        flags: 0,
        replaced: 0,
        relative: 0,
        revision: 0,
    };
    bpf(Command::ProgDetach, &mut attr).map(drop)
}

#[derive(IntoBytes)]
#[repr(C)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}
// SAFETY: BPF_PROG_QUERY; used by `chain` alone.
unsafe impl Attr for QueryAttr {}

/// A program at a TCX hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chained {
    program: u32,
    /// 0 if it has none.
    pub link: u32,
}

/// What is at a netdev's TCX hook, in the calling thread's namespace.
pub(super) fn chain(ifindex: u32, at: AttachType) -> io::Result<Vec<Chained>> {
    /// The kernel's `BPF_MPROG_MAX`.
    const LINKS: u32 = 64;
    let mut links = [0_u32; LINKS as usize];
    let mut programs = [0_u32; LINKS as usize];
    let mut attr = QueryAttr {
        ifindex,
        attach_type: at as u32,
        query_flags: 0,
        attach_flags: 0,
        program_ids: address(programs.as_mut_ptr()),
        count: LINKS,
        padding: 0,
        program_flags: 0,
        link_ids: address(links.as_mut_ptr()),
        link_flags: 0,
        revision: 0,
    };
    bpf(Command::ProgQuery, &mut attr)?;
    let chained = programs.into_iter().zip(links).map(|(program, link)| Chained { program, link });
    Ok(chained.take(attr.count as usize).collect())
}
