//! The VFs of a PF, and who has each.
use serde::Serialize;

use super::Report;
use crate::device::{Link, Rtnl, pci, vf::VfSettings};

/// A PF that a network hands out VFs of. The field names are a contract.
#[derive(Debug, Serialize)]
pub struct PfReport {
    /// Its name.
    pub netdevice: String,
    /// Its PCI address.
    #[serde(rename = "pciAddr")]
    pub pci_address: Option<String>,
    /// How many VFs the hardware could have.
    pub total_vfs: u32,
    /// Whether this driver enabled the VFs there are, and disables them after the last network.
    pub enabled_by_driver: bool,
    /// Those there are.
    pub vfs: Vec<VfRow>,
}

/// A VF.
#[derive(Debug, Serialize)]
pub struct VfRow {
    /// Its number.
    pub vf: u32,
    /// Its PCI address.
    #[serde(rename = "pciAddr")]
    pub pci_address: String,
    /// The kernel driver that is bound to it.
    pub driver: Option<String>,
    /// Its netdev's name on the host; null while it is elsewhere.
    pub netdevice: Option<String>,
    /// The endpoint that has it.
    pub endpoint_id: Option<String>,
    /// The container that has it, if Docker tells.
    pub container: Option<String>,
    /// How the PF has configured it.
    pub settings: Option<VfSettings>,
}

/// The PF of this name; none if there is no such.
pub async fn pf(rtnl: &Rtnl, links: &[Link], name: &str, report: &Report) -> Option<PfReport> {
    let pf = links.iter().find(|link| link.name == name)?;
    let settings = rtnl.vf_settings(pf.ifindex).await.unwrap_or_default();
    let rows = pci::vfs(pf).into_iter().map(|vf| {
        let holder = report.state.holder(&vf.hardware());
        let container = holder.and_then(|(network, id, _)| report.container(network, id));
        let pci::Vf { index, address, driver } = vf;
        VfRow {
            vf: index,
            netdevice: links
                .iter()
                .find(|link| link.is_hardware("pci", &address))
                .map(|link| link.name.clone()),
            pci_address: address,
            driver,
            endpoint_id: holder.map(|(_, id, _)| id.to_string()),
            container: container.map(|(name, _)| name.to_owned()),
            settings: settings.get(&index).cloned(),
        }
    });
    let changes = pf.hardware().and_then(|hardware| report.state.pfs.get(&hardware));
    Some(PfReport {
        netdevice: pf.name.clone(),
        pci_address: pf.parent.as_ref().map(|parent| parent.device.clone()),
        total_vfs: pci::total_vfs(pf),
        enabled_by_driver: changes.is_some_and(|changes| changes.enabled),
        vfs: rows.collect(),
    })
}
