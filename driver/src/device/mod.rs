//! What the kernel has: netdevs over rtnetlink, their namespaces, SR-IOV in sysfs. Knows nothing of Docker.
//!
//! The kernel is asked each time; nothing is cached here but the sockets.
pub mod address;
pub mod change;
pub mod claim;
pub mod clsact;
pub mod events;
pub mod features;
pub mod link;
pub mod mac;
pub mod macvlan;
pub mod mark;
mod netlink;
pub mod netns;
pub mod pci;
pub(crate) mod raw;
pub mod rtnl;
pub mod stats;
pub mod tuning;
pub mod upper;
pub mod vf;
pub mod watch;

pub use change::Change;
pub use link::{Link, LinkRef};
pub use mac::Mac;
pub use rtnl::{Error, Result, Rtnl};
pub use stats::Stats;
