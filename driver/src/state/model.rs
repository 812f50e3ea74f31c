//! What the state file holds. Fields are only added, with a default; anything else is a new version.
use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::id::{EndpointId, NetworkId};
use crate::device::{
    Mac, Stats,
    address::Addressing,
    link::Flags,
    tuning::Tuning,
    vf::{LinkState, VfSettings, Vlan},
};

/// The version of the layout that this driver writes.
pub const VERSION: u32 = 1;

/// All that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct State {
    /// Layout of the file.
    pub version: u32,
    /// Networks that Docker created and has not deleted; shared with the states before and after this one.
    #[serde(default)]
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// PFs that we changed, by their hardware (`pci/0000:01:00.0`).
    #[serde(default)]
    pub pfs: BTreeMap<String, PfChanges>,
}

/// What we did to a PF for its first network, and undo after its last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfChanges {
    /// Its VFs are ours: the administrator had made none.
    pub enabled: bool,
    /// It was down.
    pub raised: bool,
    /// What we made, so that it is told from what an administrator made later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
}

/// VFs as they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// How many.
    pub count: u32,
    /// In which boot of the kernel: none outlives it.
    pub boot: String,
    /// What tells the first of them from any that is made in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self { version: VERSION, networks: BTreeMap::new(), pfs: BTreeMap::new() }
    }
}

impl State {
    /// All endpoints, with their networks.
    pub fn endpoints(&self) -> impl Iterator<Item = (&NetworkId, &Network, &EndpointId, &Endpoint)> {
        self.networks.iter().flat_map(|(network_id, network)| {
            network.endpoints.iter().map(move |(id, endpoint)| (network_id, &**network, id, &**endpoint))
        })
    }

    /// Whether there is such an endpoint, in whatever network.
    pub fn knows(&self, endpoint: &EndpointId) -> bool {
        self.networks.values().any(|network| network.endpoints.contains_key(endpoint))
    }

    /// The endpoint that has this hardware, with its network's id.
    pub fn holder(&self, hardware: &str) -> Option<(&NetworkId, &EndpointId, &Endpoint)> {
        let has = |endpoint: &Endpoint| endpoint.hardware.as_deref() == Some(hardware);
        self.endpoints()
            .find(|(.., endpoint)| has(endpoint))
            .map(|(network, _, id, endpoint)| (network, id, endpoint))
    }

    /// The endpoint with this id, if its network is still there.
    pub fn endpoint(&self, network: &NetworkId, endpoint: &EndpointId) -> Option<&Endpoint> {
        self.networks.get(network)?.endpoints.get(endpoint).map(Arc::as_ref)
    }

    /// The network with this id, to change it in this state alone.
    pub fn network_mut(&mut self, network: &NetworkId) -> Option<&mut Network> {
        self.networks.get_mut(network).map(Arc::make_mut)
    }

    /// The same of an endpoint.
    pub fn endpoint_mut(&mut self, network: &NetworkId, endpoint: &EndpointId) -> Option<&mut Endpoint> {
        self.network_mut(network)?.endpoints.get_mut(endpoint).map(Arc::make_mut)
    }
}

/// How a network hands out its hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The netdevice itself, to one container at a time.
    Passthrough,
    /// A VF of the netdevice to each container.
    Sriov,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::Sriov => "sriov",
        })
    }
}

/// A network, as `docker network create` made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name when Docker was last asked.
    #[serde(default)]
    pub name: Option<String>,
    /// When it was created, in seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// How it hands out its hardware.
    pub mode: Mode,
    /// What the user typed after `-o`.
    pub options: NetworkOptions,
    /// The PF's hardware, whatever it is called by now; none in passthrough mode, and from older drivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pf: Option<String>,
    /// Gateways of its IPv4 and IPv6 pools; none for a family without one, and with `--internal`.
    #[serde(default)]
    pub gateways: Vec<IpNet>,
    /// Its endpoints.
    #[serde(default)]
    pub endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
}

impl Network {
    /// The gateway for the containers' IPv4 or IPv6 default route.
    pub fn gateway(&self, ipv6: bool) -> Option<IpAddr> {
        self.gateways.iter().map(IpNet::addr).find(|gateway| gateway.is_ipv6() == ipv6)
    }
}

/// The hook that counts what an endpoint receives, as asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RxHook {
    /// Native XDP where the hardware's driver has it, else TCX.
    #[default]
    Auto,
    /// Native XDP or an error.
    Xdp,
    /// TCX.
    Tcx,
}

impl fmt::Display for RxHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
        })
    }
}

/// What is counted of an endpoint's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CounterSet {
    /// Packets, bytes and spoofed.
    #[default]
    Basic,
    /// These, and packets by class.
    Detailed,
}

impl fmt::Display for CounterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic => "basic",
            Self::Detailed => "detailed",
        })
    }
}

