//! A netdev as the kernel has it.
use std::{
    fmt,
    path::{Path, PathBuf},
};

use netlink_packet_route::link::{
    BondFailOverMac, InfoBond, InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, Prop,
};

use super::{
    Mac, Rtnl, Stats,
    rtnl::{Error, Result},
    tuning::Tuning,
};

/// Longest name of a netdev: `IFNAMSIZ` less the NUL (include/uapi/linux/if.h).
pub const MAX_NAME: usize = 15;

/// Longest alias that any kernel takes: `IFALIASZ` less its NUL and the attribute's (net/core/dev.c).
pub const MAX_ALIAS: usize = 254;

/// Which netdev is meant.
#[derive(Clone, Copy, Debug)]
pub enum LinkRef<'a> {
    /// By number.
    Index(u32),
    /// By name, or by an alternative name.
    Name(&'a str),
}

impl fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "netdev {index}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A netdev as it is at this moment, in the namespace of the socket that was asked.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are what the kernel says")]
pub struct Link {
    /// Its number in its namespace.
    pub ifindex: u32,
    /// Its name there.
    pub name: String,
    /// Hardware address, if the link layer is Ethernet.
    pub mac: Option<Mac>,
    /// The address that its hardware came with.
    pub permanent_mac: Option<Mac>,
    /// Largest packet, in bytes, without the link layer's header.
    pub mtu: u32,
    /// Smallest and largest MTU that its driver takes; 0 where it does not say.
    pub mtu_range: (u32, u32),
    /// Administratively up.
    pub up: bool,
    /// Its receive filters and protocols, which a container may change.
    pub flags: Flags,
    /// Its limits and its group, which a container may change.
    pub tuning: Tuning,
    /// The ids of the XDP programs that are attached, in whatever mode.
    pub xdp: Vec<u32>,
    /// Changes its hardware address by itself, as a bond with fail_over_mac does.
    pub moves_mac: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// Is the loopback.
    pub loopback: bool,
    /// `ifalias`, empty if there is none.
    pub alias: String,
    /// `rtnl_link_ops` kind such as `veth`; none for a physical netdev.
    pub kind: Option<String>,
    /// ifindex of the bond, bridge, VRF… that it is a member of.
    pub master: Option<u32>,
    /// Bus and name of the hardware behind it, such as `pci`, `0000:01:10.0`.
    pub parent: Option<Parent>,
    /// The kernel says that it can't change its namespace (6.15 and newer say so).
    pub immovable: bool,
    /// Further names.
    pub altnames: Vec<String>,
    /// The netdev's own counters.
    pub stats: Stats,
}

/// `IFF_*` flags that stay with a netdev when it moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are the kernel's flags")]
pub struct Flags {
    /// Receives all frames.
    pub promisc: bool,
    /// Receives all multicast frames.
    pub allmulti: bool,
    /// Speaks ARP.
    pub arp: bool,
    /// Can do multicast.
    pub multicast: bool,
}

/// The hardware behind a netdev (`IFLA_PARENT_DEV_BUS_NAME`, `IFLA_PARENT_DEV_NAME`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// `pci`, `virtio`, …
    pub bus: String,
    /// `0000:01:10.0`, `virtio0`, …
    pub device: String,
}

impl Parent {
    /// That of a netdev's [hardware](Link::hardware).
    pub fn of(hardware: &str) -> Option<Self> {
        let mut parts = hardware.split('/').map(str::to_owned);
        Some(Self { bus: parts.next()?, device: parts.next()? })
    }

    /// Its folder in sysfs, which is the same in every network namespace.
    pub fn sysfs(&self) -> PathBuf {
        Path::new("/sys/bus").join(&self.bus).join("devices").join(&self.device)
    }

    /// Whether it is a VF.
    pub fn is_vf(&self) -> bool {
        self.bus == "pci" && self.sysfs().join("physfn").exists()
    }

    /// The PF of a VF.
    pub fn pf(&self) -> Option<Self> {
        let pf = self.sysfs().join("physfn").read_link().ok()?;
        Some(Self { bus: self.bus.clone(), device: pf.file_name()?.to_str()?.to_owned() })
    }

    /// The name of the kernel driver that is bound to it.
    pub fn driver(&self) -> Option<String> {
        let driver = self.sysfs().join("driver").read_link().ok()?;
        Some(driver.file_name()?.to_str()?.to_owned())
    }
}

impl Link {
    /// Whether frames have an Ethernet header.
    pub fn is_ethernet(&self) -> bool {
        self.mac.is_some()
    }

