//! What stands on a netdev, in whatever namespace: a macvlan or a VLAN gets its frames.
//!
//! Such netdevs heed NETDEV_UNREGISTER only if the one beneath them ends, not if it moves
//! (drivers/net/macvlan.c, net/8021q/vlan.c): they stay where they are, and go on receiving.
use std::{collections::HashSet, io, path::PathBuf};

use super::{
    Rtnl,
    netlink::Raw,
    netns::{self, NetNs, Traveller},
    raw::Standing,
    rtnl::Result,
};

/// Kinds that receive or send through the netdev that IFLA_LINK names. To a veth that is its other end, and
/// to a tunnel a mere hint.
const KINDS: [&str; 10] =
    ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "virt_wifi", "rmnet", "ipoib", "lowpan"];

impl Rtnl {
    /// What in this namespace stands on the netdev `lower` of this namespace.
    pub async fn uppers_here(&self, lower: u32) -> Result<Vec<Standing>> {
        let mut uppers = self.standing_on(lower).await?;
        uppers.retain(Standing::shares_frames);
        Ok(uppers)
    }

    /// The netdevs of this namespace that something in it stands on.
    pub async fn lowers(&self) -> Result<HashSet<u32>> {
        let uppers = self.standing().await?.into_iter();
        Ok(uppers
            .filter(|upper| upper.netns.is_none() && upper.shares_frames())
            .map(|upper| upper.lower)
            .collect())
    }

    /// The same as [`Self::uppers_here`], of whatever kind: also a veth's other end.
    pub async fn standing_on(&self, lower: u32) -> Result<Vec<Standing>> {
        let mut uppers = self.standing().await?;
        uppers.retain(|upper| upper.is_on(lower, None));
        Ok(uppers)
    }
}

/// What stands, in one namespace, on a netdev of another.
#[derive(Debug)]
pub struct Elsewhere {
    /// The namespace, by a path that leads to it.
    pub path: PathBuf,
    /// Its inode.
    pub netns: u64,
    /// What stands there, or why that can't be told.
    pub uppers: io::Result<Vec<Standing>>,
}

/// What stands, in all other namespaces, on the netdev `lower` of the namespace `home`. Blocks, and goes from
/// one to the next on one thread: a host may have a thousand. They are opened one by one, as an open namespace
/// keeps what is in it from coming home.
pub fn uppers_elsewhere(lower: u32, home: &NetNs) -> io::Result<Vec<Elsewhere>> {
    Traveller::run(|traveller| {
        let look = |path: PathBuf| {
            let netns = match NetNs::open(&path) {
                Ok(netns) => netns,
                Err(error) if netns::is_over(&error) => return None,
                Err(error) => return Some(Elsewhere { path, netns: 0, uppers: Err(error) }),
            };
            let uppers = traveller.enter(&netns).and_then(|()| uppers_on(lower, home));
            let found = !matches!(&uppers, Ok(uppers) if uppers.is_empty());
            found.then(|| Elsewhere { path, netns: netns.inode(), uppers })
        };
        netns::others(home).filter_map(look).collect()
    })
}

/// What in the calling thread's namespace stands on the netdev `lower` of the namespace `of`.
fn uppers_on(lower: u32, of: &NetNs) -> io::Result<Vec<Standing>> {
    let raw = Raw::here()?;
    let mut uppers = raw.standing_here(lower)?;
    if uppers.is_empty() {
        return Ok(uppers);
    }
    // The listing gives a namespace its id if it had none yet, so this comes after it.
    let Some(netns) = raw.nsid_here(of)? else { return Ok(Vec::new()) };
    uppers.retain(|upper| upper.is_on(lower, Some(netns)) && upper.shares_frames());
    Ok(uppers)
}

impl Standing {
    fn is_on(&self, lower: u32, netns: Option<i32>) -> bool {
        self.lower == lower && self.netns == netns
    }

    fn shares_frames(&self) -> bool {
        KINDS.contains(&self.kind.as_str())
    }
}
