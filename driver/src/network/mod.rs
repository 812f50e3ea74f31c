//! What a network and an endpoint are, and what is decided about them.
//!
//! Each operation may be repeated: Docker does, after failures that it saw and we didn't.
use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc};

use crate::{
    counters::{self, Counters},
    device::{self, Mac, Rtnl, netns::NetNs},
    docker::NetworkNames,
    state::{self, EndpointId, NetworkId, Store},
};

mod assign;
mod bind;
pub mod caller;
mod choice;
mod chores;
mod endpoints;
mod filters;
mod leftovers;
mod locate;
mod locks;
mod netdevice;
mod networks;
pub mod options;
mod parked;
mod pf;
pub mod pool;
mod reconcile;
mod release;
mod standin;
mod strays;
pub mod upkeep;
mod vf;
mod watch;

pub use assign::spoof_check;
use choice::Reservations;
use chores::Chore;
use filters::Filtered;
use locks::Locks;
use options::BadOption;
use parked::ParkedLinks;
pub(crate) use strays::{tag, tagged};
use upkeep::Upkeep;

/// Why an operation was refused or failed, in the words that Docker shows its user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whoever asked no longer waits.
    #[error("not done in time, and undone")]
    TooLate,
    /// An option that can't be.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// Docker asks for a network that it never created here.
    #[error("network {0}: is not known to this driver; `docker network rm` it and create it again")]
    UnknownNetwork(NetworkId),
    /// Docker asks for an endpoint that it never created here.
    #[error("endpoint {0}: is not known to this driver")]
    UnknownEndpoint(EndpointId),
    /// The network exists with other options.
    #[error("network {0}: exists already, with other options")]
    NetworkExists(NetworkId),
    /// Somebody else has the netdevice.
    #[error("{netdevice}: is in use by {user}")]
    InUse {
        /// The netdev.
        netdevice: String,
        /// Who has it: `container web`, `endpoint 0123456789ab`.
        user: String,
    },
    /// The PF has no VF of this number.
    #[error("vf={index}: {pf} has {count} VFs, numbered from 0")]
    NoSuchVf {
        /// The PF.
        pf: String,
        /// The number asked for.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// Somebody has each VF.
    #[error("{pf}: all {count} VFs are in use ({})", users.join(", "))]
    NoFreeVf {
        /// The PF.
        pf: String,
        /// How many VFs it has.
        count: usize,
        /// Who has each: `VF 0: container web`.
        users: Vec<String>,
    },
    /// The PF was unplugged, or lost its driver.
    #[error("{pf}: the PF is no longer there")]
    PfGone {
        /// Its hardware.
        pf: String,
    },
    /// There is no hardware address to choose.
    #[error("--mac-address {mac}: {netdevice} has no Ethernet address")]
    NoEthernet {
        /// What was asked for.
        mac: Mac,
        /// The netdev.
        netdevice: String,
    },
    /// An option of a container that its network can't have.
    #[error("vf={0}: this network hands over the whole netdevice; VFs are for mode=sriov")]
    VfOfWhole(u32),
    /// A hardware address that no netdev can have.
    #[error("--mac-address {mac}: {reason}")]
    Mac {
        /// What was asked for.
        mac: Mac,
        /// Why it can't be.
        reason: &'static str,
    },
    /// Two VFs of a PF can't have one address.
    #[error("--mac-address {mac}: is in use by {user}")]
    MacInUse {
        /// What was asked for.
        mac: Mac,
        /// Who has it, and where.
        user: String,
    },
    /// What a VF is like can't be told just now.
    #[error("{pf} VF {index}: its PF's driver does not tell its settings just now")]
    VfUnread {
        /// The PF.
        pf: String,
        /// The VF's number.
        index: u32,
    },
    /// The kernel's reason.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The counters' reason.
    #[error(transparent)]
    Counters(#[from] counters::Error),
    /// The state file's reason.
    #[error(transparent)]
    State(#[from] state::Error),
    /// Something of ours could not be opened or started.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A fault point was told to fail.
    #[cfg(feature = "faults")]
    #[error(transparent)]
    Fault(#[from] crate::fault::Injected),
    /// The netdev exists, but where is not known.
    #[error("{netdevice}: exists, but in no namespace that could be looked into, and stays reserved{}",
        if unseen.is_empty() { String::new() } else { format!(" (not looked into: {})", unseen.join("; ")) })]
    NotFound {
        /// The netdev.
        netdevice: String,
        /// Namespaces that could not be looked into, and why.
        unseen: Vec<String>,
    },
    /// The netdev is home, but not as it was. It is given to nobody until it is.
    #[error("{netdevice}: is not as it was before the container had it, and stays reserved until it is: {}", reasons.join("; "))]
    NotRestored {
        /// The netdev.
        netdevice: String,
        /// All that went wrong.
        reasons: Vec<String>,
    },
}

/// The network room's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// `docker network create`.
#[derive(Clone, Debug)]
pub struct CreateNetwork {
    /// Its id.
    pub network: NetworkId,
    /// `com.docker.network.generic`: what the user typed after `-o`.
    pub generic: Map<String, Value>,
    /// Gateways of its pools, IPv4 and IPv6; null IPAM has none.
    pub gateways: Vec<IpNet>,
    /// `--internal`: no way out, so no gateway.
    pub internal: bool,
}

/// A container is about to get an interface.
#[derive(Clone, Debug)]
pub struct CreateEndpoint {
    /// The network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// `--mac-address`.
    pub mac: Option<Mac>,
    /// `--driver-opt vf=N`: this VF and no other.
    pub vf: Option<u32>,
}

/// What Docker does next with the endpoint's netdev.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The netdev to move into the container.
    pub netdev: String,
    /// What it is called there, less a number.
    pub prefix: String,
    /// IPv4 default route.
    pub gateway: Option<std::net::IpAddr>,
    /// IPv6 default route.
    pub gateway_ipv6: Option<std::net::IpAddr>,
}

