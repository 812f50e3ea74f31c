//! Which VF a container gets, and how it is configured for its tenant and handed back clean.
use std::time::Duration;

use super::{CreateEndpoint, Driver, Error, Result, assign::Chosen, blocking};
use crate::{
    device::{
        Change, Link, LinkRef, Mac, Stats,
        link::{MAX_NAME, require},
        pci,
        vf::{VfSetting, VfSettings},
    },
    state::{Endpoint, Network, VfGrant},
};

/// A VF's driver makes its netdev, and udev names it, within this time.
const NETDEV: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

impl Driver {
    /// Chooses a free VF: the one asked for by number or by address, else the lowest.
    pub(super) async fn choose_vf(&self, pf: &Link, request: &CreateEndpoint) -> Result<Chosen> {
        let vfs = pci::vfs(pf);
        let settings = self.rtnl.vf_settings(pf.ifindex).await?;
        let links = self.rtnl.links().await?;
        let netdev = |vf: &pci::Vf| links.iter().find(|link| link.is_hardware("pci", &vf.address));
        let has_mac = |vf: &pci::Vf, mac| {
            let administrative = settings.get(&vf.index).and_then(|settings| settings.mac);
            administrative == Some(mac) || netdev(vf).is_some_and(|link| link.mac == Some(mac))
        };
        let by_mac = request.mac.and_then(|mac| vfs.iter().find(|vf| has_mac(vf, mac)));

        let mut users = Vec::new();
        let mut free = Vec::new();
        for vf in &vfs {
            match self.vf_user(vf, netdev(vf)).await? {
                None => free.push(vf),
                Some(user) => users.push((vf.index, user)),
            }
        }
        let user = |index| users.iter().find(|(vf, _)| *vf == index).map(|(_, user)| user.as_str());
        let wanted = match (request.vf, by_mac) {
            (Some(index), _) if !vfs.iter().any(|vf| vf.index == index) => {
                return Err(Error::NoSuchVf { pf: pf.name.clone(), index, count: vfs.len() });
            }
            (Some(index), _) => Some(index),
            (None, by_mac) => by_mac.map(|vf| vf.index),
        };
        if let Some(index) = wanted {
            if let Some(user) = user(index) {
                let netdevice = format!("{} VF {index}", pf.name);
                return Err(Error::InUse { netdevice, user: user.to_owned() });
            }
            free.retain(|vf| vf.index == index);
        }
        for vf in free {
            let Some(original) = settings.get(&vf.index).cloned() else { continue };
            let link = match netdev(vf) {
                Some(link) => Ok(link.clone()),
                None => self.bind_vf(pf, &vfs, vf).await,
            };
            match link {
                Ok(link) => {
                    let link = self.named(self.when_named(link).await?, pf, vf.index).await?;
                    let grant = VfGrant {
                        pf: pf.hardware().unwrap_or_default(),
                        index: vf.index,
                        original: original.clone(),
                        counters: self.vf_counters(pf, vf.index).await,
                    };
                    let own = original.mac.unwrap_or_else(|| stable_mac(pf, vf.index));
                    let mac = link.mac.map(|_| request.mac.unwrap_or(own));
                    return Ok(Chosen { link, mac, vf: Some(grant), lower: None });
                }
                Err(error) => {
                    tracing::warn!(netdevice = pf.name, vf = vf.index, %error, "passed over");
                    users.push((vf.index, error.to_string()));
                }
            }
        }
        users.sort();
        let users = users.into_iter().map(|(vf, user)| format!("VF {vf}: {user}")).collect();
        Err(Error::NoFreeVf { pf: pf.name.clone(), count: vfs.len(), users })
    }

    /// Who has the VF; none if it is free.
    async fn vf_user(&self, vf: &pci::Vf, netdev: Option<&Link>) -> Result<Option<String>> {
        let state = self.store.get();
        if let Some((_, id, endpoint)) = state.holder(&vf.hardware()) {
            return Ok(Some(endpoint.user(id)));
        }
        if let Some(driver) = vf.driver.as_ref().filter(|driver| pci::is_userspace(driver)) {
            return Ok(Some(format!("bound to {driver}")));
        }
        let Some(netdev) = netdev else {
            // Without a driver it is probed; with one, its netdev is in some other namespace.
            return Ok(vf.driver.as_ref().map(|_| "another network namespace".to_owned()));
        };
        if let Some((id, network)) =
            state.networks.iter().find(|(_, network)| network.options.netdevice == netdev.name)
        {
            return Ok(Some(network.title(id)));
        }
        if let Some(driver) = self.other_driver(netdev) {
            return Ok(Some(driver));
        }
        Ok(self.host_uses(netdev).await?.then(|| format!("the host ({})", netdev.name)))
    }

