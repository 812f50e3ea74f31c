//! Numbers that headers name what follows by.

/// EtherTypes.
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;
pub const IPV6: u16 = 0x86dd;
pub const QINQ: u16 = 0x88a8;

/// IP protocols, and IPv6's extension headers.
pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const ICMPV6: u8 = 58;
/// IPv6's own word for it.
pub const NONE: u8 = 59;
pub const DESTINATION: u8 = 60;
