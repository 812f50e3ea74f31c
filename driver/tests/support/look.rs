//! How a netdev looks, from wherever it is.
use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

use super::command;

/// Whose network.
#[derive(Clone, Debug)]
pub enum Place {
    /// The machine's, where the driver is.
    Host,
    /// That of `ip netns`.
    Named(PathBuf),
    /// That of a process.
    Process(i32),
}

impl Place {
    /// Runs one of the machine's programs there; `ip netns exec` would hide the BPF file system.
    pub fn attempt(&self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = match self {
            Self::Host => return command::attempt(words[0], &words[1..]),
            Self::Named(path) => path.clone(),
            Self::Process(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        let mut command = command::prepared_in(&path, words[0], &words[1..])?;
        command::finish(words[0], &mut command)
    }

    /// The same; panics if it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.attempt(line).unwrap_or_else(|complaint| panic!("{line}, {self:?}: {complaint}"))
    }
}

/// What [`Look::tuning`] has.
const TUNING: [&str; 8] = [
    "txqlen",
    "gso_max_segs",
    "gso_max_size",
    "gro_max_size",
    "gso_ipv4_max_size",
    "gro_ipv4_max_size",
    "group",
    "broadcast",
];

/// Everything about a netdev that its next user would notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub name: String,
    pub mac: String,
    pub mtu: u64,
    /// UP, PROMISC, NOARP and the like; not the carrier's.
    pub flags: BTreeSet<String>,
    pub alias: Option<String>,
    pub altnames: BTreeSet<String>,
    /// With prefix length; without those that the kernel makes itself.
    pub addresses: BTreeSet<String>,
    /// How XDP is attached.
    pub xdp: Option<String>,
    /// What `ip link` can set and a move does not unset: `txqlen 1000`.
    pub tuning: BTreeSet<String>,
    pub master: Option<String>,
}

impl Look {
    /// At a device, if it is there.
    pub fn at(place: &Place, name: &str) -> Option<Self> {
        let answer = place.attempt(&format!("ip -j -d addr show dev {name}")).ok()?;
        let links: Vec<Value> = serde_json::from_str(&answer).expect("what `ip -j` says");
        let link = links.iter().find(|link| link["ifname"] == name)?;
        let strings =
            |of: &Value| -> BTreeSet<String> { of.as_array().into_iter().flatten().map(text).collect() };
        let mut flags = strings(&link["flags"]);
        for carrier in ["LOWER_UP", "NO-CARRIER"] {
            flags.remove(carrier);
        }
        let made_here = |address: &&Value| address["scope"] != "link";
        let addresses = link["addr_info"].as_array().into_iter().flatten().filter(made_here);
        Some(Self {
            name: text(&link["ifname"]),
            mac: text(&link["address"]),
            mtu: link["mtu"].as_u64().expect("an MTU"),
            flags,
            alias: link["ifalias"].as_str().map(str::to_owned),
            altnames: strings(&link["altnames"]),
            addresses: addresses.map(|a| format!("{}/{}", text(&a["local"]), a["prefixlen"])).collect(),
            xdp: link["xdp"]["mode"].as_u64().map(|mode| format!("mode {mode}")),
            tuning: TUNING.iter().map(|name| format!("{name} {}", link[name])).collect(),
            master: link["master"].as_str().map(str::to_owned),
        })
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.flags.contains("UP")
    }
}

/// A string, or an empty one.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
