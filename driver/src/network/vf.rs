//! How a VF is configured for its tenant, and handed back clean.
use super::{Driver, Error, Result};
use crate::{
    device::{
        Change, Link, LinkRef, Mac,
        link::require,
        pci,
        vf::{VfSetting, VfSettings},
    },
    state::{Endpoint, Network, VfGrant},
};

impl Driver {
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
        let Some(fresh) = self.fresh_vf(&address, &link.name).await? else {
            let what = format!("{} VF {}: binding its driver anew", pf.name, grant.index);
            return Err(Error::io(what)(std::io::Error::other("it has no netdev any more")));
        };
        if fresh.name != link.name {
            // Docker is told the name of before.
            let what = format!("naming {} VF {}'s fresh netdev {}", pf.name, grant.index, link.name);
            return Err(Error::io(what)(std::io::Error::other(format!("it is {}", fresh.name))));
        }
        if fresh.mac == Some(mac) {
            return Ok(fresh);
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

    /// Its PF, and what it is like now; none if it no longer exists. One that exists and can't be read, as while it
    /// is reset or its PF's netdev is elsewhere, is an error: it still has its tenant's settings.
    async fn vf_now(&self, grant: &VfGrant) -> Result<Option<(Link, VfSettings)>> {
        let exists = || pci::has_vf(&grant.pf, grant.index);
        let pf = match self.pf_of(grant).await {
            Ok(pf) => pf,
            Err(Error::PfGone { .. }) if !exists() => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.rtnl.vf_settings(pf.ifindex).await?.remove(&grant.index) {
            Some(settings) => Ok(Some((pf, settings))),
            None if exists() => Err(Error::VfUnread { pf: pf.name, index: grant.index }),
            None => Ok(None),
        }
    }

    pub(super) async fn pf_of(&self, grant: &VfGrant) -> Result<Link> {
        let pf = self.rtnl.link_of(&grant.pf).await?;
        pf.ok_or_else(|| Error::PfGone { pf: grant.pf.clone() })
    }
}
