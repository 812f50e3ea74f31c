//! Loading the programs for one endpoint, attaching them, and taking over those of a driver before us.
use std::{
    collections::HashMap,
    error::Error as StdError,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{Ebpf, EbpfLoader, programs::ProgramError};
use nix::libc;

use super::{
    Error, Hook, Plan, Result,
    kernel::{self, AttachType, Identity},
    map::{self, Maps},
    pins::{self, Pinned, Pins, Side},
    reports::Reports,
    tcx::has_tcx,
};
use crate::{
    fault,
    state::{id::EndpointId, model::CounterSet},
};

/// The BPF programs, as `cargo xtask build-ebpf` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BPF_OBJECT"));
/// The same, and they report.
static REPORTING_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BPF_OBJECT_LOG"));

/// What became of the counters that a driver before us left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// Their programs are ours.
    Unchanged,
    /// Their programs were replaced by ours in place; what they had counted stays.
    Replaced,
    /// Their programs stay: the entries of their map have another size than ours.
    Kept {
        /// Bytes of an entry of the pinned map.
        pinned: usize,
        /// Bytes of an entry of ours.
        ours: usize,
    },
}

/// Attaches counters to netdevs. Lives as long as the driver.
pub struct Counters {
    bpffs: PathBuf,
    object: &'static [u8],
    loader: Mutex<Option<Loader>>,
    reports: Option<Reports>,
}

/// aya's loader parses the kernel's BTF when it is made, for ≈ 18 ms and some MiB, and our programs have no
/// use for it: made when it is first needed, and kept without.
struct Loader {
    aya: EbpfLoader<'static>,
    /// aya borrows the values of constants for as long as the loader lives. MACs are therefore never
    /// freed, and each is stored once: a machine has few netdevs.
    macs: HashMap<[u32; 2], &'static [u32; 2]>,
    maps: Maps,
    /// The instructions of our programs, of those that have been loaded once.
    tags: HashMap<AttachType, [u8; 8]>,
}

impl Counters {
    /// Does nothing yet. `bpffs` is the folder that has the endpoints' folders.
    pub fn new(bpffs: PathBuf) -> Self {
        Self::with_object(bpffs, OBJECT)
    }

    /// With programs that also report frames of foreign source MACs, to this driver's log. Each endpoint
    /// then has a ring of 128 KiB. To be used within a tokio runtime, which reads the rings.
    pub fn reporting(bpffs: PathBuf) -> Self {
        Self { reports: Some(Reports::default()), ..Self::with_object(bpffs, REPORTING_OBJECT) }
    }

    /// With other programs than the built-in ones. For tests: the programs and the map must have the
    /// same names.
    #[doc(hidden)]
    pub fn with_object(bpffs: PathBuf, object: &'static [u8]) -> Self {
        Self { bpffs, object, loader: Mutex::new(None), reports: None }
    }

    /// The folder that has the endpoints' folders.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Makes the folder, on a BPF file system. Mounts one on `/sys/fs/bpf` if the folder is to be there.
    pub fn prepare(&self) -> Result<()> {
        pins::prepare(&self.bpffs)
    }

    /// Counts an endpoint's frames from now on, until [`detach`](Self::detach); where the kernel has no TCX,
    /// once the [filters](super::filters) are attached. What an attempt that was cut short left is
    /// replaced; living counters aren't.
    pub fn attach(&self, endpoint: &EndpointId, plan: &Plan) -> Result<()> {
        let pins = Pins::new(&self.bpffs, endpoint);
        let lives = |pinned: Result<Pinned>| {
            pinned.is_ok_and(|pinned| pinned.ifindex().is_some_and(|ifindex| ifindex != 0))
        };
        if lives(pins.rx()) && lives(pins.tx()) {
            return Err(Error::AlreadyCounted { endpoint: endpoint.clone() });
        }
        pins.remove()?;
        pins.create()?;
        self.attach_at(&pins, endpoint, plan).inspect_err(|_| {
            // Links that aren't pinned yet went with their descriptors.
            if let Err(error) = self.detach(endpoint) {
                tracing::warn!(%endpoint, %error, "counters that could not be attached are left behind");
            }
        })
    }

