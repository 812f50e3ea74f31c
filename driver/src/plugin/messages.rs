//! The calls and their answers, as moby's libnetwork/drivers/remote/api has them.
//!
//! Fields that we have no use for are not listed, and are ignored: engines add some with every version.
use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    device::Mac,
    network::{self, Joined},
    state::{EndpointId, NetworkId},
};

/// Key of the user's `-o` options among a network's.
const GENERIC: &str = "com.docker.network.generic";
/// Key of `--internal`.
const INTERNAL: &str = "com.docker.network.internal";

/// Docker reads a request's body from a stream. When it asks again, as a driver ended under a call, nothing of it is
/// left (moby's pkg/plugins/client.go, `callWithRetry`).
const EMPTY: &str = "the body is empty, as it is when Docker asks again after a driver that ended during the call; \
                     what was begun is undone: try again";

/// Reads a body; the error names the field, such as `IPv4Data[0].Gateway`.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.is_empty() {
        return Err(EMPTY.into());
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." {
            format!("malformed body: {reason}")
        } else {
            format!("malformed body: {path}: {reason}")
        }
    })?;
    json.end().map_err(|error| format!("malformed body: {error}"))?;
    Ok(value)
}

/// `null` is what Go writes for an empty list or map.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Docker writes an empty string for what is not set.
fn if_set<'de, D: Deserializer<'de>, T>(from: D) -> Result<Option<T>, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text: Option<String> = Option::deserialize(from)?;
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}"))))
        .transpose()
}

/// One pool of a network.
#[derive(Debug, Deserialize)]
pub struct IpamData {
    /// Address of the gateway, with the pool's prefix length.
    #[serde(rename = "Gateway", default, deserialize_with = "if_set")]
    gateway: Option<IpNet>,
}

/// `NetworkDriver.CreateNetwork`
#[derive(Debug, Deserialize)]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    network: NetworkId,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: Map<String, Value>,
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "or_default")]
    ipv6: Vec<IpamData>,
}

impl CreateNetwork {
    /// In the network room's words.
    pub fn into_request(mut self) -> Result<network::CreateNetwork, String> {
        let generic = match self.options.remove(GENERIC) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(generic)) => generic,
            Some(other) => {
                return Err(format!("malformed body: Options.{GENERIC}: {other} is not an object"));
            }
        };
        Ok(network::CreateNetwork {
            network: self.network,
            generic,
            gateways: self.ipv4.into_iter().chain(self.ipv6).filter_map(|data| data.gateway).collect(),
            internal: is_internal(&self.options),
        })
    }
}

fn is_internal(options: &Map<String, Value>) -> bool {
    options.get(INTERNAL).and_then(Value::as_bool).unwrap_or(false)
}

/// `NetworkDriver.DeleteNetwork`
#[derive(Debug, Deserialize)]
pub struct DeleteNetwork {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
}

/// Addresses of an endpoint. Docker sets the IP addresses itself.
#[derive(Debug, Default, Deserialize)]
pub struct Interface {
    #[serde(rename = "MacAddress", default, deserialize_with = "if_set")]
    mac: Option<Mac>,
}

/// `NetworkDriver.CreateEndpoint`
#[derive(Debug, Deserialize)]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    network: NetworkId,
    #[serde(rename = "EndpointID")]
    endpoint: EndpointId,
    #[serde(rename = "Interface", default, deserialize_with = "or_default")]
    interface: Interface,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: Map<String, Value>,
}

impl CreateEndpoint {
    /// In the network room's words.
    pub fn into_request(self) -> Result<network::CreateEndpoint, String> {
        // `--driver-opt` of a container is a key among Docker's own.
        let vf = match self.options.get("vf") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(text.parse().map_err(|_| format!("vf={text}: is no number of a VF"))?)
            }
            Some(other) => return Err(format!("vf={other}: must be the number of a VF, from 0")),
        };
        Ok(network::CreateEndpoint {
            network: self.network,
            endpoint: self.endpoint,
            mac: self.interface.mac,
            vf,
        })
    }
}

/// `NetworkDriver.DeleteEndpoint`, `Leave`, `EndpointOperInfo`, `ProgramExternalConnectivity` and
/// `RevokeExternalConnectivity`
#[derive(Debug, Deserialize)]
pub struct OneEndpoint {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint: EndpointId,
}

/// `NetworkDriver.Join`
#[derive(Debug, Deserialize)]
pub struct Join {
    /// The network.
    #[serde(rename = "NetworkID")]
    pub network: NetworkId,
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint: EndpointId,
    /// Path of the container's network namespace; before engine 28 it does not exist yet.
    #[serde(rename = "SandboxKey")]
    pub sandbox: PathBuf,
}

/// `NetworkDriver.GwAllocCheck`, engine 28 and newer
#[derive(Debug, Deserialize)]
pub struct GwAllocCheck {
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: Map<String, Value>,
}

