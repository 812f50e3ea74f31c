//! A mark on a netdev that says that it has not been anywhere since: an empty ingress qdisc.
//!
//! Any move to another network namespace drops a netdev's qdiscs (`dev_shutdown`, net/core/dev.c), so a
//! netdev that is home without its mark has been away and is back, whoever brought it. Nothing else that
//! the kernel keeps of a netdev tells that: its name, its alias and its bpf_links all come along.
use netlink_packet_route::tc::TcHandle;

use super::{
    Rtnl,
    rtnl::{Result, acked},
};

impl Rtnl {
    /// Marks the netdev. Answers false where the kernel has no ingress qdisc (CONFIG_NET_SCH_INGRESS).
    pub async fn mark(&self, ifindex: u32) -> Result<bool> {
        let request = self.handle().qdisc().add(index(ifindex)).ingress().execute();
        match acked(format!("adding an ingress qdisc to netdev {ifindex}"), request).await {
            // EEXIST: marked before. EBUSY: the host has a clsact qdisc there, which does as well.
            Err(error) if error.is_exists() || error.errno() == Some(nix::libc::EBUSY) => Ok(true),
            Err(error) if error.is_not_found() || error.errno() == Some(nix::libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    /// Whether the netdev has a mark, or an ingress qdisc of the host's.
    pub async fn is_marked(&self, ifindex: u32) -> Result<bool> {
        let index = index(ifindex);
        let start = || self.handle().qdisc().get().index(index).execute();
        let qdiscs = self.dump(format!("reading the qdiscs of netdev {ifindex}"), start).await?;
        Ok(qdiscs.iter().any(|qdisc| qdisc.header.index == index && qdisc.header.parent == TcHandle::INGRESS))
    }

    /// Takes the mark off. Fine if there is none.
    pub async fn unmark(&self, ifindex: u32) -> Result<()> {
        if !self.is_marked(ifindex).await? {
            return Ok(());
        }
        let mut request = self.handle().qdisc().del(index(ifindex));
        request.message_mut().header.parent = TcHandle::INGRESS;
        acked(format!("removing the ingress qdisc of netdev {ifindex}"), request.execute()).await
    }
}

/// The traffic control messages have it signed.
fn index(ifindex: u32) -> i32 {
    ifindex.cast_signed()
}
