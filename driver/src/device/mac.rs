//! An Ethernet hardware address.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Six octets in the order of the wire; written as the kernel and Docker do, `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Why a string is no MAC.
#[derive(Debug, thiserror::Error)]
#[error("{value:?}: a MAC is six pairs of hexadecimal digits, such as 02:42:ac:11:00:02")]
pub struct BadMac {
    value: String,
}

impl Mac {
    /// Whether a netdev may have it: not a group address, not all zero (`is_valid_ether_addr`,
    /// include/linux/etherdevice.h).
    pub fn is_assignable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(value: &str) -> Result<Self, BadMac> {
        let bad = || BadMac { value: value.chars().take(32).collect() };
        let mut octets = [0; 6];
        let mut parts = value.split([':', '-']);
        for octet in &mut octets {
            let part =
                parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(octets)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;
    fn try_from(value: String) -> Result<Self, BadMac> {
        value.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_docker_does() {
        let mac: Mac = "02:42:AC:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert!(mac.is_assignable());
        for bad in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:0:2", "02:42:ac:11:00:+2"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
        assert!(!"01:00:5e:00:00:01".parse::<Mac>().unwrap().is_assignable());
        assert!(!"00:00:00:00:00:00".parse::<Mac>().unwrap().is_assignable());
    }
}