    fn attach_at(&self, pins: &Pins, endpoint: &EndpointId, plan: &Plan) -> Result<()> {
        fault::step!("counters.folder");
        let mut ebpf = self.load(pins, endpoint, plan)?;
        fault::step!("counters.map");
        for (side, hook, program) in [
            (Side::Rx, plan.rx_hook, plan.rx_hook.receive()),
            (Side::Tx, Hook::in_stack(), AttachType::TcxEgress),
        ] {
            let object = match hook {
                Hook::Clsact => load_program(&mut ebpf, endpoint, program)?,
                Hook::Xdp | Hook::Tcx => link(&mut ebpf, endpoint, plan, program)?,
            };
            fault::step!("counters.linked");
            pins.pin(side, &object)?;
            fault::step!("counters.pinned");
        }
        Ok(())
    }

    /// Takes over what a driver before us attached: its programs are replaced by ours if they differ, in
    /// place, wherever the netdev is now. The hook stays what it is; filters get the new programs when they
    /// are looked at next. Programs that report are always replaced: the ring of the old ones went with the
    /// driver that read it.
    pub fn adopt(&self, endpoint: &EndpointId, plan: &Plan) -> Result<Adopted> {
        let pins = Pins::new(&self.bpffs, endpoint);
        let (rx, tx) = (pins.rx()?, pins.tx()?);
        if rx.ifindex() == Some(0) || tx.ifindex() == Some(0) {
            return Err(Error::NetdevGone { endpoint: endpoint.clone() });
        }
        let map = kernel::map_info(pins.counters()?.as_fd())
            .map_err(|source| Error::Read { endpoint: endpoint.clone(), source })?;
        let (pinned, ours) = (map.value_size as usize, map::value_size(plan.counters));
        if pinned != ours {
            return Ok(Adopted::Kept { pinned, ours });
        }
        if self.reports.is_none() && self.are_ours(endpoint, plan, [(Side::Rx, &rx), (Side::Tx, &tx)])? {
            return Ok(Adopted::Unchanged);
        }
        let mut ebpf = self.load(&pins, endpoint, plan)?;
        let mut adopted = Adopted::Unchanged;
        for (side, pinned) in [(Side::Rx, rx), (Side::Tx, tx)] {
            let program = load_program(&mut ebpf, endpoint, pinned.program(side))?;
            let failed = |source| Error::Replace { endpoint: endpoint.clone(), source };
            let ours = kernel::identity(program.as_fd()).map_err(failed)?;
            if let Some(loader) = &mut *self.loader() {
                loader.tags.insert(pinned.program(side), ours.tag);
            }
            if self.reports.is_none() && identity(&pinned).map_err(failed)? == ours {
                continue;
            }
            match pinned {
                Pinned::Link { fd, .. } => kernel::replace(fd.as_fd(), program.as_fd()).map_err(failed)?,
                Pinned::Program { .. } => pins.replace(side, &program)?,
            }
            adopted = Adopted::Replaced;
        }
        Ok(adopted)
    }

    /// Ends the counting and removes every trace of it. Fine if there is none.
    pub fn detach(&self, endpoint: &EndpointId) -> Result<()> {
        if let Some(reports) = &self.reports {
            reports.end(endpoint);
        }
        Pins::new(&self.bpffs, endpoint).remove()
    }

