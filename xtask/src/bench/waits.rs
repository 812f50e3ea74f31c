//! What a process waits for within the kernel, apart from its own work.
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Array, MapData};
use aya::programs::{FEntry, FExit, Program};
use aya::{Btf, Ebpf, EbpfLoader};

use super::programs;

/// What is waited for, in the order of `waits.c`.
pub const KINDS: [&str; 3] = ["RCU", "RTNL", "disk"];

/// Programs at the kernel's functions, while this lives.
pub struct Waits(Ebpf);

impl Waits {
    /// Of the process with this id.
    pub fn of(process: u32) -> Result<Self> {
        let object = programs::build_waits()?;
        let loading = || format!("loading {}", object.display());
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        let mut ebpf = EbpfLoader::new()
            .override_global("PROCESS", &process, true)
            .load_file(&object)
            .with_context(loading)?;
        for (name, program) in ebpf.programs_mut() {
            let failed = || format!("attaching {name}");
            let Some((_, function)) = name.split_once('_') else { continue };
            match program {
                Program::FEntry(program) => {
                    let program: &mut FEntry = program;
                    program.load(function, &btf).with_context(failed)?;
                    program.attach().with_context(failed)?;
                }
                Program::FExit(program) => {
                    let program: &mut FExit = program;
                    program.load(function, &btf).with_context(failed)?;
                    program.attach().with_context(failed)?;
                }
                _ => {}
            }
        }
        Ok(Self(ebpf))
    }

    /// How long so far, by kind. Threads that wait at the same time count each.
    pub fn so_far(&self) -> Result<[Duration; KINDS.len()]> {
        let map = self.0.map("waited").context("there is no map `waited`")?;
        let map: Array<&MapData, u64> = map.try_into()?;
        let mut all = [Duration::ZERO; KINDS.len()];
        for (kind, waited) in (0..).zip(&mut all) {
            *waited = Duration::from_nanos(map.get(&kind, 0).context("reading `waited`")?);
        }
        Ok(all)
    }
}
