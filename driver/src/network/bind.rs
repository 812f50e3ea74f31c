//! A VF's driver is bound, for a netdev where there is none, or for a fresh one.
use std::{sync::atomic::Ordering, time::Duration};

use tokio::sync::MutexGuard;

use super::{Driver, Error, Result, blocking, standin::ASIDE};
use crate::{
    device::{Change, Link, LinkRef, link::require, pci},
    fault,
    state::VfGrant,
};

/// A VF's driver makes its netdev, and udev names it, within this time.
const NETDEV: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

/// How long another's fresh netdev is waited for.
const NAMES: Duration = Duration::from_secs(5);

impl Driver {
    /// Binds a VF that has no driver to that of its siblings; its netdev.
    pub(super) async fn bind_vf(&self, pf: &Link, siblings: &[pci::Vf], vf: &pci::Vf) -> Result<Link> {
        let what = format!("{} VF {}: binding it to its driver", pf.name, vf.index);
        let Some(driver) = pci::vf_driver(pf, siblings) else {
            return Err(Error::io(what)(std::io::Error::other("which one is not known")));
        };
        let address = vf.address.clone();
        let _names = self.names().await;
        blocking(what, move || pci::bind(&address, &driver)).await?;
        self.vf_netdev(&vf.address).await
    }

    /// The netdev of a VF that a driver has unbound and died before it could bind it again, and of one that
    /// somebody else has unbound: it had one before it was given away.
    pub(super) async fn bound_again(&self, grant: &VfGrant) -> Option<Link> {
        let pf = self.rtnl.link_of(&grant.pf).await.ok()??;
        let siblings = pci::vfs(&pf);
        let vf = siblings.iter().find(|vf| vf.index == grant.index && vf.driver.is_none())?;
        tracing::warn!(netdevice = pf.name, vf = vf.index, "it has no driver, and is bound again");
        match self.bind_vf(&pf, &siblings, vf).await {
            Ok(link) => Some(link),
            Err(error) => {
                tracing::error!(netdevice = pf.name, vf = vf.index, %error, "the VF has no netdev");
                None
            }
        }
    }

    /// Binds the driver of the VF at this PCI address anew. The fresh netdev is down and has this name, if
    /// that is free; none if the driver makes no netdev any more, which is reported. The VF is as clean then
    /// as one that was never bound, and is bound when it is wanted again.
    pub(super) async fn fresh_vf(&self, address: &str, name: &str) -> Result<Option<Link>> {
        // Until the netdev has its name again, the kernel would give that to another fresh one.
        let _names = self.names().await;
        let bound = address.to_owned();
        let what = format!("{address}: rebinding its driver");
        fault::point!("vf.refreshing");
        if let Err(error) = blocking(what, move || pci::rebind(&bound)).await {
            tracing::error!(netdevice = name, %error, "the VF");
            if pci::driver(address).is_none() {
                return Ok(None);
            }
        }
        let fresh = match self.vf_netdev(address).await {
            Ok(fresh) => self.when_named(fresh).await?,
            Err(error) => {
                tracing::error!(netdevice = name, vf = address, %error, "the VF has no netdev");
                return Ok(None);
            }
        };
        fault::point!("vf.fresh");
        self.rtnl.set_up(fresh.ifindex, false).await?;
        if fresh.name != name {
            let named = |name: &str| Change { name: Some(name.to_owned()), ..Change::default() };
            if let Err(error) = self.rtnl.change(fresh.ifindex, &named(name)).await {
                tracing::warn!(netdevice = name, found_as = fresh.name, %error, "naming a fresh netdev");
                // The name that it has may be another VF's, which waits for it in turn.
                let _ = self.rtnl.change(fresh.ifindex, &named(ASIDE)).await;
            }
        }
        Ok(Some(require(&self.rtnl, LinkRef::Index(fresh.ifindex)).await?))
    }

    /// Waits until nobody else's fresh netdev is without its name, but not for ever: a PF that hangs is no other's
    /// matter.
    pub(super) async fn names(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = || self.turn.load(Ordering::Relaxed);
        loop {
            let before = turn();
            if let Ok(names) = tokio::time::timeout(NAMES, self.names.lock()).await {
                self.turn.fetch_add(1, Ordering::Relaxed);
                return Some(names);
            }
            // Somebody else's turn by now: it is a queue, and nothing hangs.
            if turn() == before {
                return None;
            }
        }
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
                let what = format!("{address}: waiting for its netdev");
                return Err(Error::io(what)(std::io::Error::other("its driver made none")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The netdev once udev, where it runs, has named it: taken before, it would be renamed under us.
    pub(super) async fn when_named(&self, link: Link) -> Result<Link> {
        let deadline = tokio::time::Instant::now() + NETDEV;
        while !pci::udev_is_done(link.ifindex) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        Ok(require(&self.rtnl, LinkRef::Index(link.ifindex)).await?)
    }
}
