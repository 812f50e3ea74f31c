//! A PF and its networks: the first makes its VFs, the last takes them away if they were ours.
use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{Driver, Result, blocking, netdevice::Refuse, options::BadOption, upkeep::Action};
use crate::{
    device::{Link, LinkRef, link::require, pci},
    fault,
    state::{
        Endpoint, Mode, Network, NetworkId, NetworkOptions, State,
        model::{Made, PfChanges},
    },
};

/// Auto-negotiation takes a second or two.
const CARRIER: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(100);

impl Driver {
    /// The PF that the options name, if the network `network` may have VFs of it.
    pub(super) async fn pf(&self, options: &NetworkOptions, network: Option<&NetworkId>) -> Result<Link> {
        let refuse = Refuse(&options.netdevice);
        let Some(link) = self.rtnl.link(LinkRef::Name(&options.netdevice)).await? else {
            return Err(refuse.because(self.no_such_netdev().await));
        };
        let total = pci::total_vfs(&link);
        if total == 0 {
            let reason = "is no SR-IOV PF, which mode=sriov needs, or its firmware has SR-IOV off; -o mode=passthrough hands over all of it";
            return Err(refuse.because(reason));
        }
        if let Some(vfs) = options.vf.vfs
            && vfs > total
        {
            return Err(BadOption::new("vfs", vfs, format!("{} has {total} at most", link.name)).into());
        }
        let state = self.store.get();
        for (id, other) in state.networks.iter().filter(|(id, _)| Some(*id) != network) {
            if other.mode == Mode::Passthrough && other.options.netdevice == link.name {
                return Err(refuse.because(format!("belongs to {} as a whole", other.title(id))));
            }
            let same_pf = other.mode == Mode::Sriov && other.options.netdevice == link.name;
            if same_pf && other.options.vf.vlan.id == options.vf.vlan.id {
                let reason = format!(
                    "{} on {} has it already; networks of one PF differ in their VLAN",
                    other.title(id),
                    link.name
                );
                return Err(BadOption::new("vlan", options.vf.vlan.id, reason).into());
            }
        }
        Ok(link)
    }

    /// Brings the PF up and makes its VFs, unless the administrator has. What we did is remembered first.
    pub(super) async fn enable_vfs(&self, pf: &Link, options: &NetworkOptions) -> Result<()> {
        let Some(hardware) = pf.hardware() else { return Ok(()) };
        let _pf = self.pfs.lock(&hardware).await;
        // As it is now: another network may just have made them.
        let pf = require(&self.rtnl, LinkRef::Index(pf.ifindex)).await?;
        let are_there = count_of(&pf) > 0;
        let count = options.vf.vfs.unwrap_or_else(|| pci::total_vfs(&pf));
        let before = self.store.get().pfs.get(&hardware).cloned().unwrap_or_default();
        let raised = before.raised || !pf.up;
        let changes = if are_there {
            // Those of an administrator, who may have taken ours away.
            let ours = before.enabled && are_those(before.made.as_ref(), &pf);
            PfChanges { enabled: ours, raised, made: before.made.clone().filter(|_| ours) }
        } else {
            PfChanges { enabled: true, raised, made: Some(Made { count, boot: boot(), first: None }) }
        };
        if changes != before {
            self.store.update(|state| state.pfs.insert(hardware.clone(), changes.clone())).await?;
        }
        fault::point!("pf.remembered");
        if !pf.up {
            self.rtnl.set_up(pf.ifindex, true).await?;
        }
        self.await_carrier(&pf).await?;
        if are_there {
            return Ok(());
        }
        tracing::info!(netdevice = pf.name, count, "enabling VFs");
        let link = pf.clone();
        let what = format!("{}: enabling {count} VFs", pf.name);
        let _names = self.names().await;
        let set = blocking(what, move || pci::set_vfs(&link, count)).await;
        // An error is no proof that there are none, nor is success one that there are so many.
        let made = Made { count: count_of(&pf), boot: boot(), first: pci::birth_of_vfs(&pf) };
        let enabled = set.is_ok() || before.enabled || made.count > 0;
        let changes = PfChanges { enabled, made: Some(made), ..changes };
        self.store.update(|state| state.pfs.insert(hardware, changes)).await?;
        set
    }

    /// Makes the VFs again that this driver had made, where they are gone. Those that an administrator
    /// had made are his to make again.
    pub(super) async fn enable_lost_vfs(&self, pf: &Link, options: &NetworkOptions) -> Result<()> {
        let state = self.store.get();
        let changes =
            pf.hardware().and_then(|hardware| state.pfs.get(&hardware)).cloned().unwrap_or_default();
        let lost = changes.enabled && pci::vfs(pf).is_empty() || changes.raised && !pf.up;
        if lost { self.enable_vfs(pf, options).await } else { Ok(()) }
    }

