//! SR-IOV as sysfs shows it: which netdev is a PF, and what its VFs are (Documentation/ABI/testing/
//! sysfs-bus-pci). Paths go by PCI address, as names and ifindexes change.
use std::{fs, path::Path};

use super::{Link, link::Parent};

/// A VF of a PF, by what PCI says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vf {
    /// Its number, from 0.
    pub index: u32,
    /// Its PCI address, `0000:01:10.0`.
    pub address: String,
    /// The kernel driver that is bound to it, if any.
    pub driver: Option<String>,
}

/// The PF's VFs in the order of their numbers; empty if it has none, or is no PF.
pub fn vfs(pf: &Link) -> Vec<Vf> {
    let Some(parent) = pci(pf) else { return Vec::new() };
    let folder = parent.sysfs();
    (0..number(&folder.join("sriov_numvfs")))
        .filter_map(|index| {
            let target = folder.join(format!("virtfn{index}")).read_link().ok()?;
            let address = target.file_name()?.to_str()?.to_owned();
            let driver = Parent { bus: "pci".into(), device: address.clone() }.driver();
            Some(Vf { index, address, driver })
        })
        .collect()
}

/// How many VFs the hardware could have; 0 if the netdev is no PF.
pub fn total_vfs(link: &Link) -> u32 {
    pci(link).map_or(0, |parent| number(&parent.sysfs().join("sriov_totalvfs")))
}

fn pci(link: &Link) -> Option<&Parent> {
    link.parent.as_ref().filter(|parent| parent.bus == "pci")
}

fn number(path: &Path) -> u32 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
