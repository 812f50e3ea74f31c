//! What commands and metrics show: the state, the kernel's counters and Docker's names put together.
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use driver_common::Detailed;
use serde::Serialize;

mod bypass;
mod hardware;
mod pfs;

pub use bypass::Bypass;
pub use hardware::{VfReport, VfValues};
pub use pfs::{PfReport, VfRow, pf};

use crate::{
    counters::{self, Reader, Reading},
    device::{self, Stats},
    docker::{self, Container, Docker, NetworkNames},
    state::{self, EndpointId, NetworkId, State, store},
};
use hardware::{Counted, Hardware};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state file's reason.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The engine's address can't be one.
    #[error(transparent)]
    Docker(#[from] docker::Error),
    /// The kernel's reason.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// There is no socket to ask the kernel with.
    #[error("an rtnetlink socket: {0}")]
    Socket(#[from] io::Error),
}

/// How long netdevs may be asked for what they counted.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Docker is asked for so many networks one by one: a millisecond each.
const FEW: usize = 16;

/// This room's result.
pub type Result<T> = std::result::Result<T, Error>;

/// All that is known, at one moment.
#[derive(Debug)]
pub struct Report {
    /// What is remembered.
    pub state: Arc<State>,
    names: BTreeMap<NetworkId, NetworkNames>,
}

/// One endpoint. The field names are a contract.
#[derive(Debug, Serialize)]
pub struct EndpointReport {
    /// Docker's id of the endpoint.
    pub endpoint_id: EndpointId,
    /// Docker's id of the network; null for counters that nobody remembers the endpoint of.
    pub network_id: Option<NetworkId>,
    /// The network's name, if Docker tells.
    pub network: Option<String>,
    /// The container's name, if Docker tells.
    pub container: Option<String>,
    /// The container's id, if Docker tells.
    pub container_id: Option<String>,
    /// The netdev's name on the host.
    pub netdevice: Option<String>,
    /// How the network hands out its hardware.
    pub mode: Option<String>,
    /// The netdev's number where it is now, 0 once it no longer exists; null if it is not found.
    pub ifindex: Option<u32>,
    /// Where received frames are counted; null if they aren't.
    pub rx_hook: Option<counters::Hook>,
    /// Where sent frames are counted; null if they aren't.
    pub tx_hook: Option<counters::Hook>,
    /// Received since the endpoint was created.
    pub rx: Option<RxReport>,
    /// Sent since the endpoint was created.
    pub tx: Option<TxReport>,
    /// What the netdev itself counted since then; null if it is not found.
    pub netdev: Option<Stats>,
    /// The VF, in sriov mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vf: Option<VfReport>,
}

/// Received frames.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RxReport {
    /// Frames.
    pub packets: u64,
    /// Bytes, without FCS.
    pub bytes: u64,
    /// By class, where the network has `counters=detailed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detailed: Option<Detailed>,
}

/// Sent frames.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TxReport {
    /// Frames.
    pub packets: u64,
    /// Bytes, without FCS.
    pub bytes: u64,
    /// Frames with a source MAC that is not the endpoint's.
    pub spoofed: u64,
    /// By class, where the network has `counters=detailed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detailed: Option<Detailed>,
}

impl Report {
    /// Reads the state, and asks Docker for names; without Docker there are none.
    pub async fn new(state_dir: &Path, docker_host: &str) -> Result<Self> {
        let state = store::read(state_dir)?;
        let docker = Docker::new(docker_host)?;
        // One network's answer is small and has containers that are just starting; the answer of all is one.
        let names = if state.networks.len() > FEW {
            docker.names().await.unwrap_or_default()
        } else {
            let mut names = BTreeMap::new();
            for id in state.networks.keys() {
                match docker.network(id).await {
                    Ok(found) => names.extend(found.map(|found| (id.clone(), found))),
                    // If it doesn't answer once, it won't answer the others.
                    Err(_) => break,
                }
            }
            names
        };
        Ok(Self { state: Arc::new(state), names })
    }