/// The options of a network, checked; DESIGN's table says what each means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOptions {
    /// The netdev, by the name it has on the host.
    pub netdevice: String,
    /// Whether containers may change L2 addresses and sniff.
    #[serde(default)]
    pub privileged: bool,
    /// Prefix of the interface's name in the container.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// MTU in the container, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Hook for Rx.
    #[serde(default)]
    pub rx_hook: RxHook,
    /// What is counted.
    #[serde(default)]
    pub counters: CounterSet,
    /// Whether a netdevice is taken that carries the host's routes or addresses.
    #[serde(default)]
    pub force: bool,
    /// Settings of the VFs, in sriov mode.
    #[serde(default)]
    pub vf: VfOptions,
}

/// Settings of a network's VFs; what is none is not touched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VfOptions {
    /// VLAN on the wire, invisible to the container.
    pub vlan: Vlan,
    /// How many VFs are enabled, if this driver enables them; none is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfs: Option<u32>,
    /// Guaranteed rate of sending, in Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tx_rate: Option<u32>,
    /// Largest rate of sending, in Mbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tx_rate: Option<u32>,
    /// Link state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_state: Option<LinkState>,
    /// Hardware spoof check; none is on, or off if privileged, where the hardware has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoofchk: Option<bool>,
    /// Trust; none is off, or on if privileged, where the hardware has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
}

fn default_prefix() -> String {
    "eth".to_owned()
}

/// A netdev as it was before we touched it, and as it will be again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Its name on the host.
    pub name: String,
    /// Its hardware address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
    /// Its `ifalias`, empty if it had none.
    pub alias: String,
    /// Its alternative names.
    #[serde(default)]
    pub altnames: Vec<String>,
    /// Its receive filters and protocols.
    pub flags: Flags,
    /// Its limits and its group.
    #[serde(default)]
    pub tuning: Tuning,
    /// Whether the host had an ingress or clsact qdisc on it. A move drops that, and what filters it had.
    #[serde(default)]
    pub ingress: bool,
    /// What the host had at its TCX hooks.
    #[serde(default)]
    pub tcx: TcxIds,
    /// What stood on it in other namespaces.
    #[serde(default)]
    pub uppers: Vec<Upper>,
    /// What it had counted by then.
    #[serde(default)]
    pub stats: Stats,
    /// Its addresses and routes.
    #[serde(default)]
    pub addressing: Addressing,
}

/// The kernel's ids of what is at a netdev's TCX hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcxIds {
    /// Programs without a link.
    pub programs: Vec<u32>,
    /// Links.
    pub links: Vec<u32>,
}

/// A netdev that stands on another one, from another namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// The inode of its namespace.
    pub netns: u64,
    /// Its ifindex there.
    pub ifindex: u32,
}

/// One container's attachment to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The netdev as it was.
    pub original: Original,
    /// Its ifindex when it was taken; another namespace may have given it a new one.
    pub ifindex: u32,
    /// Bus and name of the hardware behind it, `pci/0000:01:10.0`: the one thing of it that no container
    /// can change. None for a virtual netdev.
    #[serde(default)]
    pub hardware: Option<String>,
    /// The hardware address that the container has, if the link layer is Ethernet.
    pub mac: Option<Mac>,
    /// When it was created, in seconds since 1970.
    pub created: u64,
    /// `SandboxKey` of the container, once it has joined.
    #[serde(default)]
    pub sandbox: Option<PathBuf>,
    /// When it joined, in seconds since 1970.
    #[serde(default)]
    pub joined: Option<u64>,
    /// The container's name when Docker was last asked.
    #[serde(default)]
    pub container: Option<String>,
    /// The container's id when Docker was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The VF that it is, in sriov mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf: Option<VfGrant>,
    /// What it stands on, if it is a macvlan in the place of a netdev that can't be moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<Lower>,
    /// The kernel can't mark netdevs as not having been away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmarked: bool,
    /// Defaults that the hardware refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Docker has deleted it, and its netdev is on the way back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
}

impl Endpoint {
    /// Whether both have the same netdev.
    pub fn is_same_netdev(&self, other: &Self) -> bool {
        match (&self.hardware, &other.hardware) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, None) => self.ifindex == other.ifindex && self.original.name == other.original.name,
            _ => false,
        }
    }

    /// The netdev that the container has, or whose place its macvlan takes, by its name on the host.
    pub fn netdevice(&self) -> &str {
        self.lower.as_ref().map_or(&self.original.name, |lower| &lower.name)
    }
}

/// A netdev that stays on the host, under the macvlan that a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lower {
    /// Its name.
    pub name: String,
    /// Its ifindex.
    pub ifindex: u32,
    /// Whether it was up.
    pub up: bool,
    /// Whether it changes its hardware address by itself, as a bond with fail_over_mac does.
    #[serde(default)]
    pub moves_mac: bool,
}

/// A VF that was given to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfGrant {
    /// Hardware of its PF, `pci/0000:01:00.0`.
    pub pf: String,
    /// Its number on the PF.
    pub index: u32,
    /// Its settings as they were, and as they will be again.
    pub original: VfSettings,
    /// What the hardware had counted for it by then; none if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Stats>,
}
