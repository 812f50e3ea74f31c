//! TCX links that stay on a netdev between two containers.
//!
//! To attach at TCX and to detach, the kernel waits for RCU each time, holding RTNL
//! (`tcx_entry_sync`, in `include/net/tcx.h`): some 12 ms a link. To swap a link's program it waits for
//! nothing. So a netdev that is home keeps its links, with a program that only passes frames on. Nothing but
//! this driver's descriptors keeps them: when it ends, however, so do they.
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;

use super::{
    kernel::{self, AttachType},
    pins::{Pinned, Pins},
    program::{NewProgram, ProgramType},
    tcx,
};

/// `TCX_NEXT`: as if it were not there.
const NEXT: i32 = -1;
/// `BPF_ALU64 | BPF_MOV | BPF_K`, and `BPF_JMP | BPF_EXIT`.
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// The links of one netdev; none by default. They are detached when this goes, for which the kernel takes some ms:
/// to be dropped where blocking is fine.
#[derive(Debug, Default)]
pub struct Parked(Vec<Link>);

#[derive(Debug)]
struct Link {
    fd: OwnedFd,
    id: u32,
    to: AttachType,
}

impl Parked {
    /// Takes the endpoint's TCX links over, which count nothing from then on; answers with what it got.
    pub(super) fn of(pins: &Pins, idle: BorrowedFd<'_>) -> io::Result<Self> {
        let mut links = Vec::new();
        for pinned in [pins.tx(), pins.rx()] {
            match pinned {
                Ok(Pinned::Link { fd, at }) if at.to != AttachType::Xdp && at.ifindex != 0 => {
                    kernel::replace(fd.as_fd(), idle)?;
                    links.push(Link { fd, id: at.link_id, to: at.to });
                }
                _ => {}
            }
        }
        Ok(Self(links))
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kernel's ids of the links.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|link| link.id)
    }

    /// The link at this hook of this netdev, with this program; none if there is none that comes first, as a
    /// fresh one would. It is no longer among these.
    pub(super) fn take(&mut self, ifindex: u32, to: AttachType, program: BorrowedFd<'_>) -> Option<OwnedFd> {
        let index = self.0.iter().position(|link| link.to == to)?;
        let first = tcx::chain(ifindex, to).ok()?.first()?.link;
        // By its id: ids are unique, also among netdevs.
        if first != self.0[index].id || kernel::replace(self.0[index].fd.as_fd(), program).is_err() {
            return None;
        }
        Some(self.0.swap_remove(index).fd)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        for link in &self.0 {
            // One whose netdev is gone has nothing to be detached from.
            if let Err(error) = kernel::detach(link.fd.as_fd()) {
                tracing::debug!(link = link.id, %error, "detaching a parked link");
            }
        }
    }
}

/// Loads what parked links run.
pub(super) fn idle() -> io::Result<OwnedFd> {
    let instruction = |code, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    };
    let program = NewProgram {
        name: "passthru_idle",
        kind: ProgramType::Classifier,
        license: c"GPL",
        instructions: &[instruction(MOVE, NEXT), instruction(EXIT, 0)],
        btf: None,
        functions: &[],
        function_size: 0,
    };
    program.load().map_err(|(error, _)| error)
}
