//! Names that Docker has for what we know by id. Asked by the commands and by a task beside the calls,
//! never within a call: Docker holds locks then, and would not answer.
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::StatusCode;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use hyperlocal::UnixConnector;
use ipnet::IpNet;
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, de::DeserializeOwned};

use crate::state::{EndpointId, NetworkId};

/// An engine that is busy starting takes its time; one that hangs must not hang us.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where engines look for drivers' sockets (Docker's docs/extend/plugin_api.md), and have those of managed plugins below.
pub const PLUGINS: &str = "/run/docker/plugins";

/// A network of 1 000 containers is about 300 KiB.
const MAX_ANSWER: usize = 16 << 20;

/// Why Docker has no answer.
#[derive(Debug, thiserror::Error)]
#[error("Docker at {host}: {reason}")]
pub struct Error {
    host: String,
    reason: String,
}

/// A network, as Docker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkNames {
    /// The network's name.
    pub name: String,
    /// The containers, by their endpoints.
    pub containers: BTreeMap<EndpointId, Container>,
}

/// How a network was created, as Docker remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkConfig {
    /// The network's name.
    pub name: String,
    /// The driver's name.
    pub driver: String,
    /// `--internal`.
    #[serde(default)]
    pub internal: bool,
    /// What was typed after `-o`.
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPAM", default)]
    ipam: Ipam,
    #[serde(default)]
    containers: Option<BTreeMap<String, Attached>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    #[serde(default)]
    config: Option<Vec<Pool>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pool {
    #[serde(default)]
    subnet: String,
    #[serde(default)]
    gateway: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attached {
    #[serde(default)]
    name: String,
    #[serde(rename = "EndpointID", default)]
    endpoint: String,
}

impl NetworkConfig {
    /// What was typed after `-o`.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The gateways that were typed, or that this engine tells of, with their pools' prefix lengths.
    pub fn gateways(&self) -> Vec<IpNet> {
        let pools = self.ipam.config.iter().flatten();
        let gateways = pools.filter_map(|pool| {
            let subnet: IpNet = pool.subnet.parse().ok()?;
            // Old engines write the prefix length after it.
            let address = pool.gateway.split('/').next().unwrap_or_default().parse().ok()?;
            IpNet::new(address, subnet.prefix_len()).ok()
        });
        gateways.collect()
    }

    /// The containers that run on it, by name.
    pub fn users(&self) -> Vec<&str> {
        self.containers.iter().flatten().map(|(_, attached)| attached.name.as_str()).collect()
    }
}

/// A container, as Docker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What an engine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its version, `28.2.2`.
    pub version: String,
    /// How many containers run.
    pub running: u64,
    /// The drivers that it has networks of.
    pub network_drivers: BTreeSet<String>,
    /// Whether it is part of a swarm.
    pub swarm: bool,
    /// Its managed plugins that are this driver, and enabled.
    pub managed: Vec<Managed>,
}

/// This driver as a managed plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// What `docker network create -d` calls it: `passthrough:latest`.
    pub name: String,
    /// Where it answers.
    pub socket: PathBuf,
    /// Its state, as the host sees it.
    pub state_dir: PathBuf,
}

/// An engine's API, on a Unix socket.
#[derive(Clone, Debug)]
pub struct Docker {
    host: String,
    socket: PathBuf,
    client: Client<UnixConnector, Empty<Bytes>>,
}

impl Docker {
    /// `host` is `unix://PATH`, as in `DOCKER_HOST`. Nothing is opened yet.
    pub fn new(host: &str) -> Result<Self, Error> {
        let error = |reason: &str| Error { host: host.to_owned(), reason: reason.to_owned() };
        let socket = host
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
            .ok_or_else(|| error("must be unix:// and an absolute path, as the engine's -H option has it"))?;
        Ok(Self {
            host: host.to_owned(),
            socket: socket.into(),
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(UnixConnector),
        })
    }

    /// The process that made the engine's socket: itself, or systemd for it. None where it has no number in
    /// our PID namespace.
    pub fn process(&self) -> Option<i32> {
        let stream = UnixStream::connect(&self.socket).ok()?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
        Some(peer.pid()).filter(|pid| *pid != 0)
    }

    /// The network's names; none if Docker says that it has no such network.
    pub async fn network(&self, id: &NetworkId) -> Result<Option<NetworkNames>, Error> {
        #[derive(Deserialize)]
        struct Network {
            #[serde(rename = "Name")]
            name: String,
            #[serde(rename = "Containers", default)]
            containers: Option<BTreeMap<String, Attached>>,
        }
        let Some(network) = self.get::<Network>(&format!("/networks/{id}")).await? else { return Ok(None) };
        let containers = network.containers.unwrap_or_default().into_iter().filter_map(|(id, attached)| {
            Some((attached.endpoint.parse().ok()?, Container { id, name: attached.name }))
        });
        Ok(Some(NetworkNames { name: network.name, containers: containers.collect() }))
    }