/// The driver: decides, and has the rooms below do it.
pub struct Driver {
    /// Its name, as in `docker network create -d NAME`: a host may have several drivers.
    name: String,
    /// What stays on netdevs between two containers; ends before the state is another driver's.
    parked: ParkedLinks,
    store: Store,
    counters: Arc<Counters>,
    bpffs: PathBuf,
    /// The host's namespace, where all netdevs are at home.
    home: NetNs,
    rtnl: Rtnl,
    /// Endpoints whose netdev is as it was, but that could not be forgotten yet.
    restored: Mutex<HashSet<EndpointId>>,
    locks: Locks<NetworkId>,
    /// Those of networks in sriov mode, which do not wait for each other.
    endpoints: Locks<EndpointId>,
    /// PFs by their hardware: their VFs are made, chosen and taken away one at a time.
    pfs: Locks<String>,
    /// VFs that are being assigned.
    reserved: Reservations,
    /// Held while a VF's driver is being bound: a fresh netdev may get any name that is free just then.
    names: tokio::sync::Mutex<()>,
    /// How often that was somebody's.
    turn: AtomicU64,
    /// Netdevices that are looked at and claimed: no two networks get the same.
    claims: Locks<String>,
    /// What is being done without a call.
    chores: Mutex<HashSet<Chore>>,
    /// Endpoints that are counted by filters, which somebody has to look after.
    filtered: Filtered,
    /// Networks whose containers' names may have changed.
    renamed: mpsc::Sender<NetworkId>,
    upkeep: Upkeep,
    /// Something is left to do that no call will ask for.
    look: Notify,
}

impl Driver {
    /// On the namespace of the calling thread. Networks that a container joins or leaves are sent to
    /// `renamed`, for somebody to ask Docker for names; dropped if it is full.
    pub fn new(
        name: String,
        store: Store,
        counters: Counters,
        renamed: mpsc::Sender<NetworkId>,
    ) -> Result<Self> {
        Ok(Self {
            name,
            store,
            bpffs: counters.bpffs().to_owned(),
            counters: Arc::new(counters),
            home: NetNs::current().map_err(Error::io("the host's network namespace"))?,
            rtnl: Rtnl::new().map_err(Error::io("an rtnetlink socket"))?,
            restored: Mutex::default(),
            locks: Locks::default(),
            endpoints: Locks::default(),
            pfs: Locks::default(),
            reserved: Reservations::default(),
            names: tokio::sync::Mutex::default(),
            turn: AtomicU64::default(),
            claims: Locks::default(),
            chores: Mutex::default(),
            filtered: Filtered::default(),
            parked: ParkedLinks::default(),
            renamed,
            upkeep: Upkeep::default(),
            look: Notify::new(),
        })
    }

    /// Until something is left to do that no call will ask for.
    pub async fn wanted(&self) {
        self.look.notified().await;
    }

    /// Docker does not ask again for what failed: we do.
    fn look_soon(&self) {
        self.look.notify_one();
    }

    /// The state as it is on disk.
    pub fn state(&self) -> Arc<state::State> {
        self.store.get()
    }

    /// What it has done without being asked.
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// Its name, as in `docker network create -d NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What reads its endpoints' counters.
    pub fn reader(&self) -> counters::Reader {
        self.counters.reader()
    }

    /// Remembers the names that Docker has, so that errors and metrics can name who has what. Answers whether
    /// all of the network's containers have one now.
    pub async fn remember_names(&self, id: &NetworkId, names: NetworkNames) -> Result<bool> {
        let change = |state: &mut state::State| {
            let Some(network) = state.network_mut(id) else { return true };
            network.name = Some(names.name);
            // An engine that is just starting one may not have its name yet.
            for (endpoint, container) in names.containers {
                if container.name.is_empty() {
                    continue;
                }
                let Some(known) = network.endpoints.get_mut(&endpoint).map(Arc::make_mut) else { continue };
                if known.container.as_ref() != Some(&container.name) {
                    let endpoint = endpoint.short();
                    tracing::info!(network = id.short(), endpoint, container = container.name, "named");
                }
                known.container = Some(container.name);
                known.container_id = Some(container.id);
            }
            network.endpoints.values().all(|endpoint| endpoint.container.is_some())
        };
        Ok(self.store.update(change).await?)
    }

    fn ask_names(&self, network: &NetworkId) {
        // Full: names are being asked for already, and are no more than a comfort.
        let _ = self.renamed.try_send(network.clone());
    }

    /// What the endpoint's counters say.
    async fn reading(&self, id: &EndpointId) -> Result<counters::Reading> {
        let (bpffs, id) = (self.bpffs.clone(), id.clone());
        self.counters(move |_| counters::read(&bpffs, &id)).await
    }

    /// Runs what blocks, with the counters.
    async fn counters<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Counters) -> counters::Result<T> + Send + 'static,
    ) -> Result<T> {
        let counters = Arc::clone(&self.counters);
        let done = crate::blocking::run(move || work(&counters)).await;
        Ok(done.map_err(Error::io("the counters"))??)
    }
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    what: impl Into<String>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = crate::blocking::run(work).await;
    done.flatten().map_err(Error::io(what))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
