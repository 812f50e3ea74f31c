//! What the BPF programs and the driver both know.
//!
//! Each endpoint has one map, `counters`: a per-CPU array with a single [`Counters`] in it. A reader
//! adds up the entries of all CPUs. Fields are only ever added, at the end.
//!
//! # Units
//! A *packet* is a frame on the wire: a GSO or GRO packet counts as the segments it stands for. *Bytes*
//! are the frame's from destination MAC to the end of its payload, VLAN tags included, FCS, preamble
//! and padding excluded; segments have their headers each. This is what `rtnl_link_stats64` of the
//! link partner counts.
//!
//! # Limits
//! - Sent frames are counted before the qdisc: what it or the netdev drops is counted. What a container
//!   sends around the qdisc (`PACKET_QDISC_BYPASS`) is not; the netdev's own counters have it.
//! - Tunnel packets merged by GRO and counted at TCX: the inner headers are counted once per merged packet,
//!   not once per frame. XDP counts them exactly.
//! - SCTP GSO: 12 bytes too few for each segment but the first.
//! - Link layers other than Ethernet: bytes as the stack has them, IPoIB's pseudo header included.
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

/// `SPOOF_CHECK`: source MACs are not looked at (a link layer that is not Ethernet).
pub const SPOOF_OFF: u32 = 0;
/// `SPOOF_CHECK`: frames with a foreign source MAC are counted and sent.
pub const SPOOF_COUNT: u32 = 1;
/// `SPOOF_CHECK`: frames with a foreign source MAC are counted and dropped.
pub const SPOOF_DROP: u32 = 2;
