//! The options of `docker network create -o key=value`: each is checked where the user reads the answer.
use std::fmt::Display;

use serde_json::{Map, Value};

use crate::{
    device::{
        link::MAX_NAME,
        vf::{LinkState, VlanProto},
    },
    state::model::{CounterSet, Mode, NetworkOptions, RxHook, VfOptions},
};

/// Longest alternative name of a netdev: `ALTIFNAMSIZ` less the NUL (include/uapi/linux/if.h).
const MAX_ALTNAME: usize = 127;

/// Docker appends the number of the interface in the container: three digits are enough for any.
const MAX_PREFIX: usize = MAX_NAME - 3;

/// An option that can't be, in the operator's words: `vlan=4095: must be 0 to 4094`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {reason}")]
pub struct BadOption {
    option: String,
    reason: String,
}

impl BadOption {
    pub(super) fn new(key: &str, value: impl Display, reason: impl Into<String>) -> Self {
        Self { option: format!("{key}={value}"), reason: reason.into() }
    }
}

/// The options as the user typed them; whether the netdevice fits them is asked afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// Mode, if one was named.
    pub mode: Option<Mode>,
    /// The rest.
    pub options: NetworkOptions,
    /// Those that were named and only a VF has, other than `vlan=0`: key and value.
    pub vf_settings: Vec<(String, String)>,
}

/// Reads the value of `com.docker.network.generic`: an object of strings, or of numbers and booleans
/// where a compose file wrote them so.
pub fn parse(generic: &Map<String, Value>) -> Result<Requested, BadOption> {
    let mut requested = Requested {
        mode: None,
        options: NetworkOptions {
            netdevice: String::new(),
            privileged: false,
            prefix: "eth".into(),
            mtu: None,
            rx_hook: RxHook::Auto,
            counters: CounterSet::Basic,
            force: false,
            vf: VfOptions::default(),
        },
        vf_settings: Vec::new(),
    };
    for (key, value) in generic {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err(BadOption::new(key, value, "must be a string")),
        };
        set(&mut requested, key, &text)?;
    }
    if requested.options.netdevice.is_empty() {
        let reason = "is required: the netdev to hand out, such as -o netdevice=ens2f0";
        return Err(BadOption { option: "netdevice".into(), reason: reason.into() });
    }
    let VfOptions { min_tx_rate, max_tx_rate, .. } = requested.options.vf;
    if let (Some(min), Some(max @ 1..)) = (min_tx_rate, max_tx_rate)
        && min > max
    {
        return Err(BadOption::new("min_tx_rate", min, format!("must not be above max_tx_rate={max}")));
    }
    Ok(requested)
}

fn set(requested: &mut Requested, key: &str, text: &str) -> Result<(), BadOption> {
    let bad = |reason: &str| BadOption::new(key, text, reason);
    let options = &mut requested.options;
    match key {
        _ if text.is_empty() => return Err(bad("is empty; leave the option out for its default")),
        "netdevice" => options.netdevice = netdevice(text).map_err(|reason| bad(&reason))?,
        "mode" => {
            requested.mode = Some(match text {
                "passthrough" => Mode::Passthrough,
                "sriov" => Mode::Sriov,
                _ => return Err(bad("must be sriov or passthrough")),
            });
        }
        "privileged" => options.privileged = flag(text).ok_or_else(|| bad("must be 0, 1, false or true"))?,
        "force" => options.force = flag(text).ok_or_else(|| bad("must be 0, 1, false or true"))?,
        "prefix" => options.prefix = prefix(text).map_err(|reason| bad(&reason))?,
        // Docker's own name for it, as its bridge networks have it.
        "mtu" | "com.docker.network.driver.mtu" => {
            let mtu = number(text, 68, 65_535).ok_or_else(|| bad("must be 68 to 65535 bytes"))?;
            options.mtu = Some(mtu);
        }
        "rx_hook" => {
            options.rx_hook = match text {
                "auto" => RxHook::Auto,
                "xdp" => RxHook::Xdp,
                "tcx" => RxHook::Tcx,
                _ => return Err(bad("must be auto, xdp or tcx")),
            };
        }
        "counters" => {
            options.counters = match text {
                "basic" => CounterSet::Basic,
                "detailed" => CounterSet::Detailed,
                _ => return Err(bad("must be basic or detailed")),
            };
        }
        _ if vf_setting(&mut options.vf, key, text).map_err(|reason| bad(&reason))? => {
            if (key, text) != ("vlan", "0") {
                requested.vf_settings.push((key.to_owned(), text.to_owned()));
            }
        }
        _ => {
            return Err(bad(
                "unknown option; there are netdevice, mode, vlan, privileged, prefix, vfs, vlan_qos, \
                 vlan_proto, min_tx_rate, max_tx_rate, link_state, spoofchk, trust, mtu, rx_hook, counters \
                 and force",
            ));
        }
    }
    Ok(())
}

