//! Where frames are counted, and what is done about foreign source MACs.
use std::fmt;

use driver_common::{Constants, SPOOF_COUNT, SPOOF_DROP, SPOOF_OFF};
use serde::{Deserialize, Serialize};

use super::{kernel::AttachType, tcx::has_tcx};
use crate::{device::mac::Mac, state::model::CounterSet};

/// Where in the kernel frames are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Native XDP: in the netdev's driver, before an skb is made. Receive only.
    Xdp,
    /// TCX: in the stack, after GRO on receive and before segmentation on transmit. Linux 6.6.
    Tcx,
    /// The same place on older kernels: a filter at a clsact qdisc. Any move of the netdev drops it, and a
    /// container with `NET_ADMIN` can take it off, so somebody has to put it back.
    Clsact,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<AttachType> for Hook {
    fn from(to: AttachType) -> Self {
        match to {
            AttachType::Xdp => Self::Xdp,
            AttachType::TcxIngress | AttachType::TcxEgress => Self::Tcx,
        }
    }
}

impl Hook {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Where this kernel counts in the stack.
    pub fn in_stack() -> Self {
        if has_tcx() { Self::Tcx } else { Self::Clsact }
    }

    /// The program that counts what is received here: that of TCX runs at clsact, too.
    pub(super) fn receive(self) -> AttachType {
        match self {
            Self::Xdp => AttachType::Xdp,
            Self::Tcx | Self::Clsact => AttachType::TcxIngress,
        }
    }
}

/// What is done about frames that the container sends from a MAC that isn't the endpoint's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoofCheck {
    /// They are not looked for: the link layer is not Ethernet.
    Off,
    /// They are counted, and sent.
    Count(Mac),
    /// They are counted, and dropped.
    Drop(Mac),
}

impl fmt::Display for SpoofCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl SpoofCheck {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Count(_) => "count",
            Self::Drop(_) => "drop",
        }
    }

    /// What the programs are to know of it.
    pub(super) fn constants(self) -> Constants {
        let spoof_check = match self {
            Self::Off => SPOOF_OFF,
            Self::Count(_) => SPOOF_COUNT,
            Self::Drop(_) => SPOOF_DROP,
        };
        Constants { spoof_check, source_mac: self.words() }
    }

    /// The MAC as the program compares it.
    fn words(self) -> [u32; 2] {
        match self {
            Self::Off => [0; 2],
            Self::Count(Mac(octets)) | Self::Drop(Mac(octets)) => {
                let [head @ .., y, z] = octets;
                [u32::from_ne_bytes(head), u16::from_ne_bytes([y, z]).into()]
            }
        }
    }
}

/// How a netdev is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The netdev, in the calling thread's network namespace.
    pub ifindex: u32,
    /// Where received frames are counted. Sent ones are counted at TCX, or by clsact where the kernel has
    /// none.
    pub rx_hook: Hook,
    /// What is done about foreign source MACs.
    pub spoof_check: SpoofCheck,
    /// Whether the netdev may hand XDP a frame in several buffers (`rx-sg` of its `xdp-features`). If
    /// unsure, true: it costs about 5 ns a frame, and false would count the first buffer only.
    pub frags: bool,
    /// What is counted.
    pub counters: CounterSet,
}

impl Plan {
    /// What the program to be attached there is called in the object: for each way of counting there is one.
    pub(super) fn program(&self, at: AttachType) -> &'static str {
        match (at, self.counters) {
            (AttachType::Xdp, CounterSet::Basic) if self.frags => "passthru_rx_xdp_frags",
            (AttachType::Xdp, CounterSet::Basic) => "passthru_rx_xdp",
            (AttachType::Xdp, CounterSet::Detailed) if self.frags => "passthru_rx_xdp_frags_detailed",
            (AttachType::Xdp, CounterSet::Detailed) => "passthru_rx_xdp_detailed",
            (AttachType::TcxIngress, CounterSet::Basic) => "passthru_rx_tcx",
            (AttachType::TcxIngress, CounterSet::Detailed) => "passthru_rx_tcx_detailed",
            (AttachType::TcxEgress, CounterSet::Basic) if self.spoof_check == SpoofCheck::Off => {
                "passthru_tx_tcx_unchecked"
            }
            (AttachType::TcxEgress, CounterSet::Basic) => "passthru_tx_tcx",
            (AttachType::TcxEgress, CounterSet::Detailed) => "passthru_tx_tcx_detailed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_written_as_users_type_them() {
        for (hook, name) in [(Hook::Xdp, "xdp"), (Hook::Tcx, "tcx"), (Hook::Clsact, "clsact")] {
            assert_eq!(hook.to_string(), name);
            assert_eq!(serde_json::to_value(hook).unwrap(), name);
            assert_eq!(serde_json::from_value::<Hook>(name.into()).unwrap(), hook);
        }
    }

    #[test]
    fn a_mac_is_the_words_that_a_frame_has() {
        let mac = Mac([2, 0x42, 0xac, 0x11, 0, 3]);
        let [head, tail] = SpoofCheck::Drop(mac).words();
        assert_eq!(head.to_ne_bytes(), [2, 0x42, 0xac, 0x11]);
        assert_eq!(u16::try_from(tail).unwrap().to_ne_bytes(), [0, 3]);
    }
}
