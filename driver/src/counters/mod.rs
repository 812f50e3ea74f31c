//! The counters: XDP and TCX programs on an endpoint's netdev, attached by links that are pinned.
//!
//! A pinned link stays with its netdev into any network namespace, can't be removed there, and counts on
//! without the driver. Each endpoint has a folder `<bpffs>/<endpoint>` with the map `counters` and the
//! links `rx` and `tx`. Where the kernel has no TCX the programs themselves are pinned there, and the
//! network floor keeps them attached by filters. Everything here blocks; nothing here knows of Docker.
use std::{error::Error as StdError, io, path::PathBuf};

mod attach;
mod hook;
mod kept;
mod kernel;
mod object;
mod parked;
mod pins;
mod program;
mod read;
mod reports;
mod tcx;
mod xdp;

pub use attach::{Adopted, Counters};
pub use hook::{Hook, Plan, SpoofCheck};
pub use kept::{Known, Reader};
pub use parked::Parked;
pub use pins::endpoints;
pub use read::{ByClass, Opened, Reading, attached_here, filters, is_attached, read};
pub use tcx::{clear_tcx, has_tcx, tcx_ids};
pub use xdp::{SAMPLES, clear_xdp};

use crate::state::id::EndpointId;

/// A result with this module's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with counters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for pins is on another file system.
    #[error(
        "{path}: not on a BPF file system, which the counters are kept on: \
         mount one with `mount -t bpf bpf FOLDER`, or use a folder below /sys/fs/bpf",
        path = path.display()
    )]
    NoBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// No BPF file system is at its usual place, and none could be mounted.
    #[error("/sys/fs/bpf: mounting a BPF file system failed: {source}")]
    Mount {
        /// What the kernel says.
        source: io::Error,
    },
    /// A file or folder could not be handled.
    #[error("{path}: failed to {doing} it: {source}", path = path.display())]
    Folder {
        /// The verb.
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something pinned could not be opened.
    #[error("{path}: not what this driver pins there: {source}", path = path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The endpoint has no counters, or not all of them.
    #[error("endpoint {endpoint}: no counters: {path} is missing", path = path.display())]
    NotCounted {
        /// The endpoint.
        endpoint: EndpointId,
        /// The pin that is missing.
        path: PathBuf,
    },
    /// The endpoint has counters, of a netdev that exists.
    #[error("endpoint {endpoint}: is counted already; detach its counters first")]
    AlreadyCounted {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// The netdev is destroyed; its counters can still be read.
    #[error("endpoint {endpoint}: its netdev no longer exists")]
    NetdevGone {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// A fault point was told to fail.
    #[cfg(feature = "faults")]
    #[error(transparent)]
    Fault(#[from] crate::fault::Injected),
    /// The programs could not be loaded.
    #[error("endpoint {endpoint}: loading its BPF programs failed: {source}")]
    Load {
        /// The endpoint.
        endpoint: EndpointId,
        /// What aya or the kernel's verifier says.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The netdev's driver can't run XDP, or not now.
    #[error("netdev {ifindex}: its driver refuses native XDP ({source}): count received frames by TCX")]
    NativeXdp {
        /// The netdev.
        ifindex: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel is too old.
    #[error("this kernel has no TCX, which is in Linux 6.6 and newer ({source})")]
    NoTcx {
        /// What the kernel says.
        source: io::Error,
    },
    /// A program could not be attached.
    #[error("netdev {ifindex}: attaching to {hook} failed: {source}")]
    Attach {
        /// Where.
        hook: Hook,
        /// The netdev.
        ifindex: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// A link's program could not be replaced; the old one counts on.
    #[error("endpoint {endpoint}: replacing its BPF programs failed, the old ones stay: {source}")]
    Replace {
        /// The endpoint.
        endpoint: EndpointId,
        /// What the kernel says.
        source: io::Error,
    },
    /// A netdev's hooks could not be looked at.
    #[error("netdev {ifindex}: asking for its TCX programs failed: {source}")]
    Query {
        /// The netdev.
        ifindex: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// The links that there are could not be gone through.
    #[error("going through the BPF links failed: {source}")]
    Links {
        /// What the kernel says.
        source: io::Error,
    },
    /// A container's program could not be taken off.
    #[error("netdev {ifindex}: taking off the program {program}, which is not the host's, failed: {source}")]
    Foreign {
        /// The netdev.
        ifindex: u32,
        /// The program's id.
        program: u32,
        /// What the kernel says.
        source: io::Error,
    },
    /// The counters could not be read.
    #[error("endpoint {endpoint}: reading its counters failed: {source}")]
    Read {
        /// The endpoint.
        endpoint: EndpointId,
        /// What the kernel says.
        source: io::Error,
    },
}
