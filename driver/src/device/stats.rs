//! What a netdev or a VF has counted itself.
use std::io;

use netlink_packet_route::link::{Stats64, VfStats};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::libc;
use serde::{Deserialize, Serialize};

use super::netlink::{attributes, message_at};

/// So many messages that are not the kernel's are left aside.
const FORGED: u32 = 16;

const NLM_F_REQUEST: u16 = 1;
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
/// `struct if_stats_msg`.
const IF_STATS_MSG: usize = 12;
/// An attribute and, as a bit less one, what is asked for.
const IFLA_STATS_LINK_64: u16 = 1;

/// What concerns us of a netdev's `rtnl_link_stats64`, or of a VF's IFLA_VF_STATS
/// (include/uapi/linux/if_link.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames dropped on receive.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped on sending.
    pub tx_dropped: u64,
}

impl Stats {
    /// What a netdev of the calling thread's namespace has counted; none if there is no such. Blocks. For
    /// many netdevs in many namespaces it costs less than an [`Rtnl`](super::Rtnl) in each, and its answer has
    /// nothing in it that a container could choose.
    pub fn of_here(ifindex: u32) -> io::Result<Option<Self>> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // The answer is there when this returns (`netlink_rcv_skb`, net/netlink/af_netlink.c).
        socket.send(&request(ifindex), 0)?;
        // A header, `if_stats_msg` and the attribute; an error has less.
        let mut answer = [0; 1024];
        let length = from_kernel(&socket, &mut answer)?;
        let Some((header, body)) = message_at(&mut answer.get(..length).unwrap_or_default()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if header.kind != RTM_NEWSTATS {
            let code = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
            return match code.saturating_neg() {
                nix::libc::ENODEV => Ok(None),
                errno => Err(io::Error::from_raw_os_error(errno)),
            };
        }
        let mut found = attributes(body.get(IF_STATS_MSG..).unwrap_or_default());
        Ok(found.find(|(kind, _)| *kind == IFLA_STATS_LINK_64).and_then(|(_, stats)| Self::read(stats)))
    }

    /// A `struct rtnl_link_stats64` (include/uapi/linux/if_link.h).
    fn read(stats: &[u8]) -> Option<Self> {
        let field = |index: usize| Some(u64::from_ne_bytes(*stats.get(8 * index..)?.first_chunk()?));
        Some(Self {
            rx_packets: field(0)?,
            tx_packets: field(1)?,
            rx_bytes: field(2)?,
            tx_bytes: field(3)?,
            rx_dropped: field(6)?,
            tx_dropped: field(7)?,
        })
    }

    /// What was counted since they were `before`, or since they began anew: some drivers start from zero when a netdev
    /// goes up, and some hardware when a VF is configured.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if self.rx_packets < before.rx_packets || self.tx_packets < before.tx_packets {
            return *self;
        }
        Self {
            rx_packets: self.rx_packets.saturating_sub(before.rx_packets),
            rx_bytes: self.rx_bytes.saturating_sub(before.rx_bytes),
            rx_dropped: self.rx_dropped.saturating_sub(before.rx_dropped),
            tx_packets: self.tx_packets.saturating_sub(before.tx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(before.tx_bytes),
            tx_dropped: self.tx_dropped.saturating_sub(before.tx_dropped),
        }
    }
}

/// Receives what the kernel has sent. In a container others might send some of their own.
fn from_kernel(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    for _ in 0..FORGED {
        // Each from its beginning: what is received moves a slice on.
        let (length, from) = socket.recv_from(&mut &mut *buffer, libc::MSG_DONTWAIT)?;
        if from.port_number() == 0 {
            return Ok(length);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// RTM_GETSTATS for one netdev.
fn request(ifindex: u32) -> Vec<u8> {
    let filter = 1_u32 << (IFLA_STATS_LINK_64 - 1);
    let mut bytes = Vec::with_capacity(16 + IF_STATS_MSG);
    bytes.extend(28_u32.to_ne_bytes());
    bytes.extend(RTM_GETSTATS.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port; then family and padding.
    bytes.extend([0; 12]);
    bytes.extend(ifindex.to_ne_bytes());
    bytes.extend(filter.to_ne_bytes());
    bytes
}

impl From<&Stats64> for Stats {
    fn from(stats: &Stats64) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_dropped: stats.rx_dropped,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_dropped: stats.tx_dropped,
        }
    }
}

impl<'a> FromIterator<&'a VfStats> for Stats {
    fn from_iter<T: IntoIterator<Item = &'a VfStats>>(stats: T) -> Self {
        let mut sum = Self::default();
        for stat in stats {
            match stat {
                VfStats::RxPackets(count) => sum.rx_packets = *count,
                VfStats::RxBytes(count) => sum.rx_bytes = *count,
                VfStats::RxDropped(count) => sum.rx_dropped = *count,
                VfStats::TxPackets(count) => sum.tx_packets = *count,
                VfStats::TxBytes(count) => sum.tx_bytes = *count,
                VfStats::TxDropped(count) => sum.tx_dropped = *count,
                _ => {}
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_the_loopback_and_no_other() {
        assert!(Stats::of_here(1).unwrap().is_some());
        assert_eq!(Stats::of_here(0x7fff_fff0).unwrap(), None);
    }

    #[test]
    fn what_began_anew_is_told_whole() {
        let frames = |rx_packets, tx_packets| Stats {
            rx_packets,
            rx_bytes: 100 * rx_packets,
            tx_packets,
            tx_bytes: 100 * tx_packets,
            ..Stats::default()
        };
        assert_eq!(frames(15, 7).since(&frames(10, 7)), frames(5, 0));
        assert_eq!(frames(3, 8).since(&frames(10, 7)), frames(3, 8));
        assert_eq!(frames(30, 2).since(&frames(10, 7)), frames(30, 2));
    }

    #[test]
    fn fields_are_where_the_kernel_has_them() {
        let words: Vec<u8> = (1_u64..=8).flat_map(u64::to_ne_bytes).collect();
        let expected =
            Stats { rx_packets: 1, tx_packets: 2, rx_bytes: 3, tx_bytes: 4, rx_dropped: 7, tx_dropped: 8 };
        assert_eq!(Stats::read(&words), Some(expected));
        assert_eq!(Stats::read(&words[1..]), None);
    }
}
