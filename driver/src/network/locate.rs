//! Where an endpoint's netdev is now, and how it comes home.
//!
//! A container can rename a netdev, and change its address, alias and namespace. What it can't change is
//! the hardware behind it, and that our pinned link is attached to it: those tell which one it is. A kernel
//! without TCX has no such link; netdevs without hardware go by weaker signs there.
use std::collections::HashSet;

use super::{
    Driver, Error, Result,
    standin::{ASIDE, PREFIX},
};
use crate::{
    counters,
    device::{Link, LinkRef, Rtnl, clsact::Direction, link::Parent, netns, netns::NetNs, pci},
    fault,
    state::{Endpoint, EndpointId},
};

/// Where a netdev is.
#[derive(Debug)]
pub(super) enum Place {
    /// On the host.
    Home(Box<Link>),
    /// In another namespace, with this ifindex.
    Away(NetNs, u32),
    /// Nowhere: destroyed, unplugged, or without a driver.
    Gone,
}

/// What a netdev is known by in whatever namespace it is.
#[derive(Clone, Debug)]
enum Clue {
    /// The endpoint's counters are attached to the netdev with this ifindex.
    Counted(u32),
    /// It is this hardware's.
    Hardware(String),
    /// It has the endpoint's filter, its tag, or in its container its number.
    Filtered(Filtered),
    /// It has the endpoint's tag: somebody has taken its pins away, and it has no hardware.
    Tagged(String),
}

/// What a netdev without hardware goes by that is counted by a filter.
#[derive(Clone, Debug)]
struct Filtered {
    /// The program that sees what it sends.
    program: u32,
    tag: String,
    ifindex: u32,
    sandbox: Option<u64>,
}

