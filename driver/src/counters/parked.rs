//! TCX links that stay on a netdev between two containers.
//!
//! To attach at TCX and to detach, the kernel waits for RCU each time, holding RTNL
//! (`tcx_entry_sync`, in `include/net/tcx.h`): some 12 ms a link. To swap a link's program it waits for
//! nothing. So a netdev that is home keeps its links, with a program that only passes frames on; beside them
//! are kept the map and the programs that counted, which serve the next container if it is counted in the same
//! way. Nothing but this driver's descriptors keeps all this: when it ends, however, so does that.
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;

use super::{
    kernel::{self, AttachType, Tag},
    pins::{Pinned, Pins},
    program::{NewProgram, ProgramType},
    read, tcx,
};

/// `TCX_NEXT`: as if it were not there.
const NEXT: i32 = -1;
/// `BPF_ALU64 | BPF_MOV | BPF_K`, and `BPF_JMP | BPF_EXIT`.
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// What one netdev keeps; nothing by default. Its links are detached when this goes, for which the kernel takes
/// some ms: to be dropped where blocking is fine.
#[derive(Debug, Default)]
pub struct Parked {
    links: Vec<Link>,
    counted: Option<Counted>,
}

#[derive(Debug)]
struct Link {
    fd: OwnedFd,
    id: u32,
    to: AttachType,
}

/// A map, and the programs that count into it. To have them verified again takes longer than all else that
/// attaching takes.
#[derive(Debug)]
pub(super) struct Counted {
    pub map: OwnedFd,
    programs: Vec<(AttachType, OwnedFd)>,
}

impl Parked {
    /// Takes the endpoint's TCX links over, which count nothing from then on; answers with what it got.
    pub(super) fn of(pins: &Pins) -> io::Result<Self> {
        // One of their own: a hook has no program twice.
        let idle = idle()?;
        let (mut links, mut programs) = (Vec::new(), Vec::new());
        for pinned in [pins.tx(), pins.rx()] {
            match pinned {
                Ok(Pinned::Link { fd, at }) if at.to != AttachType::Xdp && at.ifindex != 0 => {
                    programs.extend(kernel::program(at.program_id).ok().map(|program| (at.to, program)));
                    kernel::replace(fd.as_fd(), idle.as_fd())?;
                    links.push(Link { fd, id: at.link_id, to: at.to });
                }
                _ => {}
            }
        }
        Ok(Self { links, counted: pins.counters().ok().map(|map| Counted { map, programs }) })
    }

    /// Whether there is no link.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The kernel's ids of the links.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.links.iter().map(|link| link.id)
    }

    /// Keeps the links alone.
    pub(super) fn forget_counted(&mut self) {
        self.counted = None;
    }

    /// What was taken, and is not needed.
    pub(super) fn give_back(&mut self, counted: Option<Counted>) {
        self.counted = counted;
    }

    /// What counted, at zero; once, and if the map's entries are as long as this.
    pub(super) fn take_counted(&mut self, value_size: usize) -> Option<Counted> {
        self.counted.take().filter(|Counted { map, .. }| {
            let is_so_long =
                kernel::map_info(map.as_fd()).is_ok_and(|info| info.value_size as usize == value_size);
            is_so_long && read::zero(map.as_fd(), value_size).is_ok()
        })
    }

    /// The link at this hook of this netdev, with this program; none if there is none that comes first, as a
    /// fresh one would. It is no longer among these.
    pub(super) fn take_link(
        &mut self,
        ifindex: u32,
        to: AttachType,
        program: BorrowedFd<'_>,
    ) -> Option<OwnedFd> {
        let index = self.links.iter().position(|link| link.to == to)?;
        let Link { fd, id, .. } = &self.links[index];
        // By its id: no two netdevs' links have the same.
        let is_first = tcx::chain(ifindex, to).ok()?.first()?.link == *id;
        if !is_first || kernel::replace(fd.as_fd(), program).is_err() {
            return None;
        }
        Some(self.links.swap_remove(index).fd)
    }
}

impl Counted {
    /// The program for this hook, if it is one of those with these tags.
    pub fn program(&self, at: AttachType, tags: &[Tag]) -> io::Result<Option<OwnedFd>> {
        // The tag does not tell whether an XDP program can do with frames in several buffers; there are none here.
        let Some((_, program)) = self.programs.iter().find(|(to, _)| *to == at) else { return Ok(None) };
        let tag = kernel::tag(program.as_fd())?;
        tags.contains(&tag).then(|| program.try_clone()).transpose()
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        for link in &self.links {
            // One whose netdev is gone has nothing to be detached from.
            if let Err(error) = kernel::detach(link.fd.as_fd()) {
                tracing::debug!(link = link.id, %error, "detaching a parked link");
            }
        }
    }
}

/// Loads what parked links run.
fn idle() -> io::Result<OwnedFd> {
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
