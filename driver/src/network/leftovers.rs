//! What a container left on top of a netdev or at its hooks would go on seeing the next one's frames. It
//! ends with the handover; what the host had there before stays.
use std::{collections::BTreeSet, io};

use super::{Driver, Error, Result, blocking, netdevice::Refuse};
use crate::{
    counters,
    device::{
        Link, LinkRef, Rtnl,
        link::require,
        netns::NetNs,
        raw::Standing,
        upper::{Elsewhere, uppers_elsewhere},
    },
    state::{
        NetworkId, Original,
        model::{TcxIds, Upper},
    },
};

impl Driver {
    /// What stands on a netdev that is home, in other namespaces, before it is given away. Nothing may,
    /// unless the netdev is taken by force: it would see what the next container sends and receives.
    pub(super) async fn hosts_uppers(&self, network: &NetworkId, link: &Link) -> Result<Vec<Upper>> {
        let (mut uppers, mut names) = (Vec::new(), Vec::new());
        for Elsewhere { path, netns, uppers: found } in self.uppers_elsewhere(link.ifindex).await? {
            for Standing { ifindex, name, kind, .. } in
                found.map_err(Error::io(path.display().to_string()))?
            {
                names.push(format!("the {kind} {name} in {}", path.display()));
                uppers.push(Upper { netns, ifindex });
            }
        }
        let state = self.store.get();
        let forced = state.networks.get(network).is_some_and(|network| network.options.force);
        if uppers.is_empty() || forced {
            return Ok(uppers);
        }
        Err(Refuse(&link.name).because(format!(
            "{} is on top of it and would see its traffic; -o force=1 takes it all the same",
            names.join(", ")
        )))
    }

    /// Ends what stands on the netdev in the namespace where it is, before it goes home. What fails here
    /// is found again by [`Driver::end_uppers`].
    pub(super) async fn end_uppers_here(
        &self,
        rtnl: &Rtnl,
        netns: &NetNs,
        ifindex: u32,
        original: &Original,
    ) {
        match rtnl.uppers_here(ifindex).await {
            Ok(uppers) => {
                for reason in end(rtnl, netns, uppers, original).await {
                    tracing::warn!(netdevice = original.name, reason);
                }
            }
            Err(error) => tracing::warn!(netdevice = original.name, %error, "looking for upper netdevs"),
        }
    }

    /// Ends what stands on a netdev that is home, in all other namespaces. Answers with what could not be
    /// ended.
    pub(super) async fn end_uppers(&self, ifindex: u32, original: &Original) -> Vec<String> {
        let found = match self.uppers_elsewhere(ifindex).await {
            Ok(found) => found,
            Err(error) => return vec![error.to_string()],
        };
        let mut reasons = Vec::new();
        for Elsewhere { path, netns, uppers } in found {
            let ended = async {
                let uppers = uppers?;
                let there = NetNs::open(&path)?;
                if there.inode() != netns {
                    // That of before may be found by another path, the next time.
                    return Err(io::Error::other("leads to another network namespace by now"));
                }
                io::Result::Ok(end(&Rtnl::within(&there)?, &there, uppers, original).await)
            };
            match ended.await {
                Ok(failed) => reasons.extend(failed),
                Err(error) => reasons.push(format!("{}: {error}", path.display())),
            }
        }
        reasons
    }

    async fn uppers_elsewhere(&self, ifindex: u32) -> Result<Vec<Elsewhere>> {
        let home = self.home.try_clone().map_err(Error::io("the host's network namespace"))?;
        blocking("looking for upper netdevs", move || uppers_elsewhere(ifindex, &home)).await
    }

    /// What the host has at a netdev's TCX hooks.
    pub(super) async fn tcx(&self, ifindex: u32) -> Result<TcxIds> {
        let parked = self.parked.ids();
        self.counters(move |_| {
            let mut ids = counters::tcx_ids(ifindex)?;
            ids.links.retain(|id| !parked.contains(id));
            Ok(ids)
        })
        .await
    }

    /// Takes off what a container has left at the TCX hooks.
    pub(super) async fn end_tcx(&self, link: &Link, original: &Original) -> Result<()> {
        let (ifindex, mut keep) = (link.ifindex, original.tcx.clone());
        keep.links.extend(self.parked.ids());
        self.counters(move |_| counters::clear_tcx(ifindex, &keep)).await.map_err(|error| {
            Error::NotRestored { netdevice: original.name.clone(), reasons: vec![error.to_string()] }
        })
    }

    /// Takes off the XDP that a container has left on a netdev that is home.
    pub(super) async fn end_xdp(&self, link: &Link) -> Result<()> {
        if link.xdp.is_empty() {
            return Ok(());
        }
        match self.rtnl.xdp_off(link.ifindex).await {
            Err(error) if error.errno() == Some(nix::libc::EBUSY) => {}
            off => return Ok(off?),
        }
        // By links, which somebody in the container may hold to this day, and may change their programs all the time.
        let (ifindex, mut programs) = (link.ifindex, BTreeSet::new());
        for _ in 0..counters::SAMPLES {
            programs.extend(require(&self.rtnl, LinkRef::Index(ifindex)).await?.xdp);
        }
        self.counters(move |_| counters::clear_xdp(ifindex, &programs)).await?;
        Ok(self.rtnl.xdp_off(link.ifindex).await?)
    }
}

async fn end(rtnl: &Rtnl, netns: &NetNs, uppers: Vec<Standing>, original: &Original) -> Vec<String> {
    let mut reasons = Vec::new();
    for Standing { ifindex, name, kind, .. } in uppers {
        if original.uppers.contains(&Upper { netns: netns.inode(), ifindex }) {
            continue;
        }
        tracing::warn!(netdevice = original.name, upper = name, kind, "ending what a container put on top");
        if let Err(error) = rtnl.delete(ifindex).await {
            reasons.push(format!("the {kind} {name} in a container is on top of it: {error}"));
        }
    }
    reasons
}
