//! Loading the programs for one endpoint, attaching them, and taking over those of a driver before us.
use std::{
    error::Error as StdError,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use driver_common::DetailedCounters;
use nix::libc;

use super::{
    Error, Hook, Plan, Reader, Result,
    kept::Kept,
    kernel::{self, AttachType},
    object::{Maps, Programs},
    parked::{Counted, Parked},
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
    /// Of the object, once it is needed.
    programs: Mutex<Option<Arc<Programs>>>,
    reports: Option<Reports>,
    /// For who reads often.
    kept: Arc<Kept>,
}

/// What is loaded for one endpoint.
struct Endpoint<'a> {
    id: &'a EndpointId,
    plan: &'a Plan,
    programs: Arc<Programs>,
    maps: Maps,
    /// What counted for the endpoint before, into the same map.
    counted: Option<&'a Counted>,
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
        Self { bpffs, object, programs: Mutex::new(None), reports: None, kept: Arc::default() }
    }

    /// The folder that has the endpoints' folders.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Reads them, and keeps what it needs for the next time.
    pub fn reader(&self) -> Reader {
        Reader::keeping(self.bpffs.clone(), Arc::clone(&self.kept))
    }

    /// Makes the folder, on a BPF file system. Mounts one on `/sys/fs/bpf` if the folder is to be there.
    pub fn prepare(&self) -> Result<()> {
        pins::prepare(&self.bpffs)
    }

    /// Counts an endpoint's frames from now on, until [`detach`](Self::detach); where the kernel has no TCX,
    /// once the [filters](super::filters) are attached. What an attempt that was cut short left is
    /// replaced; living counters aren't.
    pub fn attach(&self, endpoint: &EndpointId, plan: &Plan) -> Result<()> {
        self.attach_with(endpoint, plan, &mut Parked::default())
    }

    /// The same, by links that are on the netdev already where there are any. What is left of them is to be
    /// dropped.
    pub fn attach_with(&self, endpoint: &EndpointId, plan: &Plan, parked: &mut Parked) -> Result<()> {
        let pins = Pins::new(&self.bpffs, endpoint);
        let lives = |pinned: Result<Pinned>| {
            pinned.is_ok_and(|pinned| pinned.ifindex().is_some_and(|ifindex| ifindex != 0))
        };
        if lives(pins.rx()) && lives(pins.tx()) {
            return Err(Error::AlreadyCounted { endpoint: endpoint.clone() });
        }
        pins.remove()?;
        pins.create()?;
        let counted = parked.take_counted(value_size(plan.counters));
        let attached = self.attach_at(&pins, endpoint, plan, parked, counted.as_ref());
        attached.inspect_err(|_| {
            parked.give_back(counted);
            // Links that aren't pinned yet went with their descriptors.
            if let Err(error) = self.detach(endpoint) {
                tracing::warn!(%endpoint, %error, "counters that could not be attached are left behind");
            }
        })
    }

    fn attach_at(
        &self,
        pins: &Pins,
        endpoint: &EndpointId,
        plan: &Plan,
        parked: &mut Parked,
        counted: Option<&Counted>,
    ) -> Result<()> {
        fault::step!("counters.folder");
        if let Some(counted) = counted {
            pins.pin_counters(&counted.map)?;
        }
        let loading = Endpoint { counted, ..self.prepare_load(pins, endpoint, plan)? };
        fault::step!("counters.map");
        for (side, hook, program) in [
            (Side::Rx, plan.rx_hook, plan.rx_hook.receive()),
            (Side::Tx, Hook::in_stack(), AttachType::TcxEgress),
        ] {
            let loaded = self.load(&loading, program)?;
            let object = match hook {
                Hook::Clsact => loaded,
                Hook::Xdp | Hook::Tcx => match parked.take_link(plan.ifindex, program, loaded.as_fd()) {
                    Some(parked) => parked,
                    None => link(loaded.as_fd(), plan.ifindex, program)?,
                },
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
        let (pinned, ours) = (map.value_size as usize, value_size(plan.counters));
        if pinned != ours {
            return Ok(Adopted::Kept { pinned, ours });
        }
        let pinned = [(Side::Rx, rx), (Side::Tx, tx)];
        if self.reports.is_none() && self.are_tagged_as_ours(endpoint, plan, &pinned)? {
            return Ok(Adopted::Unchanged);
        }
        let loading = self.prepare_load(&pins, endpoint, plan)?;
        let mut adopted = Adopted::Unchanged;
        for (side, pinned) in pinned {
            let program = self.load(&loading, pinned.program(side))?;
            let failed = |source| Error::Replace { endpoint: endpoint.clone(), source };
            if self.reports.is_none()
                && tag(&pinned).map_err(failed)? == kernel::tag(program.as_fd()).map_err(failed)?
            {
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
        self.kept.forget(endpoint);
        let removed = Pins::new(&self.bpffs, endpoint).remove();
        self.kept.forget(endpoint);
        removed
    }

    /// Ends the counting and removes what is pinned, but leaves the TCX links on the netdev, idle, for
    /// [`attach_with`](Self::attach_with).
    pub fn park(&self, endpoint: &EndpointId) -> Result<Parked> {
        self.kept.forget(endpoint);
        let pins = Pins::new(&self.bpffs, endpoint);
        let parked = if has_tcx() { Parked::of(&pins) } else { Ok(Parked::default()) };
        let mut parked = parked.unwrap_or_else(|error| {
            tracing::warn!(%endpoint, %error, "its links can't stay on the netdev, and are attached anew");
            Parked::default()
        });
        fault::step!("counters.parked");
        if let Some(reports) = &self.reports {
            // The ring that its programs report by goes with its reader.
            parked.forget_counted();
            reports.end(endpoint);
        }
        let removed = pins.remove_but(&parked);
        self.kept.forget(endpoint);
        removed.map(|()| parked)
    }

    /// Whether [`adopt`](Self::adopt) finds out that nothing is to be done without loading anything. For tests.
    #[doc(hidden)]
    pub fn are_ours(&self, endpoint: &EndpointId, plan: &Plan) -> Result<bool> {
        let pins = Pins::new(&self.bpffs, endpoint);
        self.are_tagged_as_ours(endpoint, plan, &[(Side::Rx, pins.rx()?), (Side::Tx, pins.tx()?)])
    }

    /// Whether the pinned programs are those that [`load`](Self::load) would make, told by their tags alone: to
    /// have the kernel verify ours takes most of the time of an adoption. Only a kernel whose tags we don't know
    /// makes a no of a yes.
    fn are_tagged_as_ours(
        &self,
        endpoint: &EndpointId,
        plan: &Plan,
        pinned: &[(Side, Pinned); 2],
    ) -> Result<bool> {
        let are = || -> std::result::Result<_, Box<dyn StdError + Send + Sync>> {
            let programs = self.programs()?;
            for (side, pinned) in pinned {
                let ours =
                    programs.tags(plan.program(pinned.program(*side)), plan.spoof_check.constants())?;
                if !ours.contains(&tag(pinned)?) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        are().map_err(|source| Error::Load { endpoint: endpoint.clone(), source })
    }

    /// Makes the map, too, if there is none yet.
    fn prepare_load<'a>(&self, pins: &Pins, id: &'a EndpointId, plan: &'a Plan) -> Result<Endpoint<'a>> {
        let prepare = || -> std::result::Result<_, Box<dyn StdError + Send + Sync>> {
            let programs = self.programs()?;
            let path = pins.counters_path();
            if !path.exists() {
                programs.counters(plan.counters)?.pin(&path)?;
            }
            let maps = programs.maps(kernel::get(&path)?.as_fd())?;
            Ok(Endpoint { id, plan, programs, maps, counted: None })
        };
        prepare().map_err(|source| Error::Load { endpoint: id.clone(), source })
    }

    fn programs(&self) -> std::result::Result<Arc<Programs>, Box<dyn StdError + Send + Sync>> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(programs) = &*programs {
            return Ok(programs.clone());
        }
        Ok(programs.insert(Arc::new(Programs::of(self.object)?)).clone())
    }

    /// Only what is attached is loaded, and not what is there.
    fn load(&self, of: &Endpoint<'_>, at: AttachType) -> Result<OwnedFd> {
        let failed = |source| Error::Load { endpoint: of.id.clone(), source };
        let Endpoint { plan, programs, maps, counted, .. } = of;
        let (name, constants) = (plan.program(at), plan.spoof_check.constants());
        if let Some(counted) = counted {
            let tags = programs.tags(name, constants).map_err(failed)?;
            if let Some(program) = counted.program(at, &tags).map_err(|error| failed(error.into()))? {
                return Ok(program);
            }
        }
        let program = programs.load(name, maps, constants).map_err(failed)?;
        if let (Some(reports), AttachType::TcxEgress) = (&self.reports, at) {
            reports.follow(of.id, program.as_fd()).map_err(failed)?;
        }
        Ok(program)
    }
}

fn value_size(counted: CounterSet) -> usize {
    match counted {
        CounterSet::Basic => size_of::<driver_common::Counters>(),
        CounterSet::Detailed => size_of::<DetailedCounters>(),
    }
}

fn link(program: BorrowedFd<'_>, ifindex: u32, at: AttachType) -> Result<OwnedFd> {
    kernel::link(program, ifindex, at).map_err(|source| match at {
        AttachType::Xdp => Error::NativeXdp { ifindex, source },
        _ if source.raw_os_error() == Some(libc::EINVAL) && !has_tcx() => Error::NoTcx { source },
        _ => Error::Attach { hook: Hook::from(at), ifindex, source },
    })
}

/// That of the program that is pinned.
fn tag(pinned: &Pinned) -> io::Result<kernel::Tag> {
    match pinned {
        Pinned::Link { at, .. } => kernel::tag(kernel::program(at.program_id)?.as_fd()),
        Pinned::Program { fd, .. } => kernel::tag(fd.as_fd()),
    }
}
