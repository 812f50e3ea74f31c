//! How many VFs the PFs of the networks have, and how many are free: for the metrics.
use super::{Driver, Result};
use crate::{device::pci, state::Mode};

/// A PF that networks hand out VFs of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub pf: String,
    /// Its PCI address.
    pub pci_address: String,
    /// How many VFs there are.
    pub vfs: usize,
    /// How many of them containers of this driver have.
    pub used: usize,
    /// How many of them a container could get. The rest is in use by others.
    pub free: usize,
}

impl Driver {
    /// The PFs of all networks in sriov mode; one that is gone is left out.
    pub async fn pools(&self) -> Result<Vec<Pool>> {
        // In this order, as where one is chosen: each that is somebody's is in one of the two.
        let reserved = self.reserved.now();
        let state = self.store.get();
        let is_pf = |name: &str| {
            let mut networks = state.networks.values();
            networks.any(|network| network.mode == Mode::Sriov && network.options.netdevice == name)
        };
        if !state.networks.values().any(|network| network.mode == Mode::Sriov) {
            return Ok(Vec::new());
        }
        let (links, lowers) = (self.rtnl.links().await?, self.rtnl.lowers().await?);
        let mut pools = Vec::new();
        for pf in links.iter().filter(|link| is_pf(&link.name)) {
            let vfs = pci::vfs(pf);
            let (mut used, mut free) = (0, 0);
            for vf in &vfs {
                let netdev = links.iter().find(|link| link.is_hardware("pci", &vf.address));
                let hardware = vf.hardware();
                if reserved.contains_key(&hardware) || state.holder(&hardware).is_some() {
                    used += 1;
                } else if self.vf_user(&state, vf, netdev, &lowers).await?.is_none() {
                    free += 1;
                }
            }
            let pci_address = pf.parent.as_ref().map(|parent| parent.device.clone()).unwrap_or_default();
            pools.push(Pool { pf: pf.name.clone(), pci_address, vfs: vfs.len(), used, free });
        }
        Ok(pools)
    }
}
