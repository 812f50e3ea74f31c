//! Limits and a group that a netdev keeps when it moves, and that a container may change.
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkProtocolDownReason},
};
use rtnetlink::LinkUnspec;
use serde::{Deserialize, Serialize};

use super::{Mac, Rtnl, rtnl::Result};

/// As the kernel has them; none where it has not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tuning {
    /// Frames that its queue may hold.
    pub txqlen: Option<u32>,
    /// Most segments of a GSO packet.
    pub gso_max_segs: Option<u32>,
    /// Largest GSO packet, in bytes.
    pub gso_max_size: Option<u32>,
    /// Largest GRO packet, in bytes.
    pub gro_max_size: Option<u32>,
    /// Largest GSO packet over IPv4, in bytes. Linux 6.3.
    pub gso_ipv4_max_size: Option<u32>,
    /// Largest GRO packet over IPv4, in bytes. Linux 6.3.
    pub gro_ipv4_max_size: Option<u32>,
    /// Its group.
    pub group: Option<u32>,
    /// Its broadcast address, if the link layer has such as Ethernet's.
    pub broadcast: Option<Mac>,
    /// `IF_LINK_MODE_*`: the state that a carrier brings it into.
    pub link_mode: Option<u8>,
    /// Kept without a carrier by a protocol.
    pub proto_down: Option<bool>,
}

impl Tuning {
    /// Takes one of its values from what the kernel says of a netdev.
    pub(super) fn note(&mut self, attribute: &LinkAttribute) {
        match *attribute {
            LinkAttribute::Broadcast(ref octets) => {
                self.broadcast = <[u8; 6]>::try_from(octets.as_slice()).ok().map(Mac);
            }
            LinkAttribute::Mode(mode) => self.link_mode = Some(mode.into()),
            LinkAttribute::ProtoDown(down) => self.proto_down = Some(down != 0),
            LinkAttribute::TxQueueLen(value) => self.txqlen = Some(value),
            LinkAttribute::GsoMaxSegs(value) => self.gso_max_segs = Some(value),
            LinkAttribute::GsoMaxSize(value) => self.gso_max_size = Some(value),
            LinkAttribute::GroMaxSize(value) => self.gro_max_size = Some(value),
            LinkAttribute::GsoIpv4MaxSize(value) => self.gso_ipv4_max_size = Some(value),
            LinkAttribute::GroIpv4MaxSize(value) => self.gro_ipv4_max_size = Some(value),
            LinkAttribute::Group(value) => self.group = Some(value),
            _ => {}
        }
    }

    /// What has to be set where it is `now`.
    fn missing(self, now: Self) -> Vec<LinkAttribute> {
        let Self {
            txqlen,
            gso_max_segs,
            gso_max_size,
            gro_max_size,
            gso_ipv4_max_size,
            gro_ipv4_max_size,
            group,
            broadcast,
            link_mode,
            proto_down,
        } = self;
        let proto_down = differing(proto_down, now.proto_down);
        // To set the one sets IPv4's, too (`netif_set_gso_max_size`, net/core/dev.c), which is set after it.
        let sent = now.gso_ipv4_max_size.filter(|_| now.gso_max_size == gso_max_size);
        let received = now.gro_ipv4_max_size.filter(|_| now.gro_max_size == gro_max_size);
        // While a reason stands the kernel does not take it back (EBUSY).
        let reasons = vec![LinkProtocolDownReason::Mask(u32::MAX), LinkProtocolDownReason::Value(0)];
        [
            differing(txqlen, now.txqlen).map(LinkAttribute::TxQueueLen),
            differing(gso_max_segs, now.gso_max_segs).map(LinkAttribute::GsoMaxSegs),
            differing(gso_max_size, now.gso_max_size).map(LinkAttribute::GsoMaxSize),
            differing(gro_max_size, now.gro_max_size).map(LinkAttribute::GroMaxSize),
            differing(gso_ipv4_max_size, sent).map(LinkAttribute::GsoIpv4MaxSize),
            differing(gro_ipv4_max_size, received).map(LinkAttribute::GroIpv4MaxSize),
            differing(group, now.group).map(LinkAttribute::Group),
            differing(broadcast, now.broadcast).map(|mac| LinkAttribute::Broadcast(mac.0.to_vec())),
            differing(link_mode, now.link_mode).map(|mode| LinkAttribute::Mode(mode.into())),
            proto_down.filter(|down| !down).map(|_| LinkAttribute::ProtoDownReason(reasons)),
            proto_down.map(|down| LinkAttribute::ProtoDown(down.into())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn differing<T: Copy + PartialEq>(wanted: Option<T>, now: Option<T>) -> Option<T> {
    if wanted == now { None } else { wanted }
}

impl Rtnl {
    /// Sets what differs from `now`, which is how the netdev is.
    pub async fn tune(&self, ifindex: u32, wanted: Tuning, now: Tuning) -> Result<()> {
        let missing = wanted.missing(now);
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("setting netdev {ifindex} {missing:?}");
        let message = missing
            .into_iter()
            .fold(LinkUnspec::new_with_index(ifindex), |message, attribute| {
                message.append_extra_attribute(attribute)
            })
            .build();
        self.acked(what, RouteNetlinkMessage::SetLink(message), 0).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_set() {
        let was = Tuning { txqlen: Some(1000), group: Some(0), ..Tuning::default() };
        let now = Tuning { txqlen: Some(5), group: Some(0), gso_max_segs: Some(7), ..Tuning::default() };
        assert_eq!(was.missing(now), [LinkAttribute::TxQueueLen(1000)]);
        assert!(was.missing(was).is_empty());
    }
}
