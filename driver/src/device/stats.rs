//! What a netdev or a VF has counted itself.
use netlink_packet_route::link::{Stats64, VfStats};
use serde::{Deserialize, Serialize};

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
    /// What was counted since they were `before`; some drivers start from zero when a netdev goes up.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
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
