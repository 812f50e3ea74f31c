//! A program is loaded: the one call of bpf(2) that gets all of it.
use std::{
    ffi::CStr,
    io,
    num::TryFromIntError,
    os::fd::{BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;
use nix::libc;
use zerocopy::IntoBytes;

use super::kernel::{AttachType, Attr, Command, address, bpf_fd, raw};

#[derive(IntoBytes)]
#[repr(C)]
struct ProgLoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
    btf: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
}
// SAFETY: BPF_PROG_LOAD; used by `NewProgram::load` alone.
unsafe impl Attr for ProgLoadAttr {}

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgramType {
    /// XDP; whether it can do with frames in several buffers.
    Xdp { frags: bool },
    /// TCX and clsact.
    Classifier,
}

/// A program to be loaded.
pub(super) struct NewProgram<'a> {
    /// The kernel keeps 15 bytes of it.
    pub name: &'a str,
    pub kind: ProgramType,
    pub license: &'a CStr,
    pub instructions: &'a [bpf_insn],
    /// The types, by which its functions have names.
    pub btf: Option<BorrowedFd<'a>>,
    /// `struct bpf_func_info` of each, so long.
    pub functions: &'a [u8],
    pub function_size: usize,
}

impl NewProgram<'_> {
    /// Loads it; with the error comes the end of what the verifier says. Without the lines of the source, which
    /// the kernel would keep with each program.
    pub fn load(&self) -> Result<OwnedFd, (io::Error, String)> {
        const LOG: u32 = 1 << 18;
        const LAST_LINES: usize = 24;
        // A signal makes the verifier give up.
        const ATTEMPTS: u32 = 5;
        let failed = |error| (error, String::new());
        let mut attr = self.attr().map_err(|error| failed(io::Error::other(error)))?;
        let mut loaded = bpf_fd(Command::ProgLoad, &mut attr);
        for _ in 1..ATTEMPTS {
            match &loaded {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    loaded = bpf_fd(Command::ProgLoad, &mut attr);
                }
                _ => break,
            }
        }
        loaded.map_err(|error| {
            let mut log = vec![0_u8; LOG as usize];
            attr.log = address(log.as_mut_ptr());
            (attr.log_level, attr.log_size) = (1, LOG);
            if bpf_fd(Command::ProgLoad, &mut attr).is_ok() {
                return failed(error);
            }
            let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
            let lines: Vec<_> = text.lines().collect();
            (error, lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"))
        })
    }

    /// Points into what this borrows.
    fn attr(&self) -> Result<ProgLoadAttr, TryFromIntError> {
        let mut name = [0; 16];
        // Less one, for the zero at its end.
        for (to, from) in name[..15].iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        let (kind, flags, attach_type) = match self.kind {
            ProgramType::Xdp { frags } => {
                (BPF_PROG_TYPE_XDP, if frags { BPF_F_XDP_HAS_FRAGS } else { 0 }, AttachType::Xdp as u32)
            }
            ProgramType::Classifier => (BPF_PROG_TYPE_SCHED_CLS, 0, 0),
        };
        let functions = if self.btf.is_some() { self.functions } else { &[] };
        Ok(ProgLoadAttr {
            kind,
            instruction_count: self.instructions.len().try_into()?,
            instructions: address(self.instructions.as_ptr()),
            license: address(self.license.as_ptr()),
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags,
            name,
            ifindex: 0,
            attach_type,
            btf: self.btf.map_or(0, raw),
            function_size: self.function_size.try_into()?,
            functions: address(functions.as_ptr()),
            function_count: functions.len().checked_div(self.function_size).unwrap_or(0).try_into()?,
            line_size: 0,
        })
    }
}
