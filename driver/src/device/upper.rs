//! What stands on a netdev, in whatever namespace: a macvlan or a VLAN gets its frames.
//!
//! Such netdevs heed NETDEV_UNREGISTER only if the one beneath them ends, not if it moves
//! (drivers/net/macvlan.c, net/8021q/vlan.c): they stay where they are, and go on receiving.
use super::{Rtnl, netns::NetNs, raw::Standing, rtnl::Result};

/// Kinds that receive or send through the netdev that IFLA_LINK names. To a veth that is its other end, and
/// to a tunnel a mere hint.
const KINDS: [&str; 10] =
    ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "virt_wifi", "rmnet", "ipoib", "lowpan"];

impl Rtnl {
    /// What in this namespace stands on the netdev `lower` of this namespace.
    pub async fn uppers_here(&self, lower: u32) -> Result<Vec<Standing>> {
        let mut uppers = self.standing().await?;
        uppers.retain(|upper| upper.is_on(lower, None));
        Ok(uppers)
    }

    /// What in this namespace stands on the netdev `lower` of the namespace `of`.
    pub async fn uppers_on(&self, lower: u32, of: &NetNs) -> Result<Vec<Standing>> {
        let mut uppers = self.standing().await?;
        if uppers.is_empty() {
            return Ok(uppers);
        }
        // The listing gives a namespace its id if it had none yet, so this comes after it.
        let Some(netns) = self.nsid(of).await? else { return Ok(Vec::new()) };
        uppers.retain(|upper| upper.is_on(lower, Some(netns)));
        Ok(uppers)
    }
}

impl Standing {
    fn is_on(&self, lower: u32, netns: Option<i32>) -> bool {
        self.lower == lower && self.netns == netns && KINDS.contains(&self.kind.as_str())
    }
}
