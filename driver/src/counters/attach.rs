//! Loading the programs for one endpoint, attaching them, and taking over those of a driver before us.
use std::{
    collections::HashMap,
    error::Error as StdError,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use aya::{Ebpf, EbpfLoader, programs::ProgramError};
use nix::libc;

use super::{
    Error, Hook, Plan, Result,
    kernel::{self, AttachType},
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

/// aya's loader parses the kernel's BTF when it is made, for ≈ 18 ms: kept, once it is needed.
struct Loader {
    aya: EbpfLoader<'static>,
    /// aya borrows the values of constants for as long as the loader lives. MACs are therefore never
    /// freed, and each is stored once: a machine has few netdevs.
    macs: HashMap<[u32; 2], &'static [u32; 2]>,
    maps: Maps,
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
        let mut ebpf = self.load(&pins, endpoint, plan)?;
        let mut adopted = Adopted::Unchanged;
        for (side, pinned) in [(Side::Rx, rx), (Side::Tx, tx)] {
            let program = load_program(&mut ebpf, endpoint, pinned.program(side))?;
            let failed = |source| Error::Replace { endpoint: endpoint.clone(), source };
            if self.reports.is_none() && is_same(&pinned, program.as_fd()).map_err(failed)? {
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

    /// Makes the map, too, if there is none yet.
    fn load(&self, pins: &Pins, endpoint: &EndpointId, plan: &Plan) -> Result<Ebpf> {
        let failed = |source| Error::Load { endpoint: endpoint.clone(), source };
        // Whoever panicked did so in aya; the loader sets all that a load depends on.
        let mut guard = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        let Loader { aya, macs, maps } = match &mut *guard {
            Some(loader) => loader,
            none => none.insert(Loader::new(self.object).map_err(failed)?),
        };
        let path = pins.counters_path();
        if !path.exists() {
            maps.create(plan.counters, &path).map_err(failed)?;
        }
        let words = plan.spoof_check.words();
        let mac: &'static [u32; 2] = macs.entry(words).or_insert_with(|| Box::leak(Box::new(words)));
        aya.override_global("SPOOF_CHECK", plan.spoof_check.constant(), true)
            .override_global("SOURCE_MAC", mac, true)
            .override_global("XDP_FRAGS", constant(plan.frags), true)
            .override_global("DETAILED", constant(plan.counters == CounterSet::Detailed), true);
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
        Ok(Self { aya: EbpfLoader::new(), macs: HashMap::new(), maps: Maps::of(object)? })
    }
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

/// Whether what is pinned has this program.
fn is_same(pinned: &Pinned, program: BorrowedFd<'_>) -> io::Result<bool> {
    let old = match pinned {
        Pinned::Link { at, .. } => &kernel::program(at.program_id)?,
        Pinned::Program { fd, .. } => fd,
    };
    Ok(kernel::identity(old.as_fd())? == kernel::identity(program)?)
}
