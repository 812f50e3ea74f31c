//! Netdevs of endpoints that nobody remembers: the state file was lost, but their tag tells what they
//! were called. What their address and MTU were is lost with it.
use super::{Driver, Error, Result, assign::TAG};
use crate::{
    counters,
    device::{Link, LinkRef, link::Change},
    state::EndpointId,
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
            let Some((id, _)) = tagged(&link) else { continue };
            let known =
                [&before, &after].iter().any(|state| state.endpoints().any(|(_, _, known, _)| *known == id));
            if !known && let Err(error) = self.free_of_strays(&link).await {
                tracing::error!(netdevice = link.name, %error, "recovering a stray");
            }
        }
    }

    /// The stray of this endpoint, which Docker deletes and nobody remembers.
    pub(super) async fn recover_stray(&self, id: &EndpointId) -> Result<()> {
        let links = self.rtnl.links().await?;
        match links.into_iter().find(|link| tagged(link).is_some_and(|(stray, _)| stray == *id)) {
            Some(link) => self.free_of_strays(&link).await,
            None => Ok(()),
        }
    }

    /// Frees a netdev on the host from what endpoints that nobody remembers left on it: their counters,
    /// their tag, and the name that a container gave it.
    pub(super) async fn free_of_strays(&self, link: &Link) -> Result<()> {
        let state = self.store.get();
        for id in counters::endpoints(&self.bpffs)? {
            let known = state.endpoints().any(|(_, _, known, _)| *known == id);
            if !known && counters::is_attached(&self.bpffs, &id, link.ifindex).unwrap_or(false) {
                tracing::warn!(%id, netdevice = link.name, "counters of an endpoint that nobody remembers");
                self.counters(move |counters| counters.detach(&id)).await?;
            }
        }
        let Some((id, name)) = tagged(link) else { return Ok(()) };
        tracing::warn!(%id, netdevice = name, found_as = link.name, "a netdev that nobody remembers is back");
        let set = |change: Change| async move { self.rtnl.change(link.ifindex, &change).await };
        if link.name != name {
            set(Change { up: Some(false), ..Change::default() }).await?;
            set(Change { name: Some(name), ..Change::default() }).await?;
        }
        self.counters(move |counters| counters.detach(&id)).await?;
        self.rtnl.unmark(link.ifindex).await?;
        Ok(set(Change { alias: Some(String::new()), ..Change::default() }).await?)
    }

    /// The netdev as it is now, free of strays.
    pub(super) async fn cleared(&self, link: Link) -> Result<Link> {
        self.free_of_strays(&link).await?;
        let fresh = self.rtnl.link(LinkRef::Index(link.ifindex)).await?;
        fresh.ok_or_else(|| Error::io(link.name)(std::io::Error::from_raw_os_error(nix::libc::ENODEV)))
    }
}

/// Whose the netdev is by its tag, and what it was called.
fn tagged(link: &Link) -> Option<(EndpointId, String)> {
    let (id, name) = link.alias.strip_prefix(TAG)?.split_once(' ')?;
    Some((id.parse().ok()?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{super::assign::tag, *};

    #[test]
    fn a_tag_says_whose_and_what() {
        let id: EndpointId = "0a".repeat(32).parse().unwrap();
        let link = Link { alias: tag(&id, "enp129s0f1np1v15"), ..Link::default() };
        assert_eq!(tagged(&link), Some((id, "enp129s0f1np1v15".into())));
        for alias in ["", "mine", "docker-passthrough", "docker-passthrough ../x eth0"] {
            assert_eq!(tagged(&Link { alias: alias.into(), ..Link::default() }), None, "{alias}");
        }
    }
}
