//! What the BPF programs and the driver both know.
//!
//! Each endpoint has one map, `counters`: a per-CPU array with a single [`Counters`] in it, or a single
//! [`DetailedCounters`] where `counters=detailed` was asked for. A reader adds up the entries of all CPUs,
//! and knows by the entry's size which it is. Fields are only ever added, at the end of each.
//!
//! # Units
//! A *packet* is a frame on the wire: a GSO or GRO packet counts as the segments it stands for. *Bytes*
//! are the frame's from destination MAC to the end of its payload, VLAN tags included, FCS and preamble
//! excluded; segments have their headers each. This is what `rtnl_link_stats64` of the link partner counts.
//! Hardware pads short frames to 60 bytes after they are counted as sent; a received one is counted with it.
//!
//! # Classes
//! Each frame in `packets` is in one class of each of three sums, at most one of the fourth, and each
//! segment of a GSO or GRO packet in its own:
//! - `unicast`, `multicast`, `broadcast`: by the destination MAC.
//! - `ipv4`, `ipv6`, `arp`, `other_ethertype`: by the EtherType behind up to two VLAN tags in the frame, and
//!   one that the stack has beside it. Behind more tags, and with a length in place of an EtherType, it is
//!   another.
//! - `pkts_…_octets`: the classes of RMON's etherStats (RFC 2819). Their *octets are not our bytes*: they
//!   include the FCS, of 4, and a frame has no fewer than 64, to which whoever sends it pads it. So a frame
//!   of 60 bytes or less is in `pkts_64_octets`, one of 1514 in `pkts_1024_to_1518_octets`, as the switch
//!   port at the other end has it. A VLAN tag within the frame counts there, too; one that the PF or the
//!   switch adds behind our back does not, nor is it in our bytes.
//! - `tcp`, `udp`, `icmp` (and ICMPv6): by the protocol that IPv4's header names, or that IPv6's headers end
//!   with, after at most six extension headers. A fragment counts by its own IP header.
//!
//! `vlan_tagged` frames bear a VLAN tag, in the frame or beside it.
//!
//! # Limits
//! - Sent frames are counted before the qdisc: what it or the netdev drops is counted. What a container
//!   sends around the qdisc (`PACKET_QDISC_BYPASS`) is not; the netdev's own counters have it.
//! - Tunnel packets merged by GRO and counted at TCX: the inner headers are counted once per merged packet,
//!   not once per frame. XDP counts them exactly.
//! - SCTP GSO: 12 bytes too few for each segment but the first.
//! - Link layers other than Ethernet: bytes as the stack has them, IPoIB's pseudo header included, and 4
//!   octets more though there is no FCS. They have no MAC as Ethernet has it: `unicast`, `multicast` and
//!   `broadcast` stay 0.
//! - Where the hardware takes a VLAN tag out before XDP, XDP does not see it, neither as bytes nor as a tag.
#![no_std]

/// What one endpoint received: frames that reached its netdev from the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rx {
    /// Frames.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// What one endpoint sent: frames that left the container's stack for the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tx {
    /// Frames, without those that the spoof check dropped.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Frames whose source MAC is not the endpoint's; dropped if [`SPOOF_DROP`], else sent and in
    /// `packets` too.
    pub spoofed: u64,
}

/// The value of the `counters` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received.
    pub rx: Rx,
    /// Sent.
    pub tx: Tx,
}

/// The frames of one direction by class. The names are a contract: `stats --json` has them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Detailed {
    /// To one MAC.
    pub unicast: u64,
    /// To a group of MACs.
    pub multicast: u64,
    /// To all.
    pub broadcast: u64,
    /// IPv4.
    pub ipv4: u64,
    /// IPv6.
    pub ipv6: u64,
    /// ARP.
    pub arp: u64,
    /// None of these three.
    pub other_ethertype: u64,
    /// TCP.
    pub tcp: u64,
    /// UDP.
    pub udp: u64,
    /// ICMP and ICMPv6.
    pub icmp: u64,
    /// With a VLAN tag.
    pub vlan_tagged: u64,
    /// Of 64 octets, FCS and padding included.
    pub pkts_64_octets: u64,
    /// Of 65 to 127 octets.
    pub pkts_65_to_127_octets: u64,
    /// Of 128 to 255 octets.
    pub pkts_128_to_255_octets: u64,
    /// Of 256 to 511 octets.
    pub pkts_256_to_511_octets: u64,
    /// Of 512 to 1023 octets.
    pub pkts_512_to_1023_octets: u64,
    /// Of 1024 to 1518 octets.
    pub pkts_1024_to_1518_octets: u64,
    /// Of 1519 octets and more: jumbo frames, and full ones with a VLAN tag.
    pub pkts_1519_to_max_octets: u64,
}

/// The value of the `counters` map where `counters=detailed`. Begins as [`Counters`] does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetailedCounters {
    /// Received.
    pub rx: Rx,
    /// Sent.
    pub tx: Tx,
    /// What was received, by class.
    pub rx_detailed: Detailed,
    /// What was sent, by class; without what the spoof check dropped.
    pub tx_detailed: Detailed,
}

/// `Constants::spoof_check`: source MACs are not looked at (a link layer that is not Ethernet).
pub const SPOOF_OFF: u32 = 0;
/// `Constants::spoof_check`: frames with a foreign source MAC are counted and sent.
pub const SPOOF_COUNT: u32 = 1;
/// `Constants::spoof_check`: frames with a foreign source MAC are counted and dropped.
pub const SPOOF_DROP: u32 = 2;

/// What instructions of the programs set registers to until a loader [fills](Constants::fill) in constants:
/// numbers that nothing else in them has.
pub mod placeholder {
    /// [`Constants::spoof_check`](super::Constants::spoof_check).
    pub const SPOOF_CHECK: i32 = 0x6470_7401;
    /// The first word of [`Constants::source_mac`](super::Constants::source_mac).
    pub const SOURCE_MAC_HEAD: i32 = 0x6470_7402;
    /// The second.
    pub const SOURCE_MAC_TAIL: i32 = 0x6470_7403;
}

/// What the programs know of the endpoint that they are loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constants {
    /// One of `SPOOF_…`.
    pub spoof_check: u32,
    /// The endpoint's MAC as the two words that a frame has at offsets 6 and 10, in the machine's order.
    pub source_mac: [u32; 2],
}

impl Constants {
    /// What an instruction with this opcode and immediate is to have for an immediate: another one if it sets
    /// a register to a [`placeholder`].
    #[must_use]
    pub const fn fill(&self, opcode: u8, immediate: i32) -> i32 {
        /// `BPF_ALU | BPF_MOV | BPF_K`, and the same with `BPF_ALU64`.
        const SET: [u8; 2] = [0xb4, 0xb7];
        if opcode != SET[0] && opcode != SET[1] {
            return immediate;
        }
        match immediate {
            placeholder::SPOOF_CHECK => signed(self.spoof_check),
            placeholder::SOURCE_MAC_HEAD => signed(self.source_mac[0]),
            placeholder::SOURCE_MAC_TAIL => signed(self.source_mac[1]),
            other => other,
        }
    }
}

const fn signed(word: u32) -> i32 {
    i32::from_ne_bytes(word.to_ne_bytes())
}
