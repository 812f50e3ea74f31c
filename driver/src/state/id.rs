//! Docker's identifiers, checked where they come in: each becomes a path or a kernel tag.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Docker's ids are 64 hexadecimal digits; others that are safe in a path are taken too.
const MAX_LEN: usize = 64;

/// Why a string is no identifier.
#[derive(Debug, thiserror::Error)]
#[error("{value:?}: an id is 1 to {MAX_LEN} letters, digits, '-' or '_'")]
pub struct BadId {
    value: String,
}

fn check(value: &str) -> Result<(), BadId> {
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if value.is_empty() || value.len() > MAX_LEN || !value.chars().all(safe) {
        let value = value.chars().take(MAX_LEN).collect();
        return Err(BadId { value });
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The whole id.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 characters, as Docker's own commands show it.
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(value: String) -> Result<Self, BadId> {
                check(&value)?;
                Ok(Self(value))
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(value: &str) -> Result<Self, BadId> {
                Self::try_from(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A Docker network's id.
    NetworkId
);
id!(
    /// A Docker endpoint's id: one attachment of one container to one network. Docker gives a new one
    /// at every start of the container.
    EndpointId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_safe_in_a_path() {
        assert!("0a".repeat(32).parse::<NetworkId>().is_ok());
        for bad in ["", ".", "..", "../../victim", "a/b", "a.b", "a\0", "é", &"a".repeat(65)] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn short_is_what_docker_shows() {
        let id: EndpointId = "0123456789abcdef".parse().unwrap();
        assert_eq!(id.short(), "0123456789ab");
        assert_eq!("ep".parse::<EndpointId>().unwrap().short(), "ep");
    }
}
