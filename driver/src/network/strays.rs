//! Netdevs of endpoints that nobody remembers: the state file was lost, but their tag tells what they
//! were called. What their address and MTU were is lost with it.
use super::{Driver, Result, choice::Taker, upkeep::Action};
use crate::{
    counters,
    device::{
        Change, Link, LinkRef,
        link::require,
        pci,
        vf::{VfSetting, VfSettings},
    },
    state::{Endpoint, EndpointId},
};

impl Driver {
    /// Looks for strays on the host, and makes them usable again.
    pub async fn recover_strays(&self) {
        let before = self.store.get();
        let links = match self.rtnl.links().await {
            Ok(links) => links,
            Err(error) => return tracing::error!(%error, "looking for strays"),
        };
        let after = self.store.get();
        for link in links {
            let Some((id, _)) = self.tagged(&link) else { continue };
            let known = before.knows(&id) || after.knows(&id);
            if known {
                continue;
            }
            match self.recover(link.ifindex, &id).await {
                Ok(()) => self.upkeep.done(Action::RecoverStray),
                Err(error) => {
                    self.upkeep.failed(Action::RecoverStray);
                    tracing::error!(netdevice = link.name, %error, "recovering a stray");
                }
            }
        }
    }

    /// The stray of this endpoint, which Docker deletes and nobody remembers.
    pub(super) async fn recover_stray(&self, id: &EndpointId) -> Result<()> {
        let links = self.rtnl.links().await?;
        match links.into_iter().find(|link| self.tagged(link).is_some_and(|(stray, _)| stray == *id)) {
            Some(link) => self.recover(link.ifindex, id).await,
            // Its netdev is gone, and with it the tag. What Docker deletes is nobody's any more.
            None => self.end_dead_counters(id).await,
        }
    }

    /// Ends the counters of an endpoint that nobody remembers, if they count nothing any more.
    async fn end_dead_counters(&self, id: &EndpointId) -> Result<()> {
        let reading = self.reading(id).await;
        let dead = match reading.map(|reading| reading.ifindex) {
            Ok(Some(ifindex)) => ifindex == 0,
            Ok(None) => !self.is_filtered(id).await?,
            Err(_) => false,
        };
        if dead && !self.store.get().knows(id) {
            self.detach(id).await?;
        }
        Ok(())
    }

    /// Recovers this stray, unless somebody is given the netdev just now: then it is cleared for that.
    async fn recover(&self, ifindex: u32, id: &EndpointId) -> Result<()> {
        let Some(link) = self.rtnl.link(LinkRef::Index(ifindex)).await? else { return Ok(()) };
        let hardware = link.hardware();
        let taker = Taker { endpoint: id.clone(), mac: None };
        let reserved = hardware.clone().map(|hardware| self.reserved.reserve(hardware, taker));
        let held = hardware.is_some_and(|hardware| self.store.get().holder(&hardware).is_some());
        if held || matches!(reserved, Some(None)) {
            return Ok(());
        }
        // As it is now that nobody else may touch it.
        match self.rtnl.link(LinkRef::Index(ifindex)).await? {
            Some(link) if self.tagged(&link).is_some_and(|(stray, _)| stray == *id) => {
                self.free_of_strays(&link).await
            }
            _ => Ok(()),
        }
    }

    /// Frees a netdev on the host from what endpoints that nobody remembers left on it: their counters,
    /// their tag, and the name that a container gave it.
    pub(super) async fn free_of_strays(&self, link: &Link) -> Result<()> {
        for id in self.strays_on(link).await? {
            tracing::warn!(%id, netdevice = link.name, "counters of an endpoint that nobody remembers");
            self.detach(&id).await?;
        }
        let Some((id, name)) = self.tagged(link) else { return Ok(()) };
        tracing::warn!(%id, netdevice = name, found_as = link.name, "a netdev that nobody remembers is back");
        let set = |change: Change| async move { self.rtnl.change(link.ifindex, &change).await };
        if link.name != name {
            self.rtnl.set_up(link.ifindex, false).await?;
            // A tag can be forged, and its name be taken: it keeps the one it has, then.
            if let Err(error) = set(Change { name: Some(name), ..Change::default() }).await {
                tracing::warn!(%id, found_as = link.name, %error, "naming it as its tag has it");
            }
        }
        // Attached ones are gone already. A tag can be forged: nobody's living counters go by it.
        self.end_dead_counters(&id).await?;
        self.end_xdp(&require(&self.rtnl, LinkRef::Index(link.ifindex)).await?).await?;
        self.default_vf(link).await?;
        self.rtnl.unmark(link.ifindex).await?;
        Ok(set(Change { alias: Some(String::new()), ..Change::default() }).await?)
    }

