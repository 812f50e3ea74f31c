//! `docker network create -o key=value`, an option a line. What is accepted is within its range, and the state
//! file keeps it; a complaint begins with the option that is wrong.
#![no_main]
use docker_passthrough::{network::options::parse, state::NetworkOptions};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let options: Map<String, Value> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), written(value)))
        .collect();
    match parse(&options) {
        Ok(requested) => {
            let NetworkOptions { netdevice, prefix, mtu, vf, .. } = &requested.options;
            assert!(!netdevice.is_empty() && netdevice.len() < 128 && !netdevice.contains(['/', '%']));
            assert!(!prefix.is_empty() && prefix.len() <= 12 && !prefix.contains('/'));
            assert!(mtu.is_none_or(|mtu| (68..=65_535).contains(&mtu)));
            assert!(vf.vlan.id <= 4094 && vf.vlan.qos <= 7 && vf.vfs != Some(0));
            let (min, max) = (vf.min_tx_rate.unwrap_or(0), vf.max_tx_rate.unwrap_or(0));
            assert!(max == 0 || min <= max, "{min} to {max}");
            assert!(requested.vf_settings.iter().all(|(key, _)| options.contains_key(key)));
            let kept = serde_json::to_string(&requested.options).expect("JSON");
            assert_eq!(serde_json::from_str::<NetworkOptions>(&kept).expect("ours"), requested.options);
        }
        Err(complaint) => {
            let complaint = complaint.to_string();
            let named = options.keys().any(|key| complaint.starts_with(&format!("{key}=")));
            assert!(named || complaint.starts_with("netdevice: is required"), "{complaint}");
        }
    }
});

/// As a compose file may write it: `9000` and `true` without quotes.
fn written(value: &str) -> Value {
    match value.strip_prefix('!') {
        Some(bare) => serde_json::from_str(bare).unwrap_or(Value::Null),
        None => value.into(),
    }
}
