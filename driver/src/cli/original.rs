//! What the original driver left: `<folder>/<network id>/config.json`, and how that is one of our networks.
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{docker::NetworkConfig, network::CreateNetwork, state::NetworkId};

/// Where the original, and its successor under the name `sriov`, kept their networks.
pub const FOLDERS: [&str; 2] =
    ["/etc/docker/mellanox/docker-passthrough-plugin", "/etc/docker/mellanox/docker-sriov-plugin"];

/// They write about 130 bytes.
const MAX_SIZE: u64 = 64 << 10;

/// RDMA's hop limit, an option of the successor's.
const ROCE: &str = "rocehoplimit";

/// `config.json`. Version and Subnet were never filled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    #[serde(rename = "Netdevice")]
    pub netdevice: String,
    #[serde(rename = "Mode", default)]
    pub mode: String,
    #[serde(rename = "Gateway", default)]
    gateway: String,
    #[serde(rename = "vlan", default)]
    vlan: i64,
    #[serde(rename = "Privileged", default)]
    privileged: bool,
}

/// One network of the original's.
#[derive(Debug)]
pub struct Found {
    pub file: PathBuf,
    /// Its id and its configuration, or what is wrong with them.
    pub config: Result<(NetworkId, Config), String>,
}

/// All networks in a folder of the original's, sorted by their ids.
pub fn networks(folder: &Path) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        if !entry.path().is_dir() {
            // None of its own: it kept each network in a folder.
            continue;
        }
        let file = entry.path().join("config.json");
        let config = read(&entry.file_name().to_string_lossy(), &file);
        found.push(Found { file, config });
    }
    found.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(found)
}

fn read(id: &str, file: &Path) -> Result<(NetworkId, Config), String> {
    let id = id.parse().map_err(|error: crate::state::id::BadId| error.to_string())?;
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|file| file.take(MAX_SIZE).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if config.netdevice.is_empty() {
        return Err("it names no Netdevice".into());
    }
    Ok((id, config))
}

impl Config {
    /// The network as one would create it today, and what is worth knowing about that. Docker has what was
    /// typed, the file what came of it.
    pub fn request(
        &self,
        id: &NetworkId,
        docker: &NetworkConfig,
        force: bool,
    ) -> (CreateNetwork, Vec<String>) {
        let mut notes = Vec::new();
        let mut generic: Map<String, Value> =
            docker.options().map(|(key, value)| (key.to_owned(), Value::String(value.to_owned()))).collect();
        let typed = |key: &str| docker.options().find(|(name, _)| *name == key).map(|(_, value)| value);
        // An engine keeps an option that was given as `-o mode=`, and the original took it for none.
        generic.retain(|_, value| value.as_str() != Some(""));
        for (key, ours) in [("netdevice", &self.netdevice), ("mode", &self.mode)] {
            match typed(key).filter(|typed| !typed.is_empty()) {
                Some(typed) if typed != ours => {
                    notes.push(format!(
                        "the file says {key}={ours}, and Docker {key}={typed}, which is taken"
                    ));
                }
                None if !ours.is_empty() => _ = generic.insert(key.into(), ours.as_str().into()),
                _ => {}
            }
        }
        if generic.remove(ROCE).is_some() {
            notes.push(format!("{ROCE}: RDMA settings are not this driver's, and are left as they are"));
        }
        let passthrough = generic.get("mode").is_some_and(|mode| mode == "passthrough");
        if let Some(vlan) = typed("vlan").filter(|vlan| passthrough && *vlan != "0") {
            generic.remove("vlan");
            notes.push(format!("vlan={vlan}: was never in force in passthrough mode, and is left out"));
        }
        // What it made of `privileged=yes` was no privilege.
        let privileged = typed("privileged").is_some_and(|typed| typed == "1" || typed == "true");
        if privileged != self.privileged {
            notes.push(format!(
                "the file says Privileged={}, and Docker privileged={}, which is taken",
                self.privileged,
                typed("privileged").unwrap_or("0")
            ));
        }
        let vlan = typed("vlan").and_then(|vlan| vlan.parse().ok()).unwrap_or(0);
        if vlan != self.vlan && !passthrough {
            notes.push(format!("the file says vlan={}, and Docker {vlan}, which is taken", self.vlan));
        }
        if force {
            generic.insert("force".into(), "1".into());
        }
        let mut gateways = docker.gateways();
        // Docker tells of no IPv4 gateway that it has chosen itself; the original was told.
        if let Ok(gateway) = self.gateway.parse::<IpNet>()
            && !gateways.iter().any(|gateway| gateway.addr().is_ipv4())
        {
            gateways.push(gateway);
        }
        if docker.internal {
            gateways.clear();
        }
        (CreateNetwork { network: id.clone(), generic, gateways, internal: docker.internal }, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    fn docker(json: &str) -> NetworkConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn docker_has_what_was_typed_and_the_file_what_came_of_it() {
        let file = config(
            r#"{"Version":0,"Netdevice":"ens2f0","Mode":"sriov","Subnet":"","Gateway":"194.168.1.1/24","vlan":100,"Privileged":true}"#,
        );
        let id = "0a".parse().unwrap();
        let known = docker(
            r#"{"Name":"red","Driver":"passthrough","Options":{"netdevice":"ens2f0","vlan":"100","privileged":"1","prefix":"net","rocehoplimit":"3"},
                "IPAM":{"Config":[{"Subnet":"194.168.1.0/24"}]}}"#,
        );
        let (request, notes) = file.request(&id, &known, false);
        assert_eq!(
            Value::Object(request.generic),
            serde_json::json!({"netdevice": "ens2f0", "vlan": "100", "privileged": "1", "prefix": "net", "mode": "sriov"})
        );
        assert_eq!(request.gateways, ["194.168.1.1/24".parse().unwrap()]);
        assert!(matches!(&notes[..], [note] if note.contains("rocehoplimit")), "{notes:?}");
        let known = docker(
            r#"{"Name":"red","Driver":"passthrough","Internal":true,"Options":{"netdevice":"ens2f1","mode":"passthrough","vlan":"7"},
                "IPAM":{"Config":[{"Subnet":"194.168.1.0/24","Gateway":"194.168.1.254"}]}}"#,
        );
        let (request, notes) = file.request(&id, &known, true);
        assert_eq!(
            Value::Object(request.generic),
            serde_json::json!({"netdevice": "ens2f1", "mode": "passthrough", "force": "1"})
        );
        assert!(request.gateways.is_empty() && request.internal);
        assert_eq!(notes.len(), 4, "{notes:?}");
    }
}
