//! Frames by class, of networks with `counters=detailed`.
use driver_common::Detailed;
use serde::Serialize;

/// One direction's frames by class. The field names are a contract; what each means is in `driver_common`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DetailedReport {
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

impl From<Detailed> for DetailedReport {
    fn from(counted: Detailed) -> Self {
        // In full, so that no new field is forgotten.
        let Detailed {
            unicast,
            multicast,
            broadcast,
            ipv4,
            ipv6,
            arp,
            other_ethertype,
            tcp,
            udp,
            icmp,
            vlan_tagged,
            pkts_64_octets,
            pkts_65_to_127_octets,
            pkts_128_to_255_octets,
            pkts_256_to_511_octets,
            pkts_512_to_1023_octets,
            pkts_1024_to_1518_octets,
            pkts_1519_to_max_octets,
        } = counted;
        Self {
            unicast,
            multicast,
            broadcast,
            ipv4,
            ipv6,
            arp,
            other_ethertype,
            tcp,
            udp,
            icmp,
            vlan_tagged,
            pkts_64_octets,
            pkts_65_to_127_octets,
            pkts_128_to_255_octets,
            pkts_256_to_511_octets,
            pkts_512_to_1023_octets,
            pkts_1024_to_1518_octets,
            pkts_1519_to_max_octets,
        }
    }
}
