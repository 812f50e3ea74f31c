//! A VF's settings, read and set through its PF (IFLA_VFINFO_LIST, include/uapi/linux/if_link.h).
//!
//! The kernel applies what one message holds in an order of its own and stops at the first failure, so
//! each setting goes in a message of its own, and is read back by the caller.
use std::{collections::BTreeMap, fmt};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        LinkAttribute, LinkExtentMask, LinkVfInfo, VfInfo, VfInfoLinkState, VfInfoMac, VfInfoRate,
        VfInfoSpoofCheck, VfInfoTrust, VfLinkState, VfVlan, VfVlanInfo, VlanProtocol,
    },
};
use rtnetlink::LinkUnspec;
use serde::{Deserialize, Serialize};

use super::{
    Link, Mac, Rtnl, pci,
    rtnl::{Error, Result},
    stats::Stats,
};

/// Ethertype that a VF's frames are tagged with on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanProto {
    /// 0x8100
    #[default]
    #[serde(rename = "802.1q")]
    Dot1q,
    /// 0x88a8
    #[serde(rename = "802.1ad")]
    Dot1ad,
}

impl fmt::Display for VlanProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dot1q => "802.1q",
            Self::Dot1ad => "802.1ad",
        })
    }
}

/// What link state the VF sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// The PF's.
    #[default]
    Auto,
    /// Always up.
    Enable,
    /// Always down.
    Disable,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Enable => "enable",
            Self::Disable => "disable",
        })
    }
}

/// The VLAN that the hardware puts a VF in, invisibly to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// 1 to 4094; 0 is none.
    pub id: u16,
    /// 802.1p priority, 0 to 7.
    pub qos: u8,
    /// Ethertype of the tag.
    pub proto: VlanProto,
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, qos, proto } = self;
        write!(f, "vlan {id} qos {qos} proto {proto}")
    }
}

/// A VF as its PF has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfSettings {
    /// Administratively set address; all zero if there is none.
    pub mac: Option<Mac>,
    /// VLAN.
    pub vlan: Vlan,
    /// Guaranteed and largest rate of sending, in Mbit/s; 0 is none.
    pub rate: (u32, u32),
    /// Whether the hardware drops frames with a foreign source MAC.
    pub spoofchk: bool,
    /// Whether the VF may change its address and be promiscuous.
    pub trust: bool,
    /// Link state.
    pub link_state: LinkState,
}

/// One setting of a VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfSetting {
    /// Administrative address; zero takes it back.
    Mac(Mac),
    /// VLAN.
    Vlan(Vlan),
    /// Guaranteed and largest rate of sending, in Mbit/s.
    Rate(u32, u32),
    /// Hardware spoof check.
    Spoofchk(bool),
    /// Trust.
    Trust(bool),
    /// Link state.
    LinkState(LinkState),
}

impl fmt::Display for VfSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on| if on { "on" } else { "off" };
        match self {
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::Vlan(vlan) => vlan.fmt(f),
            Self::Rate(min, max) => write!(f, "min_tx_rate {min} max_tx_rate {max}"),
            Self::Spoofchk(set) => write!(f, "spoofchk {}", on(*set)),
            Self::Trust(set) => write!(f, "trust {}", on(*set)),
            Self::LinkState(state) => write!(f, "link_state {state}"),
        }
    }
}

impl VfSetting {
    /// Whether the VF has it.
    pub fn is_in(self, settings: &VfSettings) -> bool {
        match self {
            Self::Mac(mac) => settings.mac.unwrap_or(Mac([0; 6])) == mac,
            Self::Vlan(vlan) => settings.vlan == vlan,
            Self::Rate(min, max) => settings.rate == (min, max),
            Self::Spoofchk(on) => settings.spoofchk == on,
            Self::Trust(on) => settings.trust == on,
            Self::LinkState(state) => settings.link_state == state,
        }
    }

    fn info(self, vf: u32) -> VfInfo {
        match self {
            Self::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.0)),
            Self::Vlan(Vlan { id, qos, proto }) => {
                let proto = match proto {
                    VlanProto::Dot1q => VlanProtocol::Ieee8021Q,
                    VlanProto::Dot1ad => VlanProtocol::Ieee8021Ad,
                };
                VfInfo::VlanList(vec![VfVlan::Info(VfVlanInfo::new(vf, id.into(), qos.into(), proto))])
            }
            Self::Rate(min, max) => VfInfo::Rate(VfInfoRate::new(vf, min, max)),
            Self::Spoofchk(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)),
            Self::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, on)),
            Self::LinkState(state) => {
                let state = match state {
                    LinkState::Auto => VfLinkState::Auto,
                    LinkState::Enable => VfLinkState::Enable,
                    LinkState::Disable => VfLinkState::Disable,
                };
                VfInfo::LinkState(VfInfoLinkState::new(vf, state))
            }
        }
    }
}

/// A PF with more VFs than this is not asked for their counters: all of them are in one attribute, which is no longer
/// than 64 KiB.
const MAX_COUNTED_VFS: usize = 128;