impl Driver {
    /// Looks for the endpoint's netdev: at home, in its container, then in every other namespace. One that
    /// exists and is not found is an error, never taken for gone: it is not known what became of it.
    pub(super) async fn locate(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Place> {
        let counted = self.counted(id).await?;
        let clues = self.clues(id, endpoint, counted).await?;
        let mut unseen = Vec::new();
        for clue in &clues {
            if let Some(ifindex) = self.at(&self.rtnl, None, id, clue).await? {
                let link = self.rtnl.link(LinkRef::Index(ifindex)).await?;
                // None: it was moved just now.
                if let Some(link) = link {
                    return Ok(Place::Home(Box::new(link)));
                }
            }
            // What nothing marks but its tag is home if the tag is: in a container others can have it.
            if let Clue::Tagged(_) = clue
                && let Some(link) = self.at_home_by_name(id, endpoint).await?
            {
                return Ok(Place::Home(Box::new(link)));
            }
            let sandbox = endpoint.sandbox.clone().into_iter();
            // Opened one by one: an open namespace keeps what is in it from coming home.
            for path in sandbox.chain(netns::others(&self.home)) {
                let netns = match NetNs::open(&path) {
                    Ok(netns) => netns,
                    // Ended, or not there yet.
                    Err(error) if netns::is_over(&error) => continue,
                    Err(error) => {
                        unseen.push(format!("{}: {error}", path.display()));
                        continue;
                    }
                };
                match self.at_in(&netns, id, clue).await {
                    Ok(Some(ifindex)) => return Ok(Place::Away(netns, ifindex)),
                    Ok(None) => {}
                    Err(error) => unseen.push(format!("{}: {error}", path.display())),
                }
            }
        }
        if let Some(link) = self.at_home_by_name(id, endpoint).await? {
            return Ok(Place::Home(Box::new(link)));
        }
        let driven = endpoint.hardware.as_deref().and_then(driver_of);
        if counted.is_some() || driven.is_some() || !unseen.is_empty() {
            let netdevice = endpoint.netdevice().to_owned();
            return Err(Error::NotFound { netdevice, unseen });
        }
        Ok(Place::Gone)
    }

    async fn clues(&self, id: &EndpointId, endpoint: &Endpoint, counted: Option<u32>) -> Result<Vec<Clue>> {
        let mut clues = Vec::new();
        clues.extend(counted.map(Clue::Counted));
        clues.extend(endpoint.hardware.clone().map(Clue::Hardware));
        if !clues.is_empty() {
            return Ok(clues);
        }
        let filter = self.filters(id).await?.pop();
        // Not held: that would keep the netdev there.
        let sandbox =
            endpoint.sandbox.as_deref().and_then(|path| NetNs::open(path).ok()).map(|netns| netns.inode());
        let (tag, ifindex) = (self.tag(id, endpoint), endpoint.ifindex);
        if let Some(filter) = filter {
            clues.push(Clue::Filtered(Filtered { program: filter.id, tag, ifindex, sandbox }));
        } else if sandbox.is_some() && self.has_no_pins(id).await {
            clues.push(Clue::Tagged(tag));
        }
        Ok(clues)
    }

    async fn has_no_pins(&self, id: &EndpointId) -> bool {
        matches!(self.reading(id).await, Err(Error::Counters(counters::Error::NotCounted { .. })))
    }

    /// The netdev in its container, if it is there. Nowhere else is looked.
    pub(super) async fn in_sandbox(
        &self,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<Option<(NetNs, u32)>> {
        let netns = endpoint.sandbox.as_deref().and_then(|path| NetNs::open(path).ok());
        let Some(netns) = netns.filter(|netns| netns.inode() != self.home.inode()) else { return Ok(None) };
        for clue in self.clues(id, endpoint, None).await? {
            if let Some(ifindex) = self.at_in(&netns, id, &clue).await? {
                return Ok(Some((netns, ifindex)));
            }
        }
        Ok(None)
    }

    /// The ifindex, in whatever namespace, of the netdev that the endpoint's counters are attached to; none
    /// if it has no counters, or they are attached to nothing any more.
    async fn counted(&self, id: &EndpointId) -> Result<Option<u32>> {
        match self.reading(id).await {
            Ok(reading) => Ok(reading.ifindex.filter(|ifindex| *ifindex != 0)),
            Err(Error::Counters(counters::Error::NotCounted { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A netdev that is neither counted nor hardware: one that we hadn't got to, or had let go of.
    async fn at_home_by_name(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Option<Link>> {
        let tag = self.tag(id, endpoint);
        let links = self.rtnl.links().await?;
        let known = |link: &&Link| link.ifindex == endpoint.ifindex && link.name == endpoint.original.name;
        // A tag can be forged.
        let candidates = || links.iter().filter(|link| link.hardware() == endpoint.hardware);
        Ok(candidates().find(|link| link.alias == tag).or_else(|| candidates().find(known)).cloned())
    }

    async fn at_in(&self, netns: &NetNs, id: &EndpointId, clue: &Clue) -> Result<Option<u32>> {
        if let Clue::Counted(ifindex) = clue {
            return self.counted_in(Some(netns), id, *ifindex).await;
        }
        let rtnl = Rtnl::within(netns).map_err(Error::io("an rtnetlink socket there"))?;
        self.at(&rtnl, Some(netns), id, clue).await
    }

    /// The netdev's ifindex in the namespace of `rtnl`, which is `netns` (the host's if none), if it is
    /// there. What a container may have made unreadable, names and alias, is not asked for.
    async fn at(
        &self,
        rtnl: &Rtnl,
        netns: Option<&NetNs>,
        id: &EndpointId,
        clue: &Clue,
    ) -> Result<Option<u32>> {
        match clue {
            Clue::Hardware(wanted) => Ok(rtnl.link_of(wanted).await?.map(|link| link.ifindex)),
            // At home none has a filter, and a tag is looked for otherwise.
            Clue::Filtered(_) | Clue::Tagged(_) if netns.is_none() => Ok(None),
            Clue::Tagged(tag) => {
                let links = rtnl.links().await?;
                Ok(links.iter().find(|link| link.alias == *tag).map(|link| link.ifindex))
            }
            Clue::Filtered(Filtered { program, tag, ifindex, sandbox }) => {
                let links = rtnl.links().await?;
                // More than can be read are a container's doing, which shall gain nothing by it.
                let filtered = rtnl.filtered(Direction::Egress, *program, Some(*ifindex)).await;
                if let Ok(Some(filtered)) = filtered {
                    return Ok(Some(filtered));
                }
                let tagged = links.iter().find(|link| link.alias == *tag);
                // A move keeps the number, if it can.
                let in_sandbox = netns.is_some_and(|netns| Some(netns.inode()) == *sandbox);
                let numbered = || links.iter().find(|link| in_sandbox && link.ifindex == *ifindex);
                match tagged.or_else(numbered) {
                    Some(link) => Ok(Some(link.ifindex)),
                    None => Ok(filtered.map(|_| None)?),
                }
            }
            Clue::Counted(ifindex) => self.counted_in(netns, id, *ifindex).await,
        }
    }

    /// The ifindex, if the endpoint's counters are attached to the netdev that has it in this namespace.
    async fn counted_in(&self, netns: Option<&NetNs>, id: &EndpointId, ifindex: u32) -> Result<Option<u32>> {
        let (bpffs, id) = (self.bpffs.clone(), id.clone());
        let netns = netns.map(NetNs::try_clone).transpose().map_err(Error::io("a namespace"))?;
        let asked = self.counters(move |_| {
            let counted = || counters::is_attached(&bpffs, &id, ifindex);
            match netns {
                None => Ok(counted()),
                Some(netns) => Ok(netns.run(counted).unwrap_or(Ok(false))),
            }
        });
        Ok(asked.await??.then_some(ifindex))
    }

    /// Takes the netdev home if it is away; none if it no longer exists.
    pub(super) async fn bring_home(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Option<Link>> {
        let (netns, ifindex) = match self.locate(id, endpoint).await? {
            Place::Home(link) => return Ok(Some(*link)),
            Place::Gone => return Ok(None),
            Place::Away(netns, ifindex) => (netns, ifindex),
        };
        let name = &endpoint.original.name;
        tracing::debug!(%id, netdevice = name, "taking the netdev home");
        {
            let rtnl = Rtnl::within(&netns).map_err(Error::io("an rtnetlink socket in the container"))?;
            self.end_uppers_here(&rtnl, &netns, ifindex, &endpoint.original).await;
            match rtnl.link(LinkRef::Index(ifindex)).await {
                Ok(Some(link)) => {
                    // Names that a container gave it could be taken on the host, and would keep it there.
                    if let Err(error) = rtnl.set_altnames(&link, &[]).await {
                        tracing::warn!(%id, %error, "alternative names");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%id, %error, "reading the netdev in the container"),
            }
            // All that took a while, in which a container can put another netdev in its place.
            if self.is_there(&netns, id, endpoint, ifindex).await? {
                fault::point!("fetch.moving");
                let moved = match rtnl.move_to(ifindex, &self.home, Some(name)).await {
                    Ok(()) => self.send_back_another(id, endpoint, &netns, |link| link.name == *name).await,
                    // Its own name is taken: home it comes, under any other.
                    Err(error) if error.is_exists() => {
                        tracing::error!(%id, netdevice = name, "its name is taken on the host by another netdev");
                        let before: HashSet<_> =
                            self.rtnl.links().await?.into_iter().map(|link| link.ifindex).collect();
                        match rtnl.move_to(ifindex, &self.home, Some(ASIDE)).await {
                            Ok(()) => {
                                let came = |link: &Link| {
                                    link.name.starts_with(PREFIX) && !before.contains(&link.ifindex)
                                };
                                self.send_back_another(id, endpoint, &netns, came).await
                            }
                            Err(error) => Err(error.into()),
                        }
                    }
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = moved {
                    // The move and the renaming are two steps of the kernel's: it may have moved all the same.
                    tracing::warn!(%id, netdevice = name, %error, "taking the netdev home");
                }
            }
        }
        drop(netns);
        match self.locate(id, endpoint).await? {
            Place::Home(link) => Ok(Some(*link)),
            Place::Gone => Ok(None),
            Place::Away(..) => Err(Error::NotRestored {
                netdevice: name.clone(),
                reasons: vec!["it is still in the container's network namespace".into()],
            }),
        }
    }

    /// Whether the endpoint's netdev has this number there.
    async fn is_there(
        &self,
        netns: &NetNs,
        id: &EndpointId,
        endpoint: &Endpoint,
        ifindex: u32,
    ) -> Result<bool> {
        let counted = self.counted(id).await?;
        for clue in self.clues(id, endpoint, counted).await? {
            if self.at_in(netns, id, &clue).await? == Some(ifindex) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends back what has just come home, if that is another netdev: a container that is fast can put one in its
    /// place at the last moment.
    async fn send_back_another(
        &self,
        id: &EndpointId,
        endpoint: &Endpoint,
        netns: &NetNs,
        came: impl Fn(&Link) -> bool,
    ) -> Result<()> {
        let counted = self.counted(id).await?;
        let clues = self.clues(id, endpoint, counted).await?;
        // Filters are gone with the move, and a tag can be forged: nothing tells.
        if clues.iter().all(|clue| matches!(clue, Clue::Filtered(_) | Clue::Tagged(_))) {
            return Ok(());
        }
        for clue in &clues {
            if self.at(&self.rtnl, None, id, clue).await?.is_some() {
                return Ok(());
            }
        }
        let Some(other) = self.rtnl.links().await?.into_iter().find(came) else { return Ok(()) };
        let name = &endpoint.original.name;
        tracing::error!(%id, netdevice = name, "another netdev came in its place, and is sent back");
        // Its name may be taken there.
        Ok(self.rtnl.move_to(other.ifindex, netns, Some(ASIDE)).await?)
    }
}

/// The kernel driver that has this hardware and makes a netdev of it, if any.
fn driver_of(hardware: &str) -> Option<String> {
    Parent::of(hardware)?.driver().filter(|driver| !pci::is_userspace(driver))
}
