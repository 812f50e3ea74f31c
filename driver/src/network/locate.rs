//! Where an endpoint's netdev is now, and how it comes home.
//!
//! A container can rename a netdev, and change its address, alias and namespace. What it can't change is
//! the hardware behind it, and that our pinned link is attached to it: those tell which one it is.
use std::path::Path;

use super::{Driver, Error, Result, strays::Tag};
use crate::{
    counters,
    device::{Link, LinkRef, Rtnl, netns, netns::NetNs},
    state::{Endpoint, EndpointId},
};

/// Where a netdev is.
#[derive(Debug)]
pub(super) enum Place {
    /// On the host.
    Home(Link),
    /// In another namespace.
    Away(NetNs, Link),
    /// Nowhere: destroyed, or unplugged.
    Gone,
}

/// What a netdev is known by in whatever namespace it is.
#[derive(Clone, Debug)]
enum Clue {
    /// The endpoint's counters are attached to the netdev with this ifindex.
    Counted(u32),
    /// It is this hardware's.
    Hardware(String),
}

impl Driver {
    /// Looks for the endpoint's netdev: at home, in its container, then in every other namespace.
    pub(super) async fn locate(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Place> {
        let mut clues = Vec::new();
        if let Ok(reading) = counters::read(&self.bpffs, id)
            && reading.ifindex != 0
        {
            clues.push(Clue::Counted(reading.ifindex));
        }
        clues.extend(endpoint.hardware.clone().map(Clue::Hardware));
        for clue in &clues {
            if let Some(link) = self.at(&self.rtnl, None, id, clue).await? {
                return Ok(Place::Home(link));
            }
            let sandbox = endpoint.sandbox.iter().filter_map(|path| NetNs::open(path).ok());
            // Opened one by one: an open namespace keeps what is in it from coming home.
            for netns in sandbox.chain(netns::others(&self.home).filter_map(|path| NetNs::open(&path).ok())) {
                let Ok(rtnl) = Rtnl::within(&netns) else { continue };
                if let Ok(Some(link)) = self.at(&rtnl, Some(&netns), id, clue).await {
                    return Ok(Place::Away(netns, link));
                }
            }
        }
        Ok(match self.at_home_by_name(id, endpoint).await? {
            Some(link) => Place::Home(link),
            None => Place::Gone,
        })
    }

    /// A netdev that is neither counted nor hardware: one that we hadn't got to, or had let go of.
    async fn at_home_by_name(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Option<Link>> {
        let Some(link) = self.rtnl.link(LinkRef::Index(endpoint.ifindex)).await? else { return Ok(None) };
        let ours = link.alias == Tag { driver: &self.name, id, netdev: &endpoint.original.name }.to_string()
            || link.name == endpoint.original.name;
        let other_hardware = endpoint.hardware.is_some() && link.hardware() != endpoint.hardware;
        Ok((ours && !other_hardware).then_some(link))
    }

    /// The netdev in the namespace of `rtnl`, which is `netns` (the host's if none).
    async fn at(
        &self,
        rtnl: &Rtnl,
        netns: Option<&NetNs>,
        id: &EndpointId,
        clue: &Clue,
    ) -> Result<Option<Link>> {
        match clue {
            Clue::Hardware(wanted) => {
                let links = rtnl.links().await?;
                Ok(links.into_iter().find(|link| link.hardware().as_ref() == Some(wanted)))
            }
            Clue::Counted(ifindex) => {
                let Some(link) = rtnl.link(LinkRef::Index(*ifindex)).await? else { return Ok(None) };
                let counted = is_counted(&self.bpffs, netns, id, *ifindex)?;
                Ok(counted.then_some(link))
            }
        }
    }

    /// Takes the netdev home if it is away; none if it no longer exists.
    pub(super) async fn bring_home(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Option<Link>> {
        let (netns, link) = match self.locate(id, endpoint).await? {
            Place::Home(link) => return Ok(Some(link)),
            Place::Gone => return Ok(None),
            Place::Away(netns, link) => (netns, link),
        };
        let name = &endpoint.original.name;
        tracing::debug!(%id, netdevice = name, found_as = link.name, "taking the netdev home");
        {
            let rtnl = Rtnl::within(&netns).map_err(Error::io("an rtnetlink socket in the container"))?;
            self.end_uppers_here(&rtnl, &netns, link.ifindex, &endpoint.original).await;
            // Names that a container gave it could be taken on the host, and would keep it there.
            if let Err(error) = rtnl.set_altnames(&link, &[]).await {
                tracing::warn!(%id, %error, "alternative names");
            }
            let moved = match rtnl.move_to(link.ifindex, &self.home, Some(name)).await {
                // Its own name is taken: home it comes, under any other.
                Err(error) if error.is_exists() => {
                    tracing::error!(%id, netdevice = name, "its name is taken on the host by another netdev");
                    rtnl.move_to(link.ifindex, &self.home, Some("dpt%d")).await
                }
                moved => moved,
            };
            if let Err(error) = moved {
                // The move and the renaming are two steps of the kernel's: it may have moved all the same.
                tracing::warn!(%id, netdevice = name, %error, "taking the netdev home");
            }
        }
        drop(netns);
        match self.locate(id, endpoint).await? {
            Place::Home(link) => Ok(Some(link)),
            Place::Gone => Ok(None),
            Place::Away(..) => Err(Error::NotRestored {
                netdevice: name.clone(),
                reasons: vec!["it is still in the container's network namespace".into()],
            }),
        }
    }
}

fn is_counted(bpffs: &Path, netns: Option<&NetNs>, id: &EndpointId, ifindex: u32) -> Result<bool> {
    let counted = || counters::is_attached(bpffs, id, ifindex);
    let answer = match netns {
        None => counted(),
        Some(netns) => netns.run(counted).map_err(Error::io("entering a network namespace"))?,
    };
    Ok(answer?)
}
