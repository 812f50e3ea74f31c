//! A netdev that the kernel lets nobody move, a bond or a team, is passed through by a macvlan in passthru
//! mode on it. It takes no address but its own, leaves room for nobody else, and goes with the endpoint.
use super::{Driver, Result, assign::Chosen};
use crate::{
    device::{Link, LinkRef, Mac, raw::Standing},
    fault,
    state::{Endpoint, EndpointId, model::Lower},
};

/// Their ports are members that a move would tear apart, so the kernel does not allow it.
const STOOD_IN_FOR: [&str; 2] = ["bond", "team"];

/// Names of ours begin with it.
pub(super) const PREFIX: &str = "dpt";

/// What a netdev is called where its own name is taken: the kernel puts a number there.
pub(super) const ASIDE: &str = "dpt%d";

impl Driver {
    /// Whether a macvlan can stand in for this netdev.
    pub(super) fn can_be_stood_in_for(link: &Link) -> bool {
        STOOD_IN_FOR.iter().any(|kind| link.is_kind(kind))
    }

    /// Makes the macvlan for an endpoint.
    pub(super) async fn stand_in(&self, lower: Link, id: &EndpointId, mac: Option<Mac>) -> Result<Chosen> {
        self.end_left_stand_ins(&lower.name).await?;
        let name: String = PREFIX.chars().chain(id.as_str().chars()).take(13).collect();
        let link = self.rtnl.add_passthru_macvlan(&lower, &name).await?;
        fault::point!("standin.made");
        let mac = link.mac.map(|own| mac.unwrap_or(own));
        let Link { name, ifindex, up, moves_mac, .. } = lower;
        let lower = Some(Lower { name, ifindex, up, moves_mac });
        Ok(Chosen { link, mac, vf: None, lower, uppers: Vec::new() })
    }

    /// What is on a netdev that is down has no carrier. Whether it was is remembered by then.
    pub(super) async fn raise_beneath(&self, lower: &Lower) -> Result<()> {
        if lower.up { Ok(()) } else { Ok(self.rtnl.set_up(lower.ifindex, true).await?) }
    }

    /// Removes those that a driver made which died before it could remember them, and that no other container
    /// came to remove.
    pub(super) async fn end_left_stand_ins(&self, netdevice: &str) -> Result<()> {
        let Some(lower) = self.rtnl.link(LinkRef::Name(netdevice)).await? else { return Ok(()) };
        for upper in self.rtnl.standing_on(lower.ifindex).await? {
            if self.is_left_stand_in(&upper) {
                tracing::warn!(netdevice, left = upper.name, "removing a macvlan that was left");
                self.rtnl.delete(upper.ifindex).await?;
            }
        }
        Ok(())
    }

    /// Whether a driver made it which died before it could remember it.
    pub(super) fn is_left_stand_in(&self, upper: &Standing) -> bool {
        let known =
            || self.store.get().endpoints().any(|(.., endpoint)| endpoint.original.name == upper.name);
        upper.kind == "macvlan" && upper.name.starts_with(PREFIX) && !known()
    }

    /// Ends the macvlan of an endpoint, if it is still there, and leaves what is beneath as it was. The
    /// kernel itself gives that its address back.
    pub(super) async fn remove_stand_in(
        &self,
        link: Option<&Link>,
        endpoint: &Endpoint,
        lower: &Lower,
    ) -> Result<()> {
        // Its tag can be forged, and others with it are not ours to end.
        if let Some(link) = link.filter(|link| link.is_kind("macvlan")) {
            self.rtnl.delete(link.ifindex).await?;
            fault::point!("standin.removed");
        }
        // By both: after a reboot another netdev may have its number.
        let beneath = self.rtnl.link(LinkRef::Index(lower.ifindex)).await?;
        if let Some(beneath) =
            beneath.filter(|link| link.name == lower.name && Self::can_be_stood_in_for(link))
            && !lower.up
        {
            self.rtnl.set_up(beneath.ifindex, false).await?;
        }
        tracing::debug!(netdevice = lower.name, stand_in = endpoint.original.name, "removed");
        Ok(())
    }
}
