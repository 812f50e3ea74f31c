//! A NIC as far as the driver can tell: a veth of the host, its cable ending in a namespace of its own.
use std::ops::Sub;

use serde_json::Value;

use super::{
    address4, command,
    look::{Look, Place, text},
    netns::Netns,
    unique,
};

/// A netdev of the host, and the host at the other end of its cable.
pub struct Nic {
    /// Its name in the host.
    pub name: String,
    /// Where the cable ends, in a device called `far`.
    pub far: Netns,
    n: u16,
}

fn mac(prefix: &str, n: u16) -> String {
    let [high, low] = n.to_be_bytes();
    format!("{prefix}:{high:02x}:{low:02x}")
}

impl Nic {
    /// A NIC that is down, so that nothing was counted on it yet, and a far end that is up.
    #[track_caller]
    pub fn new() -> Self {
        let n = unique();
        Self::make(n, format!("nic{n}"))
    }

    /// The same, with a name that nobody else uses.
    #[track_caller]
    pub fn called(name: &str) -> Self {
        Self::make(unique(), name.to_owned())
    }

    #[track_caller]
    fn make(n: u16, name: String) -> Self {
        let nic = Self { name, far: Netns::new(format!("far{n}")), n };
        nic.plug();
        nic
    }

    /// Makes the devices; for a NIC that went with its container, once more.
    #[track_caller]
    pub fn plug(&self) {
        let Self { name, far, n } = self;
        command::ip(&format!(
            "link add {name} address {} type veth peer name far address {} netns {}",
            self.mac(),
            mac("02:fa:00:00", *n),
            far.name()
        ));
        // One segment a packet: a device's own statistics count a GSO packet as one.
        command::ip(&format!("link set {name} gso_max_segs 1"));
        far.ip("link set far gso_max_segs 1");
        far.ip(&format!("addr add {}/24 dev far", self.far4()));
        far.ip(&format!("addr add {}/64 dev far nodad", self.far6()));
        far.ip("link set far up");
    }

    /// Its MAC, until someone sets another.
    pub fn mac(&self) -> String {
        mac("02:0c:00:00", self.n)
    }

    /// The IPv4 subnet of this cable.
    pub fn net4(&self) -> String {
        format!("{}/24", self.near4(0))
    }

    /// The far end's address, which is the gateway too.
    pub fn far4(&self) -> String {
        self.near4(1)
    }

    /// An address for a container.
    pub fn near4(&self, host: u8) -> String {
        address4(self.n, host)
    }

    /// The IPv6 subnet of this cable.
    pub fn net6(&self) -> String {
        format!("fd64:{:x}::/64", self.n)
    }

    /// The far end's address, which is the gateway too.
    pub fn far6(&self) -> String {
        self.near6(1)
    }

    /// An address for a container.
    pub fn near6(&self, host: u8) -> String {
        format!("fd64:{:x}::{host:x}", self.n)
    }

    /// How the host sees it; `None` if the host does not have it.
    pub fn look(&self) -> Option<Look> {
        Look::at(&Place::Host, &self.name)
    }

    /// The name the host knows this device under, whoever renamed it.
    pub fn name_now(&self) -> Option<String> {
        let links = list(&["link", "show", "type", "veth"]);
        // The namespace at the other end of the cable is what nobody could change.
        let peers = list(&["netns", "list-id"]);
        let here = peers.iter().find(|ns| ns["name"] == self.far.name())?;
        let found = links.iter().find(|link| link["link_netnsid"] == here["nsid"])?;
        Some(text(&found["ifname"]))
    }

    /// What the far end's device sent and received: what the near end received and sent.
    pub fn far_counters(&self) -> Traffic {
        let links = list(&["-n", self.far.name(), "-s", "link", "show", "dev", "far"]);
        let stats = &links[0]["stats64"];
        let number = |way: &str, unit: &str| stats[way][unit].as_u64().expect("a statistic");
        Traffic {
            rx_packets: number("tx", "packets"),
            rx_bytes: number("tx", "bytes"),
            tx_packets: number("rx", "packets"),
            tx_bytes: number("rx", "bytes"),
        }
    }

    /// Panics unless the far end gets an answer from `address`, `count` times.
    #[track_caller]
    pub fn ping(&self, address: &str, count: u32) {
        self.far.run(&format!("busybox ping -c {count} -i 0.02 -W 5 {address}"));
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        // A veth goes with its peer, wherever that is now.
        let _ = command::attempt("ip", &["-n", self.far.name(), "link", "del", "far"]);
    }
}

/// Packets and bytes as the near end has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

impl Traffic {
    /// With the Ethernet headers that veth's statistics leave out of frames to an end that has XDP
    /// (`veth_xdp_rcv`, drivers/net/veth.c).
    pub fn with_rx_headers(self) -> Self {
        Self { rx_bytes: self.rx_bytes + 14 * self.rx_packets, ..self }
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - earlier.rx_packets,
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
        }
    }
}

/// What `ip -j` lists.
fn list(args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = [&["-j"], args].concat();
    let answer = command::run("ip", &args);
    // An empty list comes as nothing at all.
    if answer.is_empty() { Vec::new() } else { serde_json::from_str(&answer).expect("what `ip -j` says") }
}