/// Whether Docker may leave out reserving an address for the gateway.
#[derive(Debug, Serialize)]
pub struct GwAllocChecked {
    #[serde(rename = "SkipIPv4")]
    skip_ipv4: bool,
    #[serde(rename = "SkipIPv6")]
    skip_ipv6: bool,
}

impl From<GwAllocCheck> for GwAllocChecked {
    fn from(call: GwAllocCheck) -> Self {
        // An internal network has no way out.
        let skip = is_internal(&call.options);
        Self { skip_ipv4: skip, skip_ipv6: skip }
    }
}

/// Answer to `NetworkDriver.CreateEndpoint`. Only what the call left empty may be filled.
#[derive(Debug, Serialize)]
pub struct EndpointCreated {
    #[serde(rename = "Interface")]
    interface: InterfaceMac,
}

#[derive(Debug, Serialize)]
struct InterfaceMac {
    #[serde(rename = "MacAddress", skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
}

impl EndpointCreated {
    /// `asked` is the address that the call named.
    pub fn new(asked: Option<Mac>, has: Option<Mac>) -> Self {
        Self { interface: InterfaceMac { mac: has.filter(|_| asked.is_none()) } }
    }
}

/// Answer to `NetworkDriver.Join`.
#[derive(Debug, Serialize)]
pub struct JoinAnswer {
    #[serde(rename = "InterfaceName")]
    name: InterfaceName,
    #[serde(rename = "Gateway")]
    gateway: String,
    #[serde(rename = "GatewayIPv6")]
    gateway_ipv6: String,
    #[serde(rename = "StaticRoutes")]
    routes: [(); 0],
    /// Without it, Docker gives a container without a gateway a second interface, on `docker_gwbridge`.
    #[serde(rename = "DisableGatewayService")]
    disable_gateway_service: bool,
}

#[derive(Debug, Serialize)]
struct InterfaceName {
    #[serde(rename = "SrcName")]
    source: String,
    #[serde(rename = "DstPrefix")]
    prefix: String,
}

impl From<Joined> for JoinAnswer {
    fn from(joined: Joined) -> Self {
        let Joined { netdev, prefix, gateway, gateway_ipv6 } = joined;
        let text = |gateway: Option<IpAddr>| gateway.map(|ip| ip.to_string()).unwrap_or_default();
        Self {
            name: InterfaceName { source: netdev, prefix },
            gateway: text(gateway),
            gateway_ipv6: text(gateway_ipv6),
            routes: [],
            disable_gateway_service: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engine_26_sends() {
        let body = br#"{"NetworkID":"0a","Options":{"com.docker.network.enable_ipv6":false,
            "com.docker.network.generic":{"mode":"passthrough","netdevice":"veth0"}},
            "IPv4Data":[{"AddressSpace":"LocalDefault","Gateway":"194.168.1.1/24","Pool":"194.168.1.0/24"}],
            "IPv6Data":[]}"#;
        let request = decode::<CreateNetwork>(body).unwrap().into_request().unwrap();
        assert_eq!(request.generic["netdevice"], "veth0");
        assert_eq!(request.gateways, ["194.168.1.1/24".parse().unwrap()]);
        assert!(!request.internal);
    }

    #[test]
    fn each_error_names_the_field() {
        for (body, words) in [
            (&b""[..], "body is empty"),
            (b"{", "malformed body"),
            (b"{}", "missing field `NetworkID`"),
            (b"{\"NetworkID\":\"../../victim\"}", "NetworkID"),
            (b"{\"NetworkID\":\"0a\",\"IPv4Data\":[null]}", "IPv4Data[0]"),
            (b"{\"NetworkID\":\"0a\",\"IPv4Data\":[{\"Gateway\":\"x\"}]}", "IPv4Data[0].Gateway"),
            (b"{\"NetworkID\":\"0a\"} x", "trailing"),
        ] {
            let error = decode::<CreateNetwork>(body).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let error = decode::<CreateEndpoint>(
            br#"{"NetworkID":"0a","EndpointID":"0b","Interface":{"MacAddress":"zz"}}"#,
        );
        assert!(error.unwrap_err().contains("Interface.MacAddress"));
    }

    #[test]
    fn nulls_are_what_go_writes_for_nothing() {
        let body = br#"{"NetworkID":"0a","Options":null,"IPv4Data":null,"IPv6Data":null}"#;
        assert!(decode::<CreateNetwork>(body).unwrap().into_request().unwrap().generic.is_empty());
        let body = br#"{"NetworkID":"0a","EndpointID":"0b","Interface":null}"#;
        assert!(decode::<CreateEndpoint>(body).is_ok());
    }

    #[test]
    fn only_empty_fields_are_filled() {
        let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
        let json = |asked, has| serde_json::to_string(&EndpointCreated::new(asked, has)).unwrap();
        assert_eq!(json(None, Some(mac)), r#"{"Interface":{"MacAddress":"02:42:ac:11:00:02"}}"#);
        assert_eq!(json(Some(mac), Some(mac)), r#"{"Interface":{}}"#);
        assert_eq!(json(None, None), r#"{"Interface":{}}"#);
    }
}