/// Whether it is a setting that only a VF has; if so it is set.
fn vf_setting(vf: &mut VfOptions, key: &str, text: &str) -> Result<bool, String> {
    let within =
        |min, max, unit: &str| number(text, min, max).ok_or_else(|| format!("must be {min} to {max}{unit}"));
    let switch = || match text {
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        _ => Err("must be on or off".to_owned()),
    };
    match key {
        "vlan" => vf.vlan.id = u16::try_from(within(0, 4094, "")?).unwrap_or_default(),
        "vlan_qos" => vf.vlan.qos = u8::try_from(within(0, 7, "")?).unwrap_or_default(),
        "vlan_proto" => {
            vf.vlan.proto = match text {
                "802.1q" => VlanProto::Dot1q,
                "802.1ad" => VlanProto::Dot1ad,
                _ => return Err("must be 802.1q or 802.1ad".into()),
            };
        }
        "vfs" => vf.vfs = Some(within(1, 65_535, "")?),
        "min_tx_rate" => vf.min_tx_rate = Some(within(0, u32::MAX, " Mbit/s")?),
        "max_tx_rate" => vf.max_tx_rate = Some(within(0, u32::MAX, " Mbit/s")?),
        "link_state" => {
            vf.link_state = Some(match text {
                "auto" => LinkState::Auto,
                "enable" => LinkState::Enable,
                "disable" => LinkState::Disable,
                _ => return Err("must be auto, enable or disable".into()),
            });
        }
        "spoofchk" => vf.spoofchk = switch()?,
        "trust" => vf.trust = switch()?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Decimal digits only: `parse` alone would take `+1`, too.
fn number(text: &str, min: u32, max: u32) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && (min..=max).contains(number))
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" | "false" => Some(false),
        "1" | "true" => Some(true),
        _ => None,
    }
}

/// As `dev_valid_name` (net/core/dev.c) has it, and without what would be a pattern there.
fn netdevice(text: &str) -> Result<String, String> {
    let safe = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':' | '%');
    if text.len() > MAX_ALTNAME || text == "." || text == ".." || !text.chars().all(safe) {
        return Err("is no name of a netdev; `ip link` lists them".into());
    }
    Ok(text.to_owned())
}

fn prefix(text: &str) -> Result<String, String> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.len() > MAX_PREFIX || text.starts_with('.') || !text.chars().all(safe) {
        return Err(format!(
            "must be 1 to {MAX_PREFIX} letters, digits, '-', '_' or '.', such as eth or net"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<Requested, String> {
        let mut map = Map::new();
        for (key, value) in pairs {
            map.insert((*key).into(), Value::String((*value).into()));
        }
        parse(&map).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let requested = parsed(&[("netdevice", "ens2f0")]).unwrap();
        assert_eq!(requested.mode, None);
        assert_eq!(requested.options.prefix, "eth");
        assert!(!requested.options.privileged && !requested.options.force);
        assert_eq!(requested.options.rx_hook, RxHook::Auto);
        assert_eq!(requested.options.counters, CounterSet::Basic);
    }

    #[test]
    fn each_error_names_key_value_and_what_is_right() {
        for (key, value, words) in [
            ("vlan", "4095", "vlan=4095: must be 0 to 4094"),
            ("vlan", "abc", "vlan=abc: must be 0 to 4094"),
            ("vlan", "+1", "vlan=+1: must be 0 to 4094"),
            ("vlan", "-1", "vlan=-1: must be 0 to 4094"),
            ("vlan_qos", "8", "vlan_qos=8: must be 0 to 7"),
            ("mtu", "67", "mtu=67: must be 68 to 65535 bytes"),
            ("mtu", "9000 ", "mtu=9000 : must be 68 to 65535 bytes"),
            ("mode", "bridge", "mode=bridge: must be sriov or passthrough"),
            ("privileged", "yes", "privileged=yes: must be 0, 1, false or true"),
            ("counters", "all", "counters=all: must be basic or detailed"),
            ("rx_hook", "generic", "rx_hook=generic: must be auto, xdp or tcx"),
            ("spoofchk", "1", "spoofchk=1: must be on or off"),
            ("link_state", "up", "link_state=up: must be auto, enable or disable"),
            ("prefix", "", "prefix=: is empty"),
            ("prefix", "../x", "prefix=../x: must be 1 to 12"),
            ("prefix", "averylongprefix", "must be 1 to 12"),
            ("force", "maybe", "force=maybe: must be 0, 1, false or true"),
            ("netdevise", "x", "netdevise=x: unknown option"),
            ("netdevice", "../../x", "netdevice=../../x: is no name of a netdev"),
            ("netdevice", "eth%d", "is no name of a netdev"),
        ] {
            let error = parsed(&[("netdevice", "ens2f0"), (key, value)]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(parsed(&[]).unwrap_err().starts_with("netdevice: is required"));
    }

    #[test]
    fn what_compose_files_write() {
        let map = serde_json::json!({"netdevice": "ens2f0", "mtu": 9000, "privileged": true});
        let requested = parse(map.as_object().unwrap()).unwrap();
        assert_eq!(requested.options.mtu, Some(9000));
        assert!(requested.options.privileged);
        assert!(parse(serde_json::json!({"netdevice": ["a"]}).as_object().unwrap()).is_err());
    }
}