    /// The hardware behind it, which no container can change: `pci/0000:01:10.0` for a VF, and with the
    /// port's permanent address where one device may have several ports.
    pub fn hardware(&self) -> Option<String> {
        let parent = self.parent.as_ref()?;
        let device = format!("{}/{}", parent.bus, parent.device);
        // A VF has one netdev, and on some drivers a permanent address that is not.
        Some(match self.permanent_mac {
            Some(mac) if !parent.is_vf() => format!("{device}/{mac}"),
            _ => device,
        })
    }

    /// Whether this hardware is behind it.
    pub fn is_hardware(&self, bus: &str, device: &str) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.bus == bus && parent.device == device)
    }

    /// Whether `kind` is its `rtnl_link_ops` kind.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// The kernel driver: of the hardware behind it, else its kind.
    pub fn driver(&self) -> Option<String> {
        self.parent.as_ref().and_then(Parent::driver).or_else(|| self.kind.clone())
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            ifindex: message.header.index,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            loopback: flags.contains(LinkFlags::Loopback),
            flags: Flags {
                promisc: flags.contains(LinkFlags::Promisc),
                allmulti: flags.contains(LinkFlags::Allmulti),
                arp: !flags.contains(LinkFlags::Noarp),
                multicast: flags.contains(LinkFlags::Multicast),
            },
            ..Self::default()
        };
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let (mut bus, mut device) = (None, None);
        for attribute in message.attributes {
            link.tuning.note(&attribute);
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(octets) if ethernet => {
                    link.mac = <[u8; 6]>::try_from(octets).ok().map(Mac);
                }
                LinkAttribute::PermAddress(octets) if ethernet => {
                    link.permanent_mac = <[u8; 6]>::try_from(octets).ok().map(Mac);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::MinMtu(min) => link.mtu_range.0 = min,
                LinkAttribute::MaxMtu(max) => link.mtu_range.1 = max,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Xdp(xdp) => {
                    // The one, or one of each mode.
                    link.xdp.extend(xdp.iter().filter_map(|part| match part {
                        LinkXdp::ProgId(id)
                        | LinkXdp::DrvProgId(id)
                        | LinkXdp::SkbProgId(id)
                        | LinkXdp::HwProgId(id) => Some(*id),
                        _ => None,
                    }));
                }
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::ParentDevBusName(name) => bus = Some(name),
                LinkAttribute::ParentDevName(name) => device = Some(name),
                LinkAttribute::NetnsImmutable(immovable) => link.immovable = immovable,
                LinkAttribute::Stats64(stats) => link.stats = Stats::from(&stats),
                LinkAttribute::PropList(props) => {
                    link.altnames.extend(props.into_iter().filter_map(|prop| match prop {
                        Prop::AltIfName(name) => Some(name),
                        _ => None,
                    }));
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Bond(bond)) => {
                                link.moves_mac = follows_its_members(&bond);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link.parent = bus.zip(device).map(|(bus, device)| Parent { bus, device });
        link
    }
}

fn follows_its_members(bond: &[InfoBond]) -> bool {
    bond.iter().any(|info| matches!(info, InfoBond::FailOverMac(mode) if *mode != BondFailOverMac::None))
}

impl Rtnl {
    /// The netdev, or none if this namespace has no such.
    pub async fn link(&self, link: LinkRef<'_>) -> Result<Option<Link>> {
        let mut request = LinkMessage::default();
        match link {
            LinkRef::Index(index) => request.header.index = index,
            // As `ip link` does: a longer one can only be an alternative name.
            LinkRef::Name(name) if name.len() > MAX_NAME => {
                request.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]));
            }
            LinkRef::Name(name) => request.attributes.push(LinkAttribute::IfName(name.to_owned())),
        }
        Ok(self.read_link(&format!("reading {link}"), request).await?.map(Link::from))
    }

    /// The netdev of this [hardware](Link::hardware), or none if this namespace has no such.
    pub async fn link_of(&self, hardware: &str) -> Result<Option<Link>> {
        let links = self.links().await?;
        Ok(links.into_iter().find(|link| link.hardware().as_deref() == Some(hardware)))
    }

    /// All netdevs of this namespace.
    pub async fn links(&self) -> Result<Vec<Link>> {
        Ok(self.read_links().await?.into_iter().map(Link::from).collect())
    }
}

/// A netdev that must be there.
pub async fn require(rtnl: &Rtnl, link: LinkRef<'_>) -> Result<Link> {
    rtnl.link(link).await?.ok_or_else(|| Error::gone(link.to_string()))
}