    /// Whether the pinned programs are what [`load`](Self::load) would make, as far as that is known without
    /// having the kernel verify all of it again: that takes most of the time of an adoption.
    fn are_ours(&self, endpoint: &EndpointId, plan: &Plan, pinned: [(Side, &Pinned); 2]) -> Result<bool> {
        let failed =
            |source: Box<dyn StdError + Send + Sync>| Error::Load { endpoint: endpoint.clone(), source };
        let guard = self.loader();
        let Some(Loader { maps, tags, .. }) = &*guard else { return Ok(false) };
        let words = plan.spoof_check.words();
        let constants = maps.constants(&constants(plan, &words)).map_err(failed)?;
        for (side, pinned) in pinned {
            let Some(tag) = tags.get(&pinned.program(side)) else { return Ok(false) };
            let found = identity(pinned).map_err(|error| failed(error.into()))?;
            if found.tag != *tag || found.constants != constants {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whoever panicked did so in aya; the loader sets all that a load depends on.
    fn loader(&self) -> MutexGuard<'_, Option<Loader>> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the map, too, if there is none yet.
    fn load(&self, pins: &Pins, endpoint: &EndpointId, plan: &Plan) -> Result<Ebpf> {
        let failed = |source| Error::Load { endpoint: endpoint.clone(), source };
        let mut guard = self.loader();
        let Loader { aya, macs, maps, .. } = match &mut *guard {
            Some(loader) => loader,
            none => none.insert(Loader::new(self.object).map_err(failed)?),
        };
        let path = pins.counters_path();
        if !path.exists() {
            maps.create(plan.counters, &path).map_err(failed)?;
        }
        let words = plan.spoof_check.words();
        let mac: &'static [u32; 2] = macs.entry(words).or_insert_with(|| Box::leak(Box::new(words)));
        for (name, value) in constants(plan, mac) {
            aya.override_global(name, value, true);
        }
        for name in map::IN_OBJECT {
            aya.map_pin_path(name, path.clone());
        }
        let mut ebpf = aya.load(self.object).map_err(|source| failed(source.into()))?;
        if let Some(reports) = &self.reports {
            reports.follow(endpoint, &mut ebpf).map_err(failed)?;
        }
        Ok(ebpf)
    }
}

impl Loader {
    fn new(object: &[u8]) -> std::result::Result<Self, Box<dyn StdError + Send + Sync>> {
        let mut aya = EbpfLoader::new();
        aya.btf(None);
        Ok(Self { aya, macs: HashMap::new(), maps: Maps::of(object)?, tags: HashMap::new() })
    }
}

/// What is set in `.rodata`; `mac` is the words of the spoof check's.
fn constants<'a>(plan: &Plan, mac: &'a [u32; 2]) -> [(&'static str, &'a [u32]); 4] {
    let one = std::slice::from_ref;
    [
        ("SPOOF_CHECK", one(plan.spoof_check.constant())),
        ("SOURCE_MAC", mac),
        ("XDP_FRAGS", one(constant(plan.frags))),
        ("DETAILED", one(constant(plan.counters == CounterSet::Detailed))),
    ]
}

fn constant(yes: bool) -> &'static u32 {
    if yes { &1 } else { &0 }
}

fn program_name(at: AttachType) -> &'static str {
    match at {
        AttachType::Xdp => "passthru_rx_xdp",
        AttachType::TcxIngress => "passthru_rx_tcx",
        AttachType::TcxEgress => "passthru_tx_tcx",
    }
}

/// Only what is attached is loaded.
fn load_program(ebpf: &mut Ebpf, endpoint: &EndpointId, at: AttachType) -> Result<OwnedFd> {
    let failed = |source: Box<dyn StdError + Send + Sync>| Error::Load { endpoint: endpoint.clone(), source };
    let name = program_name(at);
    let program = ebpf.program_mut(name).ok_or_else(|| failed(format!("no program {name}").into()))?;
    let load = |program: &mut aya::programs::Program| -> std::result::Result<OwnedFd, ProgramError> {
        use aya::programs::{SchedClassifier, Xdp};
        let fd = if at == AttachType::Xdp {
            let program: &mut Xdp = program.try_into()?;
            program.load()?;
            program.fd()?.as_fd().try_clone_to_owned()
        } else {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            program.fd()?.as_fd().try_clone_to_owned()
        };
        fd.map_err(ProgramError::IOError)
    };
    load(program).map_err(|source| failed(Box::new(source)))
}

fn link(ebpf: &mut Ebpf, endpoint: &EndpointId, plan: &Plan, at: AttachType) -> Result<OwnedFd> {
    let program = load_program(ebpf, endpoint, at)?;
    let ifindex = plan.ifindex;
    kernel::link(program.as_fd(), ifindex, at).map_err(|source| match at {
        AttachType::Xdp => Error::NativeXdp { ifindex, source },
        _ if source.raw_os_error() == Some(libc::EINVAL) && !has_tcx() => Error::NoTcx { source },
        _ => Error::Attach { hook: Hook::from(at), ifindex, source },
    })
}

/// What the pinned program is.
fn identity(pinned: &Pinned) -> io::Result<Identity> {
    match pinned {
        Pinned::Link { at, .. } => kernel::identity(kernel::program(at.program_id)?.as_fd()),
        Pinned::Program { fd, .. } => kernel::identity(fd.as_fd()),
    }
}
