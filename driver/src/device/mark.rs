//! A mark on a netdev that says that it has not been anywhere since: an empty ingress qdisc.
//!
//! Any move to another network namespace drops a netdev's qdiscs (`dev_shutdown`, net/core/dev.c), so a
//! netdev that is home without its mark has been away and is back, whoever brought it. Nothing else that
//! the kernel keeps of a netdev tells that: its name, its alias and its bpf_links all come along.
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::{Rtnl, rtnl::Result};

impl Rtnl {
    /// Marks the netdev. Answers false where the kernel has no ingress qdisc (CONFIG_NET_SCH_INGRESS).
    pub async fn mark(&self, ifindex: u32) -> Result<bool> {
        let mut message = about(ifindex);
        message.header.handle = TcHandle { major: TcHandle::INGRESS.major, minor: 0 };
        message.attributes.push(TcAttribute::Kind("ingress".into()));
        let what = format!("adding an ingress qdisc to netdev {ifindex}");
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        match self.acked(what, request, NLM_F_CREATE | NLM_F_EXCL).await {
            // EEXIST: marked before. EBUSY: the host has a clsact qdisc there, which does as well.
            Err(error) if error.is_exists() || error.errno() == Some(nix::libc::EBUSY) => Ok(true),
            Err(error) if error.is_not_found() || error.errno() == Some(nix::libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    /// Whether the netdev has a mark, or an ingress qdisc of the host's.
    pub async fn is_marked(&self, ifindex: u32) -> Result<bool> {
        let what = format!("reading the ingress qdisc of netdev {ifindex}");
        let request = RouteNetlinkMessage::GetQueueDiscipline(about(ifindex));
        // Not the list of all: it comes in parts, and lacks some while netdevs before them in it go. NLM_F_ECHO is
        // how the answer comes to us, too, and not only to those who listen to the group (`rtnetlink_send`).
        match self.raw().ask(&what, request, NLM_F_ACK | NLM_F_ECHO).await {
            Ok(bodies) => Ok(bodies.iter().any(|body| is_ingress(body, ifindex))),
            // ENOENT: it never had one. EINVAL: it has none any more, to newer kernels; to older ones that is no error.
            Err(error) if error.is_not_found() || error.errno() == Some(nix::libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the mark off. Fine if there is none.
    pub async fn unmark(&self, ifindex: u32) -> Result<()> {
        if !self.is_marked(ifindex).await? {
            return Ok(());
        }
        let what = format!("removing the ingress qdisc of netdev {ifindex}");
        self.acked(what, RouteNetlinkMessage::DelQueueDiscipline(about(ifindex)), 0).await
    }
}

/// The ingress qdisc of a netdev.
fn about(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index(ifindex));
    message.header.parent = TcHandle::INGRESS;
    message
}

/// Whether a `struct tcmsg` (include/uapi/linux/rtnetlink.h) is of the netdev's ingress qdisc.
fn is_ingress(body: &[u8], ifindex: u32) -> bool {
    let word = |at: usize| body.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    word(4) == Some(ifindex) && word(12) == Some(TcHandle::INGRESS.into())
}

/// The traffic control messages have it signed.
fn index(ifindex: u32) -> i32 {
    ifindex.cast_signed()
}
