//! A macvlan in passthru mode: it has the netdev beneath it to itself, with that one's address, and can
//! be moved where that one can't.
use netlink_packet_route::link::MacVlanMode;
use rtnetlink::LinkMacVlan;

use super::{
    Link, LinkRef, Rtnl,
    link::require,
    rtnl::{Result, acked},
};

impl Rtnl {
    /// Makes one on `lower`. The kernel allows no second user of `lower` beside it.
    pub async fn add_passthru_macvlan(&self, lower: &Link, name: &str) -> Result<Link> {
        let message = LinkMacVlan::new(name, lower.ifindex, MacVlanMode::Passthrough).build();
        let what = format!("making a macvlan in passthru mode on {}", lower.name);
        acked(what, self.handle().link().add(message).execute()).await?;
        require(self, LinkRef::Name(name)).await
    }

    /// Removes a virtual netdev. Fine if it is gone.
    pub async fn delete(&self, ifindex: u32) -> Result<()> {
        let request = self.handle().link().del(ifindex).execute();
        match acked(format!("removing netdev {ifindex}"), request).await {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => deleted,
        }
    }
}
