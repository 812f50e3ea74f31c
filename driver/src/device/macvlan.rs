//! A macvlan in passthru mode: it has the netdev beneath it to itself, with that one's address, and can
//! be moved where that one can't.
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{RouteNetlinkMessage, link::MacVlanMode};
use rtnetlink::{LinkMacVlan, LinkUnspec};

use super::{Link, LinkRef, Rtnl, link::require, rtnl::Result};

impl Rtnl {
    /// Makes one on `lower`. The kernel allows no second user of `lower` beside it.
    pub async fn add_passthru_macvlan(&self, lower: &Link, name: &str) -> Result<Link> {
        let message = LinkMacVlan::new(name, lower.ifindex, MacVlanMode::Passthrough).build();
        let what = format!("making a macvlan in passthru mode on {}", lower.name);
        let request = RouteNetlinkMessage::NewLink(message);
        self.acked(what, request, NLM_F_CREATE | NLM_F_EXCL).await?;
        require(self, LinkRef::Name(name)).await
    }

    /// Removes a virtual netdev. Fine if it is gone.
    pub async fn delete(&self, ifindex: u32) -> Result<()> {
        let request = RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(ifindex).build());
        match self.acked(format!("removing netdev {ifindex}"), request, 0).await {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => deleted,
        }
    }
}
