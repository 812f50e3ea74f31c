//! A netdev is made again what it was before a container had it.
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    Driver, Error, Result,
    standin::{ASIDE, PREFIX},
};
use crate::{
    device::{Change, Link, LinkRef, claim::claim, link::require},
    fault,
    state::{Endpoint, EndpointId, NetworkId, Original},
};

/// How long the kernel may take to bring a netdev home from a namespace that has ended.
const ON_ITS_WAY: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

impl Driver {
    /// Takes the netdev home, makes it what it was, and forgets the endpoint. It stays remembered, and
    /// its netdev reserved, until that has worked.
    pub(super) async fn release(
        &self,
        network_id: &NetworkId,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let released = self.try_release(network_id, id, endpoint).await;
        self.upkeep.released(id, released.is_ok());
        released
    }

    async fn try_release(&self, network_id: &NetworkId, id: &EndpointId, endpoint: &Endpoint) -> Result<()> {
        let restored = || self.restored.lock().unwrap_or_else(PoisonError::into_inner);
        // Else only the state file could not be written the last time.
        if !restored().contains(id) {
            self.give_back(network_id, id, endpoint).await?;
            fault::point!("release.given_back");
            restored().insert(id.clone());
        }
        self.store
            .update(|state| {
                state.network_mut(network_id).map(|network| network.endpoints.remove(id));
            })
            .await?;
        restored().remove(id);
        fault::point!("release.forgotten");
        Ok(())
    }

    /// From here on the endpoints are over, wherever their netdevs are: Docker does not ask twice. What
    /// can't be remembered is done all the same.
    pub(super) async fn remember_end(&self, network: &NetworkId, which: impl Fn(&EndpointId) -> bool) {
        let remembered = self.store.update(|state| {
            let endpoints = state.network_mut(network).into_iter().flat_map(|known| &mut known.endpoints);
            for (_, endpoint) in endpoints.filter(|(id, _)| which(id)) {
                Arc::make_mut(endpoint).ending = true;
            }
        });
        if let Err(error) = remembered.await {
            tracing::warn!(network = network.short(), %error, "remembering that its endpoint is over");
        }
    }

    async fn give_back(&self, network_id: &NetworkId, id: &EndpointId, endpoint: &Endpoint) -> Result<()> {
        // A VF's fresh netdev is nobody's to other drivers.
        let vf = endpoint.hardware.as_deref().filter(|_| endpoint.vf.is_some());
        let _claim = vf.and_then(|vf| claim(vf).ok().flatten());
        fault::point!("release.begin");
        let mut found = self.fetch(id, endpoint).await?;
        if let (None, Some(grant)) = (&found, &endpoint.vf) {
            found = self.bound_again(grant).await;
        }
        fault::point!("release.home");
        self.report_totals(id, endpoint).await;
        match (found, &endpoint.lower) {
            (found, Some(lower)) => {
                self.detach(id).await?;
                self.remove_stand_in(found.as_ref(), endpoint, lower).await
            }
            (Some(link), None) => self.restore(link, network_id, id, endpoint).await,
            (None, None) => {
                tracing::warn!(%id, netdevice = endpoint.original.name, "the netdev no longer exists");
                if let Some(grant) = &endpoint.vf {
                    let reasons = self.restore_vf_settings(grant).await;
                    if !reasons.is_empty() {
                        let netdevice = endpoint.original.name.clone();
                        return Err(Error::NotRestored { netdevice, reasons });
                    }
                }
                self.detach(id).await
            }
        }
    }