    /// The endpoints that nobody remembers and whose counters are on a netdev of the host's.
    pub(super) async fn strays_on(&self, link: &Link) -> Result<Vec<EndpointId>> {
        let (bpffs, ifindex, known) = (self.bpffs.clone(), link.ifindex, self.store.get());
        let on_it = self.counters(move |_| {
            let mut ids = counters::endpoints(&bpffs)?;
            ids.retain(|id| !known.knows(id) && counters::is_attached(&bpffs, id, ifindex).unwrap_or(false));
            Ok(ids)
        });
        on_it.await
    }

    /// What a VF's settings were is forgotten, so it gets those that it had when it was made: nobody shall
    /// find the last tenant's VLAN on it.
    async fn default_vf(&self, link: &Link) -> Result<()> {
        let Some(parent) = link.parent.as_ref().filter(|parent| parent.is_vf()) else { return Ok(()) };
        let links = self.rtnl.links().await?;
        let number =
            |pf: &Link| pci::vfs(pf).iter().find(|vf| vf.address == parent.device).map(|vf| vf.index);
        let Some((pf, vf)) = links.iter().find_map(|pf| Some((pf.ifindex, number(pf)?))) else {
            return Ok(());
        };
        let now = self.rtnl.vf_settings(pf).await?.remove(&vf).unwrap_or_default();
        let VfSettings { mac: _, vlan, rate: (min, max), spoofchk: _, trust, link_state } =
            VfSettings::default();
        for setting in [
            VfSetting::Trust(trust),
            VfSetting::Vlan(vlan),
            VfSetting::Rate(min, max),
            VfSetting::Spoofchk(true),
            VfSetting::LinkState(link_state),
        ] {
            if setting.is_in(&now) {
                continue;
            }
            match self.rtnl.set_vf(pf, vf, setting).await {
                Err(error) if error.errno() == Some(nix::libc::EOPNOTSUPP) => {}
                set => set?,
            }
        }
        Ok(())
    }

    /// Which other driver of ours has given the netdev away, by its tag.
    pub(super) fn other_driver(&self, link: &Link) -> Option<String> {
        let mut words = link.alias.split(' ');
        let tagged = words.next() == Some(TAG);
        let driver = words.next().filter(|driver| tagged && *driver != self.name)?;
        Some(format!("a container of driver {driver}"))
    }

    /// The tag of the endpoint's netdev.
    pub(super) fn tag(&self, id: &EndpointId, endpoint: &Endpoint) -> String {
        tag(&self.name, id, &endpoint.original.name)
    }

    pub(super) fn tagged(&self, link: &Link) -> Option<(EndpointId, String)> {
        tagged(&link.alias, &self.name)
    }

    /// Whether a netdev with this alias is one that nobody remembers.
    pub(super) fn is_stray(&self, alias: &str) -> bool {
        tagged(alias, &self.name).is_some_and(|(id, _)| !self.store.get().knows(&id))
    }

    /// The netdev as it is now, free of strays.
    pub(super) async fn cleared(&self, link: Link) -> Result<Link> {
        self.free_of_strays(&link).await?;
        Ok(require(&self.rtnl, LinkRef::Index(link.ifindex)).await?)
    }
}

const TAG: &str = "docker-passthrough";

/// `ifalias` of a netdev that was given away: by which driver, to whom, and what it was called.
pub(crate) fn tag(driver: &str, id: &EndpointId, netdev: &str) -> String {
    format!("{TAG} {driver} {id} {netdev}")
}

/// Whose the netdev is by the tag that `driver` gave it, and what it was called.
pub(crate) fn tagged(alias: &str, driver: &str) -> Option<(EndpointId, String)> {
    let mut words = alias.splitn(4, ' ');
    let ours = words.next() == Some(TAG) && words.next() == Some(driver);
    let (id, netdev) = (words.next()?, words.next()?);
    Some((id.parse().ok().filter(|_| ours)?, netdev.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::link::{MAX_ALIAS, MAX_NAME};

    #[test]
    fn a_tag_says_whose_and_what() {
        let id: EndpointId = "0a".repeat(32).parse().unwrap();
        let alias = tag("passthrough", &id, "enp129s0f1np1v1");
        assert_eq!(tagged(&alias, "passthrough"), Some((id, "enp129s0f1np1v1".into())));
        assert_eq!(tagged(&alias, "another"), None);
        for alias in
            ["", "mine", "docker-passthrough passthrough", "docker-passthrough passthrough ../x eth0"]
        {
            assert_eq!(tagged(alias, "passthrough"), None, "{alias}");
        }
    }

    #[test]
    fn the_longest_tag_fits() {
        let id: EndpointId = "a".repeat(64).parse().unwrap();
        assert!(tag(&"d".repeat(64), &id, &"n".repeat(MAX_NAME)).len() <= MAX_ALIAS);
    }
}