    /// With the names that are remembered, for who must not wait for Docker.
    pub fn remembered(state: Arc<State>) -> Self {
        let names = state.networks.iter().map(|(id, network)| {
            let containers = network.endpoints.iter().filter_map(|(id, endpoint)| {
                let (name, container) = (endpoint.container.clone()?, endpoint.container_id.clone());
                Some((id.clone(), Container { id: container.unwrap_or_default(), name }))
            });
            let name = network.name.clone().unwrap_or_default();
            (id.clone(), NetworkNames { name, containers: containers.collect() })
        });
        Self { names: names.collect(), state }
    }

    /// The network's name, if Docker tells.
    pub fn network_name(&self, id: &NetworkId) -> Option<&str> {
        self.names.get(id).map(|network| network.name.as_str())
    }

    /// Name and id of the container that has the endpoint, if Docker tells.
    pub fn container(&self, network: &NetworkId, endpoint: &EndpointId) -> Option<(&str, &str)> {
        let container = self.names.get(network)?.containers.get(endpoint)?;
        Some((&container.name, &container.id))
    }

    /// All endpoints, and after them counters that nobody remembers the endpoint of: those of `pinned`, which were
    /// there before the state was read. What netdevs counted is left out where it is later than `until`.
    pub async fn endpoints(
        &self,
        reader: &Reader,
        mut pinned: Vec<EndpointId>,
        until: Instant,
    ) -> Result<Vec<EndpointReport>> {
        // Before our own, for the same reason as in `counted`.
        let hardware = match tokio::time::timeout_at(until.into(), Hardware::read(&self.state)).await {
            Ok(hardware) => hardware?,
            Err(_) => Hardware::default(),
        };
        let (state, reader) = (Arc::clone(&self.state), reader.clone());
        let (mut all, orphans) = tokio::task::spawn_blocking(move || {
            let all = hardware::counted(&state, &reader, until)?;
            pinned.retain(|id| !all.contains_key(id));
            let orphans = pinned.into_iter().filter_map(|id| {
                let reading = reader.open(&id).and_then(|opened| opened.read()).ok();
                // It ended meanwhile, as an endpoint does.
                let over = reading.is_none() && !reader.has(&id);
                (!over).then(|| report(id, &Counted { netdev: None, reading }))
            });
            io::Result::Ok((all, orphans.collect::<Vec<_>>()))
        })
        .await
        .map_err(io::Error::from)??;
        let remembered = self.state.endpoints().map(|(network_id, network, id, endpoint)| {
            let counted = all.remove(id).unwrap_or_default();
            let container = self.container(network_id, id);
            let vf = endpoint.vf.as_ref();
            EndpointReport {
                network_id: Some(network_id.clone()),
                network: self.network_name(network_id).map(str::to_owned),
                container: container.map(|(name, _)| name.to_owned()),
                container_id: container.map(|(_, id)| id.to_owned()),
                netdevice: Some(endpoint.netdevice().to_owned()),
                mode: Some(network.mode.to_string()),
                vf: vf.map(|grant| hardware.vf(endpoint, grant, &counted)),
                ..report(id.clone(), &counted)
            }
        });
        Ok(remembered.chain(orphans).collect())
    }
}

/// The counters alone.
fn report(endpoint_id: EndpointId, counted: &Counted) -> EndpointReport {
    let Counted { netdev, reading } = counted;
    let reading = reading.as_ref();
    EndpointReport {
        endpoint_id,
        network_id: None,
        network: None,
        container: None,
        container_id: None,
        netdevice: None,
        mode: None,
        ifindex: reading.map_or(Some(0), |reading| reading.ifindex),
        rx_hook: reading.map(|reading| reading.rx_hook),
        tx_hook: reading.map(|reading| reading.tx_hook),
        rx: reading.map(rx),
        tx: reading.map(tx),
        netdev: *netdev,
        vf: None,
    }
}

fn rx(reading: &Reading) -> RxReport {
    let driver_common::Rx { packets, bytes } = reading.counters.rx;
    RxReport { packets, bytes, detailed: reading.detailed.map(|by_class| by_class.rx) }
}

fn tx(reading: &Reading) -> TxReport {
    let driver_common::Tx { packets, bytes, spoofed } = reading.counters.tx;
    TxReport { packets, bytes, spoofed, detailed: reading.detailed.map(|by_class| by_class.tx) }
}
