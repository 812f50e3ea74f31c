//! What can be done to a netdev.
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkXdp, Prop},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Link, Mac, Rtnl, link::Flags, netns::NetNs, rtnl::Result};

/// What to change of a netdev; what is not named stays. The kernel applies a message in an order of its
/// own and stops at the first failure, so what must be undone one by one goes in messages of its own.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Rename it.
    pub name: Option<String>,
    /// Give it another hardware address.
    pub mac: Option<Mac>,
    /// Give it another MTU.
    pub mtu: Option<u32>,
    /// Tag it; empty takes the tag off.
    pub alias: Option<String>,
    /// Its receive filters and protocols.
    pub flags: Option<Flags>,
    /// Up or down.
    pub up: Option<bool>,
}

impl Change {
    fn describe(&self) -> String {
        let Self { name, mac, mtu, alias, flags, up } = self;
        let mut words = Vec::new();
        words.extend(name.as_ref().map(|name| format!("name {name}")));
        words.extend(mac.map(|mac| format!("address {mac}")));
        words.extend(mtu.map(|mtu| format!("mtu {mtu}")));
        words.extend(alias.as_ref().map(|alias| format!("alias {alias:?}")));
        words.extend(flags.map(|flags| format!("{flags:?}")));
        words.extend(up.map(|up| if up { "up" } else { "down" }.to_owned()));
        words.join(" ")
    }

    fn apply(&self, mut message: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
        let Self { name, mac, mtu, alias, flags, up } = self;
        if let Some(name) = name {
            message = message.name(name);
        }
        if let Some(mac) = mac {
            message = message.address(mac.0.to_vec());
        }
        if let Some(mtu) = mtu {
            message = message.mtu(*mtu);
        }
        if let Some(alias) = alias {
            message = message.alias(alias);
        }
        if let Some(Flags { promisc, allmulti, arp, multicast }) = *flags {
            message = message.promiscuous(promisc).allmulticast(allmulti).arp(arp).multicast(multicast);
        }
        match up {
            Some(true) => message.up(),
            Some(false) => message.down(),
            None => message,
        }
    }
}

impl Rtnl {
    /// Changes the netdev with this ifindex.
    pub async fn change(&self, ifindex: u32, change: &Change) -> Result<()> {
        let message = change.apply(LinkUnspec::new_with_index(ifindex)).build();
        let what = format!("setting netdev {ifindex} {}", change.describe());
        self.acked(what, RouteNetlinkMessage::SetLink(message), 0).await
    }

    /// Takes it up or down.
    pub async fn set_up(&self, ifindex: u32, up: bool) -> Result<()> {
        self.change(ifindex, &Change { up: Some(up), ..Change::default() }).await
    }

    /// Makes the alternative names those of `wanted`.
    pub async fn set_altnames(&self, link: &Link, wanted: &[String]) -> Result<()> {
        let missing: Vec<_> = wanted.iter().filter(|name| !link.altnames.contains(name)).collect();
        // By their bytes: a container's may be no text.
        for name in self.altnames(link.ifindex).await? {
            if !wanted.iter().any(|wanted| wanted.as_bytes() == name) {
                self.remove_altname(link.ifindex, &name).await?;
            }
        }
        for name in missing {
            let what = format!("giving netdev {} the alternative name {name}", link.ifindex);
            let mut message = LinkUnspec::new_with_index(link.ifindex).build();
            message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name.clone())]));
            let request = RouteNetlinkMessage::NewLinkProp(message);
            self.acked(what, request, NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND).await?;
        }
        Ok(())
    }

    /// Takes XDP programs off that were attached over netlink; those of bpf_links stay, with EBUSY.
    pub async fn xdp_off(&self, ifindex: u32) -> Result<()> {
        // include/uapi/linux/if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
        for mode in [1 << 1, 1 << 2] {
            let off = LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(mode)]);
            let message = LinkUnspec::new_with_index(ifindex).append_extra_attribute(off).build();
            let what = format!("taking XDP off netdev {ifindex}");
            match self.acked(what, RouteNetlinkMessage::SetLink(message), 0).await {
                Err(error) if error.errno() != Some(nix::libc::EOPNOTSUPP) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Moves the netdev into another namespace, under another name if one is given. The kernel takes it
    /// down, and drops its addresses, routes, neighbours and qdiscs.
    pub async fn move_to(&self, ifindex: u32, netns: &NetNs, name: Option<&str>) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(ifindex).setns_by_fd(netns.raw_fd());
        if let Some(name) = name {
            message = message.name(name);
        }
        let what = format!("moving netdev {ifindex} to another network namespace");
        self.acked(what, RouteNetlinkMessage::SetLink(message.build()), 0).await
    }

    /// Whether the kernel lets the netdev change its namespace at all. It is asked to move it to where
    /// it is: that checks, and does nothing (`__dev_change_net_namespace`, net/core/dev.c).
    pub async fn is_movable(&self, link: &Link, here: &NetNs) -> Result<bool> {
        if link.immovable {
            return Ok(false);
        }
        match self.move_to(link.ifindex, here, None).await {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(nix::libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