    /// All networks' names, and their running containers': two questions, however many there are.
    pub async fn names(&self) -> Result<BTreeMap<NetworkId, NetworkNames>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Network {
            id: String,
            name: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Running {
            id: String,
            names: Vec<String>,
            network_settings: Settings,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Settings {
            networks: Option<BTreeMap<String, Endpoint>>,
        }
        #[derive(Deserialize)]
        struct Endpoint {
            #[serde(rename = "NetworkID")]
            network: String,
            #[serde(rename = "EndpointID")]
            endpoint: String,
        }
        let networks = self.get::<Vec<Network>>("/networks").await?.unwrap_or_default();
        // Another driver's network may have an id that is none to us.
        let networks = networks.into_iter().filter_map(|Network { id, name }| Some((id.parse().ok()?, name)));
        let mut all: BTreeMap<NetworkId, NetworkNames> =
            networks.map(|(id, name)| (id, NetworkNames { name, containers: BTreeMap::new() })).collect();
        // Who may not ask for containers has the networks' names all the same.
        let running = self.get::<Vec<Running>>("/containers/json").await.ok().flatten().unwrap_or_default();
        for running in running {
            // `/web`; where others link to it, `/other/web` besides.
            let name = running.names.iter().filter_map(|name| name.strip_prefix('/'));
            let Some(name) = name.into_iter().find(|name| !name.contains('/')) else { continue };
            for Endpoint { network, endpoint } in
                running.network_settings.networks.into_iter().flatten().map(|(_, it)| it)
            {
                let network = network.parse().ok().and_then(|network| all.get_mut(&network));
                if let (Some(network), Ok(endpoint)) = (network, endpoint.parse()) {
                    let container = Container { id: running.id.clone(), name: name.to_owned() };
                    network.containers.insert(endpoint, container);
                }
            }
        }
        Ok(all)
    }

    /// How the network was created; none if Docker says that it has no such network.
    pub async fn network_config(&self, id: &NetworkId) -> Result<Option<NetworkConfig>, Error> {
        self.get(&format!("/networks/{id}")).await
    }

    /// What the engine says of itself.
    pub async fn facts(&self) -> Result<EngineFacts, Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Info {
            server_version: String,
            docker_root_dir: PathBuf,
            containers_running: u64,
            swarm: Swarm,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Network {
            driver: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Swarm {
            local_node_state: String,
        }
        let info = self.get::<Info>("/info").await?.unwrap_or_default();
        let networks = self.get::<Vec<Network>>("/networks").await?.unwrap_or_default();
        Ok(EngineFacts {
            version: info.server_version,
            running: info.containers_running,
            network_drivers: networks.into_iter().map(|network| network.driver).collect(),
            swarm: !matches!(info.swarm.local_node_state.as_str(), "" | "inactive"),
            // What can't tell has none.
            managed: self.managed(&info.docker_root_dir).await.unwrap_or_default(),
        })
    }

    async fn managed(&self, root: &Path) -> Result<Vec<Managed>, Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Plugin {
            id: String,
            name: String,
            enabled: bool,
            config: Config,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Config {
            entrypoint: Option<Vec<PathBuf>>,
            interface: Interface,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Interface {
            socket: String,
        }
        let mut all = self.get::<Vec<Plugin>>("/plugins").await?.unwrap_or_default();
        all.retain(|plugin| {
            let program = plugin.config.entrypoint.iter().flatten().next();
            plugin.enabled && program.is_some_and(|program| program.ends_with("docker-passthrough"))
        });
        let found = all.into_iter().map(|Plugin { id, name, config, .. }| Managed {
            name,
            socket: Path::new(PLUGINS).join(&id).join(config.interface.socket),
            state_dir: root.join("plugins").join(id).join("propagated-mount"),
        });
        Ok(found.collect())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        let error = |reason: String| Error { host: self.host.clone(), reason };
        let uri = hyperlocal::Uri::new(&self.socket, path);
        let asked = async {
            let response = self.client.get(uri.into()).await.map_err(|failure| error(chain(&failure)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|failure| error(failure.to_string()))?.to_bytes();
            match status {
                StatusCode::OK => {
                    serde_json::from_slice(&body).map(Some).map_err(|failure| error(failure.to_string()))
                }
                // Another server's 404, a proxy's say, is none of Docker's own.
                StatusCode::NOT_FOUND if is_dockers(&body) => Ok(None),
                _ => Err(error(format!("{path}: {status}: {}", String::from_utf8_lossy(&body).trim()))),
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| Err(error(format!("{path}: no answer within {} s", PATIENCE.as_secs()))))
    }
}

/// `{"message":"network 0123 not found"}`
fn is_dockers(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let refusal: Result<Refusal, _> = serde_json::from_slice(body);
    refusal.is_ok_and(|refusal| refusal.message.contains("network") && refusal.message.contains("not found"))
}

/// hyper's errors keep their cause to themselves.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unix_socket() {
        assert!(Docker::new("unix:///var/run/docker.sock").is_ok());
        for bad in ["tcp://127.0.0.1:2375", "unix://docker.sock", ""] {
            assert!(Docker::new(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_there() {
        let docker = Docker::new("unix:///nonexistent/docker.sock").unwrap();
        let error = docker.network(&"0a".parse().unwrap()).await.unwrap_err().to_string();
        assert!(
            error.contains("unix:///nonexistent/docker.sock") && error.contains("No such file"),
            "{error}"
        );
    }
}
