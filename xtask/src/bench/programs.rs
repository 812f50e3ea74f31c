//! The programs that are measured: ours as the driver loads them, and C.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions, Xdp};
use driver_common::Constants;
use nix::time::{ClockId, clock_gettime};

use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::{bpf, workspace};

const LIMIT: Duration = Duration::from_mins(2);
const SOURCE: &str = "xtask/bench/peers.c";

/// The MAC that frames of ours come from, as the programs compare it.
pub const OWN_MAC: [u32; 2] = [u32::from_ne_bytes([2, 0, 0, 0]), u16::from_ne_bytes([0, 1]) as u32];

/// Builds ours, and C by clang; answers where the objects are.
pub fn build() -> Result<[PathBuf; 2]> {
    bpf::build(None)?;
    // Which headers belong to the C library is the architecture's business.
    let headers = PathBuf::from(format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH));
    let asm = headers.join("asm/types.h");
    let needs = [
        Need::program("clang", &["clang"]),
        Need::new("the kernel's headers", &["linux-libc-dev"], move || asm.exists()),
    ];
    packages::ensure("measuring against C", &needs)?;
    let folder = workspace::target("bench");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let peers = folder.join("peers.o");
    let mut clang = command("clang");
    clang.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", "-I"]).arg(headers);
    clang.arg("-c").arg(workspace::root().join(SOURCE)).arg("-o").arg(&peers);
    process::step("Building the C programs with clang", &mut clang, LIMIT)?;
    Ok([workspace::target("bpf/docker-passthrough.o"), peers])
}

/// A loaded program. What it was loaded from lives as long.
pub struct Loaded {
    ebpf: Ebpf,
    name: String,
    is_xdp: bool,
    /// After the verifier.
    pub instructions: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

impl Loaded {
    /// Loads a program of ours.
    pub fn ours(object: &Path, name: &str, constants: Constants) -> Result<Self> {
        let mut bytes = read(object)?;
        // Instructions are aligned to their size.
        for instruction in bytes.as_chunks_mut::<8>().0 {
            let [opcode, _, _, _, immediate @ ..] = instruction;
            *immediate = constants.fill(*opcode, i32::from_ne_bytes(*immediate)).to_ne_bytes();
        }
        Self::new(&bytes, name)
    }

    /// Loads one in C.
    pub fn peer(object: &Path, name: &str) -> Result<Self> {
        Self::new(&read(object)?, name)
    }

    fn new(object: &[u8], name: &str) -> Result<Self> {
        let loading = || format!("loading {name}");
        let mut ebpf = Ebpf::load(object).with_context(loading)?;
        let program = ebpf.program_mut(name).context("there is no such program").with_context(loading)?;
        let is_xdp = matches!(program, aya::programs::Program::Xdp(_));
        if is_xdp {
            let program: &mut Xdp = program.try_into()?;
            program.load().with_context(loading)?;
        } else {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(loading)?;
        }
        let info: ProgramInfo = program.info()?;
        Ok(Self {
            name: name.to_owned(),
            is_xdp,
            instructions: info.size_translated().unwrap_or(0) / 8,
            jited: info.size_jitted(),
            ebpf,
        })
    }

    /// Runs it so many times on one frame; answers the nanoseconds that each took, and what it returned.
    pub fn run(&self, frame: &[u8], context: Option<&[u8]>, repeat: u32) -> Result<(f64, u32)> {
        let program = self.ebpf.program(&self.name).context("the program is gone")?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = context;
        options.repeat = repeat;
        // The kernel's own figure has no fractions. This thread's time, not that of whoever else runs.
        let started = cpu_time()?;
        let result = if self.is_xdp {
            let program: &Xdp = program.try_into()?;
            program.test_run(options)?
        } else {
            let program: &SchedClassifier = program.try_into()?;
            program.test_run(options)?
        };
        let nanoseconds = cpu_time()?.saturating_sub(started).as_secs_f64() * 1e9 / f64::from(repeat);
        Ok((nanoseconds, result.return_value))
    }
}

fn read(object: &Path) -> Result<Vec<u8>> {
    fs::read(object).with_context(|| format!("reading {}", object.display()))
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