impl Rtnl {
    /// The settings of the PF's VFs, by their numbers. One that the hardware's driver says nothing of is left
    /// out.
    pub async fn vf_settings(&self, pf: u32) -> Result<BTreeMap<u32, VfSettings>> {
        let rows = self.vf_rows(pf, vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats]).await?;
        Ok(rows.iter().filter_map(|row| Some((number(row)?, settings(row)))).collect())
    }

    /// What the hardware counted for each of the PF's VFs, by their numbers; empty for a PF with more than
    /// [`MAX_COUNTED_VFS`].
    pub async fn vf_counters(&self, pf: &Link) -> Result<BTreeMap<u32, Stats>> {
        if pci::vfs(pf).len() > MAX_COUNTED_VFS {
            return Ok(BTreeMap::new());
        }
        let rows = self.vf_rows(pf.ifindex, vec![LinkExtentMask::Vf]).await?;
        Ok(rows.iter().filter_map(|row| Some((number(row)?, counters(row)))).collect())
    }

    async fn vf_rows(&self, pf: u32, mask: Vec<LinkExtentMask>) -> Result<Vec<Vec<VfInfo>>> {
        let mut request = LinkUnspec::new_with_index(pf).build();
        request.attributes.push(LinkAttribute::ExtMask(mask));
        let what = format!("reading the VFs of netdev {pf}");
        // One that has just gone is no PF without VFs: theirs are still to be put back.
        let found = self.read_link(&what, request).await?.ok_or_else(|| Error::gone(what))?;
        let attributes = found.attributes.into_iter();
        let lists = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::VfInfoList(list) => Some(list),
            _ => None,
        });
        Ok(lists.flatten().map(|LinkVfInfo(infos)| infos).collect())
    }

    /// Sets one thing of one VF, and reads back that it is set.
    pub async fn set_vf(&self, pf: u32, vf: u32, setting: VfSetting) -> Result<()> {
        let what = format!("setting VF {vf} {setting}");
        let list = LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![setting.info(vf)])]);
        let message = LinkUnspec::new_with_index(pf).append_extra_attribute(list).build();
        self.acked(what.clone(), RouteNetlinkMessage::SetLink(message), 0).await?;
        let now = self.vf_settings(pf).await?;
        match now.get(&vf) {
            Some(settings) if setting.is_in(settings) => Ok(()),
            Some(settings) => {
                let reason = format!("the kernel took it, and reads back {settings:?}");
                Err(Error::Protocol { what, reason })
            }
            None => Err(Error::Protocol { what, reason: "the PF no longer has this VF".into() }),
        }
    }
}

/// Which VF a row is about. Its place in the list does not tell: the kernel leaves out VFs that it fails to
/// read (`rtnl_fill_vfinfo`, net/core/rtnetlink.c).
fn number(row: &[VfInfo]) -> Option<u32> {
    row.iter().find_map(|info| match info {
        VfInfo::Mac(mac) => Some(mac.vf_id),
        _ => None,
    })
}

fn settings(row: &[VfInfo]) -> VfSettings {
    let mut settings = VfSettings::default();
    for info in row {
        match info {
            VfInfo::Mac(mac) => {
                let octets = mac.mac.first_chunk().copied().unwrap_or_default();
                settings.mac = Some(Mac(octets)).filter(|mac| mac.0 != [0; 6]);
            }
            VfInfo::VlanList(list) => {
                for vlan in list {
                    if let VfVlan::Info(vlan) = vlan {
                        settings.vlan.id = u16::try_from(vlan.vlan_id).unwrap_or_default();
                        settings.vlan.qos = u8::try_from(vlan.qos).unwrap_or_default();
                        if vlan.protocol == VlanProtocol::Ieee8021Ad {
                            settings.vlan.proto = VlanProto::Dot1ad;
                        }
                    }
                }
            }
            VfInfo::Rate(rate) => settings.rate = (rate.min_tx_rate, rate.max_tx_rate),
            VfInfo::SpoofCheck(check) => settings.spoofchk = check.enabled,
            VfInfo::Trust(trust) => settings.trust = trust.enabled,
            VfInfo::LinkState(link) => {
                settings.link_state = match link.state {
                    VfLinkState::Enable => LinkState::Enable,
                    VfLinkState::Disable => LinkState::Disable,
                    _ => LinkState::Auto,
                };
            }
            _ => {}
        }
    }
    settings
}

fn counters(row: &[VfInfo]) -> Stats {
    let stats = row.iter().filter_map(|info| match info {
        VfInfo::Stats(stats) => Some(stats),
        _ => None,
    });
    stats.flatten().collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, Parseable};

    use super::*;

    /// Through the bytes that go to the kernel: what is set is what is read back, and nothing else.
    #[test]
    fn what_is_set_is_what_is_read() {
        let vlan = Vlan { id: 4094, qos: 7, proto: VlanProto::Dot1ad };
        for setting in [
            VfSetting::Mac("02:42:0a:40:00:17".parse().unwrap()),
            VfSetting::Vlan(vlan),
            VfSetting::Vlan(Vlan { proto: VlanProto::Dot1q, ..vlan }),
            VfSetting::Rate(100, 2500),
            VfSetting::Spoofchk(true),
            VfSetting::Trust(true),
            VfSetting::LinkState(LinkState::Enable),
            VfSetting::LinkState(LinkState::Disable),
        ] {
            let row = [VfInfo::Mac(VfInfoMac::new(5, &[0; 6])), setting.info(5)];
            let mut read = Vec::new();
            for info in &row {
                let mut bytes = vec![0; info.buffer_len()];
                info.emit(&mut bytes);
                let buffer = netlink_packet_core::NlaBuffer::new_checked(bytes.as_slice()).unwrap();
                read.push(VfInfo::parse(&buffer).unwrap());
            }
            assert_eq!(number(&read), Some(5));
            let settings = settings(&read);
            assert!(setting.is_in(&settings), "{setting}: {settings:?}");
            assert!(!setting.is_in(&VfSettings::default()), "{setting}");
        }
        let auto = [VfSetting::LinkState(LinkState::Auto).info(5)];
        assert_eq!(settings(&auto), VfSettings::default());
    }
}