    /// Without a carrier the hardware takes no rates, and containers reach nobody; that may be mended
    /// later, so it is no error.
    async fn await_carrier(&self, pf: &Link) -> Result<()> {
        let deadline = tokio::time::Instant::now() + CARRIER;
        while !self.rtnl.link(LinkRef::Index(pf.ifindex)).await?.is_some_and(|link| link.carrier) {
            if tokio::time::Instant::now() >= deadline {
                tracing::warn!(netdevice = pf.name, "no carrier: is the cable in?");
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Undoes what was done to a PF for its first network, where the last has gone and nobody uses a VF.
    /// Answers with the VFs that somebody uses, for which it stays as it is. What can't be done now is done in a later
    /// pass; none if there is such.
    pub(super) async fn leave_pf(&self, hardware: &str) -> Option<Vec<String>> {
        let left = self.try_leave_pf(&hardware.to_owned()).await;
        if let Err(error) = &left {
            self.upkeep.failed(Action::LeavePf);
            tracing::error!(pf = hardware, %error, "leaving the PF as it was");
        }
        left.ok()
    }

    async fn try_leave_pf(&self, hardware: &String) -> Result<Vec<String>> {
        let _pf = self.pfs.lock(hardware).await;
        let Some(pf) = self.rtnl.link_of(hardware).await? else {
            // Unplugged, or its driver unbound: its VFs went with it.
            return Ok(Vec::new());
        };
        self.remember_pf(hardware, &pf).await?;
        let state = self.store.get();
        let kept = state.networks.values().any(|network| {
            let of_pf = |endpoint: &Arc<Endpoint>| endpoint.vf.as_ref().is_some_and(|vf| vf.pf == *hardware);
            // Also while it has another name.
            network.mode == Mode::Sriov
                && (network.pf.as_ref() == Some(hardware)
                    || network.options.netdevice == pf.name
                    || network.endpoints.values().any(of_pf))
        });
        let Some(changes) = state.pfs.get(hardware).filter(|_| !kept) else {
            return Ok(Vec::new());
        };
        // They have no link without it, whoever made them.
        let used = self.used_vfs(&pf).await?;
        if !used.is_empty() {
            return Ok(used);
        }
        if changes.enabled && count_of(&pf) > 0 && are_those(changes.made.as_ref(), &pf) {
            tracing::info!(netdevice = pf.name, "disabling VFs");
            let link = pf.clone();
            let what = format!("{}: disabling its VFs", pf.name);
            blocking(what, move || pci::set_vfs(&link, 0)).await?;
        }
        fault::point!("pf.vfs_gone");
        if changes.raised && !self.host_uses(&pf, &self.rtnl.lowers().await?).await? {
            self.rtnl.set_up(pf.ifindex, false).await?;
        }
        self.store.update(|state| state.pfs.remove(hardware)).await?;
        self.upkeep.done(Action::LeavePf);
        Ok(used)
    }

    /// Networks that an older driver remembered have no hardware.
    async fn remember_pf(&self, hardware: &str, pf: &Link) -> Result<()> {
        let is_of_older = |network: &Network| {
            network.mode == Mode::Sriov && network.pf.is_none() && network.options.netdevice == pf.name
        };
        let state = self.store.get();
        for (id, _) in state.networks.iter().filter(|(_, network)| is_of_older(network)) {
            let remember = |state: &mut State| {
                if let Some(network) = state.network_mut(id) {
                    network.pf = Some(hardware.to_owned());
                }
            };
            self.store.update(remember).await?;
        }
        Ok(())
    }

    /// VFs that somebody uses: `VF 3`. Bound, but with their netdev elsewhere or none at all, or in use
    /// on the host.
    pub(super) async fn used_vfs(&self, pf: &Link) -> Result<Vec<String>> {
        let vfs = pci::vfs(pf);
        if vfs.is_empty() {
            return Ok(Vec::new());
        }
        let (links, lowers) = (self.rtnl.links().await?, self.rtnl.lowers().await?);
        let reserved = self.reserved.now();
        let state = self.store.get();
        let mut used = Vec::new();
        for vf in vfs {
            let netdev = links.iter().find(|link| link.is_hardware("pci", &vf.address));
            let ours = reserved.contains_key(&vf.hardware())
                || state.holder(&vf.hardware()).is_some()
                || netdev.is_some_and(|netdev| {
                    state.networks.values().any(|network| network.options.netdevice == netdev.name)
                });
            let in_use = match netdev {
                _ if ours => true,
                Some(netdev) => self.host_uses(netdev, &lowers).await?,
                None => vf.driver.is_some(),
            };
            if in_use {
                used.push(format!("VF {}", vf.index));
            }
        }
        Ok(used)
    }

    /// Whether the host itself uses a netdev: it is a member of something, is up with an address, or is one of the
    /// [lowers](crate::device::Rtnl::lowers), as that beneath a VM's macvtap is.
    pub(super) async fn host_uses(&self, netdev: &Link, lowers: &HashSet<u32>) -> Result<bool> {
        let up_with_addresses = netdev.up && !self.rtnl.host_addresses(netdev.ifindex).await?.is_empty();
        Ok(netdev.master.is_some() || up_with_addresses || lowers.contains(&netdev.ifindex))
    }
}

/// Whether the PF's VFs are those that were made; if nobody remembers how many those were, they are.
fn are_those(made: Option<&Made>, pf: &Link) -> bool {
    made.is_none_or(|made| {
        let same = made.count == count_of(pf) && made.boot == boot();
        same && (made.first.is_none() || made.first == pci::birth_of_vfs(pf))
    })
}

fn count_of(pf: &Link) -> u32 {
    u32::try_from(pci::vfs(pf).len()).unwrap_or(u32::MAX)
}

/// Names this boot of the kernel (`random(4)`).
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl Network {
    /// For errors: `network red`, or `network 0123456789ab` where the name is not known.
    pub(crate) fn title(&self, id: &NetworkId) -> String {
        format!("network {}", self.name.as_deref().unwrap_or(id.short()))
    }
}