    /// Brings it home. One whose namespace has ended is nowhere for a moment, before the kernel brings it.
    async fn fetch(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<Option<Link>> {
        let deadline = tokio::time::Instant::now() + ON_ITS_WAY;
        loop {
            match self.bring_home(id, endpoint).await {
                Err(Error::NotFound { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                fetched => return fetched,
            }
        }
    }

    /// Ends the endpoint's counters. Fine if there are none.
    pub(super) async fn detach(&self, id: &EndpointId) -> Result<()> {
        // Filters went with the move home, or go with the mark.
        self.filtered.end(id);
        let id = id.clone();
        self.counters(move |counters| counters.detach(&id)).await
    }

    /// Undoes, going on past failures, all that we or a container may have done to a netdev that is home.
    async fn restore(
        &self,
        link: Link,
        network_id: &NetworkId,
        id: &EndpointId,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let original = &endpoint.original;
        let not_restored =
            |reasons| Err(Error::NotRestored { netdevice: endpoint.netdevice().to_owned(), reasons });
        let mut reasons = Vec::new();
        let (mut link, mut is_fresh) = (link, false);
        self.rtnl.set_up(link.ifindex, false).await?;
        if let Some(grant) = &endpoint.vf {
            reasons = self.restore_vf_settings(grant).await;
            fault::point!("release.vf_settings");
            if !reasons.is_empty() {
                return not_restored(reasons);
            }
            // What a container can have done to a netdev and left in its driver is endless: a VF that was
            // out gets a fresh one.
            let parent = link.parent.as_ref().map(|parent| parent.device.clone());
            if let Some(address) = parent
                && !self.rtnl.is_marked(link.ifindex).await?
            {
                self.detach(id).await?;
                match self.fresh_vf(&address, &original.name).await? {
                    // The same, if its driver could not be unbound.
                    Some(fresh) => (is_fresh, link) = (fresh.ifindex != link.ifindex, fresh),
                    None => return Ok(()),
                }
            }
        }
        reasons.extend(self.restore_netdev(&link, endpoint).await);
        fault::point!("release.netdev");
        if !is_fresh {
            reasons.extend(self.end_uppers(link.ifindex, original).await);
        }
        if !reasons.is_empty() {
            // Still tagged and counted, so that it is found again.
            return not_restored(reasons);
        }
        fault::point!("release.alone");
        match &endpoint.vf {
            Some(_) => self.detach(id).await?,
            None => self.park(network_id, id).await?,
        }
        fault::point!("release.detached");
        self.end_tcx(&link, original).await?;
        let left = require(&self.rtnl, LinkRef::Index(link.ifindex)).await?;
        self.end_xdp(&left).await?;
        if left.mtu != original.mtu {
            // Under XDP, ours or another's, drivers refuse what they take without.
            let change = Change { mtu: Some(original.mtu), ..Change::default() };
            if let Err(error) = self.rtnl.change(link.ifindex, &change).await {
                return not_restored(vec![error.to_string()]);
            }
        }
        if let Some(grant) = &endpoint.vf {
            self.finish_vf(grant).await?;
        }
        fault::point!("release.clean");
        self.finish(&left, id, original).await
    }

    /// Its name and its settings, while it is down; all but the MTU.
    async fn restore_netdev(&self, link: &Link, endpoint: &Endpoint) -> Vec<String> {
        let Original { name, mac, altnames, flags, tuning, .. } = &endpoint.original;
        let ifindex = link.ifindex;
        let mut changes = Vec::new();
        if link.name != *name {
            changes.push(Change { name: Some(name.clone()), ..Change::default() });
        }
        if link.flags != *flags {
            changes.push(Change { flags: Some(*flags), ..Change::default() });
        }
        if link.mac != *mac && endpoint.vf.is_none() {
            changes.push(Change { mac: *mac, ..Change::default() });
        }
        let mut reasons = Vec::new();
        for change in changes {
            let Err(error) = self.rtnl.change(ifindex, &change).await else { continue };
            if change.name.is_some() && error.is_exists() {
                self.make_way(link).await;
            }
            reasons.push(error.to_string());
        }
        if let (Some(grant), Some(mac)) = (&endpoint.vf, *mac) {
            reasons.extend(self.restore_vf_mac(link, mac, grant).await.err().map(|error| error.to_string()));
        }
        let tuned = self.rtnl.tune(ifindex, *tuning, link.tuning).await;
        let named = self.rtnl.set_altnames(link, altnames).await;
        reasons.extend([tuned, named].into_iter().filter_map(Result::err).map(|error| error.to_string()));
        reasons
    }

    /// Its name is another's, which may be waiting for the one that this has: two that came home as each other.
    async fn make_way(&self, link: &Link) {
        if link.name.starts_with(PREFIX) {
            return;
        }
        let aside = Change { name: Some(ASIDE.into()), ..Change::default() };
        if let Err(error) = self.rtnl.change(link.ifindex, &aside).await {
            tracing::warn!(netdevice = link.name, %error, "making way for whose name it has");
        }
    }

    /// Up, addressed, and no longer ours. The tag goes last: by it the netdev is found after a crash.
    async fn finish(&self, link: &Link, id: &EndpointId, original: &Original) -> Result<()> {
        let Original { name, up, alias, ingress, addressing, .. } = original;
        if !ingress {
            self.rtnl.unmark(link.ifindex).await?;
        }
        if *up {
            self.rtnl.set_up(link.ifindex, true).await?;
        }
        let mut errors = self.rtnl.restore_addressing(link.ifindex, addressing).await;
        if !errors.is_empty() {
            // What is back is left alone.
            errors = self.rtnl.restore_addressing(link.ifindex, addressing).await;
        }
        for error in errors {
            tracing::error!(%id, netdevice = name, %error, "the host's address or route is not back");
        }
        fault::point!("release.addressed");
        let untag = Change { alias: Some(alias.clone()), ..Change::default() };
        Ok(self.rtnl.change(link.ifindex, &untag).await?)
    }

    async fn report_totals(&self, id: &EndpointId, endpoint: &Endpoint) {
        let Ok(reading) = self.reading(id).await else { return };
        let counters = reading.counters;
        tracing::info!(
            %id,
            netdevice = endpoint.netdevice(),
            rx_packets = counters.rx.packets,
            rx_bytes = counters.rx.bytes,
            tx_packets = counters.tx.packets,
            tx_bytes = counters.tx.bytes,
            tx_spoofed = counters.tx.spoofed,
            "the endpoint's totals"
        );
    }
}
