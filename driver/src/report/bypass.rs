//! What went past our hooks: what others counted, and we did not.
use serde::Serialize;

use super::EndpointReport;

/// Frames that the netdev or the hardware counted and our hooks did not see; null where nobody else counts. The
/// field names are a contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bypass {
    /// Received.
    pub rx_packets: Option<u64>,
    /// Sent.
    pub tx_packets: Option<u64>,
}

impl EndpointReport {
    /// What bypassed our hooks.
    pub fn bypass(&self) -> Bypass {
        let vf = self.vf.as_ref().map(|vf| &vf.counters);
        let [ours_rx, ours_tx] = [self.rx.map(|rx| rx.packets), self.tx.map(|tx| tx.packets)];
        let netdev = self.netdev.as_ref();
        Bypass {
            rx_packets: beyond(ours_rx, netdev.map(|of| of.rx_packets), vf.and_then(|vf| vf.rx_packets)),
            tx_packets: beyond(ours_tx, netdev.map(|of| of.tx_packets), vf.and_then(|vf| vf.tx_packets)),
        }
    }
}

/// A VF's own hardware sees more than its netdev, where it counts. Fewer than ours are no bypass: a qdisc drops what
/// we counted, and some netdevs count a GSO packet once.
fn beyond(ours: Option<u64>, netdev: Option<u64>, vf: Option<u64>) -> Option<u64> {
    netdev.max(vf).zip(ours).map(|(theirs, ours)| theirs.saturating_sub(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bypass_is_what_others_counted_more_and_never_negative() {
        assert_eq!(beyond(Some(5), None, None), None);
        assert_eq!(beyond(Some(5), Some(7), None), Some(2));
        assert_eq!(beyond(Some(5), Some(3), None), Some(0));
        assert_eq!(beyond(Some(5), Some(7), Some(9)), Some(4));
        assert_eq!(beyond(Some(5), None, Some(9)), Some(4));
        assert_eq!(beyond(None, Some(7), None), None);
    }
}