    /// What the hardware has counted for the VF; zero where that can't be asked for.
    async fn vf_counters(&self, pf: &Link, vf: u32) -> Stats {
        let rows = self.rtnl.vf_counters(pf).await.unwrap_or_default();
        rows.get(&vf).copied().unwrap_or_default()
    }

    async fn bind_vf(&self, pf: &Link, vfs: &[pci::Vf], vf: &pci::Vf) -> Result<Link> {
        let what = format!("{} VF {}: binding it to its driver", pf.name, vf.index);
        let Some(driver) = pci::vf_driver(pf, vfs) else {
            let source = std::io::Error::other("which one is not known");
            return Err(Error::Io { what, source });
        };
        let address = vf.address.clone();
        blocking(what, move || pci::bind(&address, &driver)).await?;
        self.vf_netdev(&vf.address).await
    }

    /// The netdev of the VF at this PCI address, once its driver has made it.
    async fn vf_netdev(&self, address: &str) -> Result<Link> {
        let deadline = tokio::time::Instant::now() + NETDEV;
        loop {
            let links = self.rtnl.links().await?;
            if let Some(link) = links.into_iter().find(|link| link.is_hardware("pci", address)) {
                return Ok(link);
            }
            if tokio::time::Instant::now() >= deadline {
                let source = std::io::Error::other("its driver made none");
                return Err(Error::Io { what: format!("{address}: waiting for its netdev"), source });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The netdev once udev, where it runs, has named it: taken before, it would be renamed under us.
    async fn when_named(&self, link: Link) -> Result<Link> {
        let deadline = tokio::time::Instant::now() + NETDEV;
        while !pci::udev_is_done(link.ifindex) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        Ok(require(&self.rtnl, LinkRef::Index(link.ifindex)).await?)
    }

    /// The netdev under a name that it can come home with. Where nobody names them by their hardware, the
    /// kernel gives a new one the name of one that is in a container.
    async fn named(&self, link: Link, pf: &Link, vf: u32) -> Result<Link> {
        let taken = |name: &str| self.store.get().endpoints().any(|(.., other)| other.original.name == name);
        if !taken(&link.name) {
            return Ok(link);
        }
        let suffix = format!("v{vf}");
        let stem: String = pf.name.chars().take(MAX_NAME - suffix.len()).collect();
        let name = format!("{stem}{suffix}");
        tracing::info!(netdevice = link.name, name, "renamed: its name is that of a netdev in a container");
        for up in [false, link.up] {
            let name = (!up).then(|| name.clone());
            self.rtnl.change(link.ifindex, &Change { name, up: Some(up), ..Change::default() }).await?;
        }
        Ok(require(&self.rtnl, LinkRef::Index(link.ifindex)).await?)
    }

    /// Configures the VF for its tenant. Answers with its netdev, which may be a new one, and with the
    /// defaults that the hardware refused.
    pub(super) async fn configure_vf(
        &self,
        link: Link,
        network: &Network,
        endpoint: &Endpoint,
        grant: &VfGrant,
    ) -> Result<(Link, Vec<String>)> {
        let pf = self.pf_of(grant).await?;
        let (original, options) = (&grant.original, &network.options);
        let set = |setting| self.rtnl.set_vf(pf.ifindex, grant.index, setting);
        if original.trust {
            // A trusted VF writes its old address over the PF's.
            set(VfSetting::Trust(false)).await?;
        }
        // The VLAN first: nothing that the netdev says from here on is heard elsewhere.
        if options.vf.vlan != original.vlan {
            set(VfSetting::Vlan(options.vf.vlan)).await?;
        }
        let link = match endpoint.mac {
            Some(mac) => self.give_vf_mac(&pf, grant, link, mac).await?,
            None => link,
        };
        let wishes = [
            (options.vf.min_tx_rate.is_some() || options.vf.max_tx_rate.is_some()).then(|| {
                let (min, max) = original.rate;
                VfSetting::Rate(options.vf.min_tx_rate.unwrap_or(min), options.vf.max_tx_rate.unwrap_or(max))
            }),
            options.vf.link_state.map(VfSetting::LinkState),
            options.vf.spoofchk.map(VfSetting::Spoofchk),
            options.vf.trust.map(VfSetting::Trust),
        ];
        let defaults = [
            options.vf.spoofchk.is_none().then_some(VfSetting::Spoofchk(!options.privileged)),
            options.vf.trust.is_none().then_some(VfSetting::Trust(options.privileged)),
        ];
        // Trust was taken off above.
        let now = VfSettings { trust: false, ..original.clone() };
        for wish in wishes.into_iter().flatten().filter(|wish| !wish.is_in(&now)) {
            set(wish).await?;
        }
        let mut warnings = Vec::new();
        for default in defaults.into_iter().flatten().filter(|default| !default.is_in(&now)) {
            if let Err(error) = set(default).await {
                tracing::warn!(netdevice = pf.name, vf = grant.index, %error, "a default is not set");
                warnings.push(error.to_string());
            }
        }
        Ok((link, warnings))
    }

    /// Gives the VF an address through its PF, and has its netdev take it over.
    async fn give_vf_mac(&self, pf: &Link, grant: &VfGrant, link: Link, mac: Mac) -> Result<Link> {
        // Also where it is shown already: igb holds a VF to its address only if that came from the PF, and
        // shows the others, too.
        self.rtnl.set_vf(pf.ifindex, grant.index, VfSetting::Mac(mac)).await?;
        if link.mac == Some(mac) {
            return Ok(link);
        }
        let (ifindex, address) = (link.ifindex, link.parent.clone().map(|parent| parent.device));
        // igbvf takes it over when it goes down, others when they are told the very same address.
        for change in [
            Change { up: Some(true), ..Change::default() },
            Change { up: Some(false), ..Change::default() },
            Change { mac: Some(mac), ..Change::default() },
        ] {
            if let Err(error) = self.rtnl.change(ifindex, &change).await {
                tracing::debug!(vf = grant.index, %error, "taking over an address");
            }
            let now = require(&self.rtnl, LinkRef::Index(ifindex)).await?;
            if now.mac == Some(mac) && !now.up {
                return Ok(now);
            }
        }
        // Still the old one: a fresh netdev has the right one from the start.
        let Some(address) = address else { return Ok(link) };
        let what = format!("{} VF {}: rebinding its driver", pf.name, grant.index);
        let unbound = address.clone();
        blocking(what, move || pci::rebind(&unbound)).await?;
        let fresh = self.when_named(self.vf_netdev(&address).await?).await?;
        if fresh.name != link.name {
            let name = Some(link.name.clone());
            self.rtnl.change(fresh.ifindex, &Change { name, ..Change::default() }).await?;
        }
        if fresh.mac == Some(mac) {
            return Ok(Link { name: link.name, ..fresh });
        }
        let reason = "the VF does not take the address that its PF gave it";
        Err(Error::Mac { mac, reason })
    }

    /// Gives the VF its settings back through its PF, going on past failures; all but trust, which comes
    /// when its netdev has its own address again.
    pub(super) async fn restore_vf_settings(&self, grant: &VfGrant) -> Vec<String> {
        let (pf, now) = match self.vf_now(grant).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                tracing::warn!(vf = grant.index, pf = grant.pf, "the VF or its PF no longer exists");
                return Vec::new();
            }
            Err(error) => return vec![error.to_string()],
        };
        let VfSettings { mac, vlan, rate: (min, max), spoofchk, trust: _, link_state } = grant.original;
        let settings = [
            // First: a trusted VF would write its own address over the PF's.
            VfSetting::Trust(false),
            VfSetting::Mac(mac.unwrap_or(Mac([0; 6]))),
            VfSetting::Vlan(vlan),
            VfSetting::Rate(min, max),
            VfSetting::LinkState(link_state),
            VfSetting::Spoofchk(spoofchk),
        ];
        let mut reasons = Vec::new();
        for setting in settings.into_iter().filter(|setting| !setting.is_in(&now)) {
            if let Err(error) = self.rtnl.set_vf(pf.ifindex, grant.index, setting).await {
                reasons.push(error.to_string());
            }
        }
        reasons
    }

    /// The last of its settings, when its netdev has its own address again.
    pub(super) async fn finish_vf(&self, grant: &VfGrant) -> Result<()> {
        let Some((pf, now)) = self.vf_now(grant).await? else { return Ok(()) };
        let VfSettings { mac, trust, .. } = grant.original;
        // A VF whose PF has given it no address tells the PF its own.
        for setting in [VfSetting::Mac(mac.unwrap_or(Mac([0; 6]))), VfSetting::Trust(trust)] {
            if !setting.is_in(&now) {
                self.rtnl.set_vf(pf.ifindex, grant.index, setting).await?;
            }
        }
        Ok(())
    }

    /// Binds the VF's driver anew; none if it makes no netdev any more, which is reported. The VF is as
    /// clean then as one that was never bound, and is bound when it is wanted again.
    pub(super) async fn fresh_vf(&self, link: &Link) -> Result<Option<Link>> {
        let Some(parent) = link.parent.clone() else { return Ok(Some(link.clone())) };
        let address = parent.device.clone();
        let what = format!("{address}: rebinding its driver");
        if let Err(error) = blocking(what, move || pci::rebind(&address)).await {
            tracing::error!(netdevice = link.name, %error, "the VF");
        }
        match self.vf_netdev(&parent.device).await {
            Ok(fresh) => {
                let fresh = self.when_named(fresh).await?;
                self.rtnl.set_up(fresh.ifindex, false).await?;
                Ok(Some(fresh))
            }
            Err(error) => {
                tracing::error!(netdevice = link.name, vf = parent.device, %error, "the VF has no netdev");
                Ok(None)
            }
        }
    }

    /// The VF's netdev had the address `own`: it gets it back by itself on going down, or is told. If its PF
    /// had given it another that it had not taken over yet, it has now, and there is no way back: the
    /// hardware refuses a VF any address but the PF's.
    pub(super) async fn restore_vf_mac(&self, link: &Link, own: Mac, grant: &VfGrant) -> Result<()> {
        for change in [
            Change::default(),
            Change { up: Some(true), ..Change::default() },
            Change { up: Some(false), ..Change::default() },
            Change { mac: Some(own), ..Change::default() },
        ] {
            let told = self.rtnl.change(link.ifindex, &change).await;
            let now = require(&self.rtnl, LinkRef::Index(link.ifindex)).await?;
            let right = now.mac == Some(own) || now.mac.is_some() && now.mac == grant.original.mac;
            if right && !now.up {
                return Ok(());
            }
            if change.mac.is_some() {
                told?;
            }
        }
        Err(Error::Mac { mac: own, reason: "the VF does not take its original address again" })
    }

    async fn vf_now(&self, grant: &VfGrant) -> Result<Option<(Link, VfSettings)>> {
        let pf = match self.pf_of(grant).await {
            Ok(pf) => pf,
            Err(Error::PfGone { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let settings = self.rtnl.vf_settings(pf.ifindex).await?.remove(&grant.index);
        Ok(settings.map(|settings| (pf, settings)))
    }

    async fn pf_of(&self, grant: &VfGrant) -> Result<Link> {
        let pf = self.rtnl.link_of(&grant.pf).await?;
        pf.ok_or_else(|| Error::PfGone { pf: grant.pf.clone() })
    }
}

/// A locally administered address for a VF that has none: always the same for one VF of one PF.
fn stable_mac(pf: &Link, vf: u32) -> Mac {
    // FNV-1a, as it needs to be the same in every version of this driver.
    let seed = pf.mac.map(|mac| mac.0).unwrap_or_default();
    let bytes = seed.into_iter().chain(vf.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [_, _, _, tail @ ..] = hash.to_be_bytes();
    let mut octets = [0x02; 6];
    octets[1..].copy_from_slice(&tail);
    Mac(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stable_mac_is_assignable_and_each_vf_has_its_own() {
        let pf = Link { mac: Some("02:00:00:00:00:10".parse().unwrap()), ..Link::default() };
        let macs: std::collections::HashSet<_> = (0..256).map(|vf| stable_mac(&pf, vf)).collect();
        assert_eq!(macs.len(), 256);
        assert!(macs.iter().all(|mac| mac.is_assignable() && mac.0[0] & 2 != 0));
        // Never another one: it is in neighbours' caches and in DHCP leases.
        assert_eq!(stable_mac(&pf, 0), stable_mac(&pf, 0));
    }
}
