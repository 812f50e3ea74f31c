//! Networks come and go.
use std::collections::BTreeMap;

use super::{CreateNetwork, Driver, Error, Result, options, options::BadOption};
use crate::{
    device::pci,
    state::{Mode, Network, NetworkId},
};

impl Driver {
    /// Creates a network; nothing but its claim on the netdevice happens yet.
    pub async fn create_network(&self, request: &CreateNetwork) -> Result<()> {
        let _network = self.locks.lock(&request.network).await;
        let _claims = self.claims.lock().await;
        let mut requested = options::parse(&request.generic)?;
        let known = self.store.get().networks.get(&request.network).cloned();

        let (link, mode) = match &known {
            // Its netdevice may be in a container now: it was looked at when it was created.
            Some(known) => (None, requested.mode.unwrap_or(known.mode)),
            None => {
                let link = self.netdevice(&requested.options, None).await?;
                let by_hardware = if pci::total_vfs(&link) > 0 { Mode::Sriov } else { Mode::Passthrough };
                let mode = requested.mode.unwrap_or(by_hardware);
                (Some(link), mode)
            }
        };
        match (mode, requested.vf_settings.first()) {
            (Mode::Passthrough, Some(setting)) => {
                let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
                let reason = "is a setting of a VF, and mode=passthrough hands over the whole netdev; \
                              make the VLAN on the switch's port or in the container, or use mode=sriov";
                return Err(BadOption::new(key, value, reason).into());
            }
            (Mode::Sriov, _) => {
                let netdevice = &requested.options.netdevice;
                let reason =
                    format!("is not in this version; -o mode=passthrough hands over all of {netdevice}");
                return Err(BadOption::new("mode", mode, reason).into());
            }
            (Mode::Passthrough, None) => {}
        }
        if let Some(link) = link {
            // From here on it goes by its own name, also where an alternative one was typed.
            requested.options.netdevice = link.name;
        } else if let Some(known) = &known {
            requested.options.netdevice.clone_from(&known.options.netdevice);
        }
        let network = Network {
            mode,
            options: requested.options,
            gateways: if request.internal { Vec::new() } else { request.gateways.clone() },
            endpoints: BTreeMap::new(),
        };
        if let Some(known) = known {
            let same = Network { endpoints: known.endpoints.clone(), ..network } == known;
            return if same { Ok(()) } else { Err(Error::NetworkExists(request.network.clone())) };
        }
        let id = request.network.clone();
        self.store.update(|state| state.networks.insert(id, network)).await?;
        Ok(())
    }

    /// Forgets a network, after taking back what its endpoints still have. Fine if there is none.
    pub async fn delete_network(&self, network: &NetworkId) -> Result<()> {
        let _network = self.locks.lock(network).await;
        let Some(known) = self.store.get().networks.get(network).cloned() else { return Ok(()) };
        for (id, endpoint) in &known.endpoints {
            self.release(network, id, endpoint).await?;
        }
        self.store.update(|state| state.networks.remove(network)).await?;
        Ok(())
    }
}
