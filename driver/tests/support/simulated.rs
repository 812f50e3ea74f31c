//! What the engine does with a driver and a netdev, without an engine.
use serde_json::{Value, json};

use super::{command, docker_id, driver::Driver, look::Look, netns::Netns, nic::Nic};

/// The body of `CreateNetwork`.
pub fn network(id: &str, options: &Value) -> Value {
    json!({
        "NetworkID": id,
        "Options": {
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": options,
        },
        "IPv4Data": [{
            "AddressSpace": "LocalDefault",
            "Gateway": "10.64.0.1/24",
            "Pool": "10.64.0.0/24",
        }],
        "IPv6Data": [],
    })
}

/// Makes a network in passthrough mode on a NIC, and returns its id.
#[track_caller]
pub fn create_network(driver: &Driver, nic: &Nic) -> String {
    create_network_with(driver, &json!({"netdevice": nic.name}))
}

/// Makes a network with these options, and returns its id.
#[track_caller]
pub fn create_network_with(driver: &Driver, options: &Value) -> String {
    let id = docker_id();
    driver.done("CreateNetwork", &network(&id, options));
    id
}

/// The body of `CreateEndpoint`.
pub fn endpoint(network: &str, id: &str, mac: &str) -> Value {
    json!({
        "NetworkID": network,
        "EndpointID": id,
        "Interface": {"Address": "10.64.0.2/24", "AddressIPv6": "", "MacAddress": mac},
        "Options": {"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": []},
    })
}

/// The body of the operations that need no more.
pub fn ids(network: &str, endpoint: &str) -> Value {
    json!({"NetworkID": network, "EndpointID": endpoint})
}

/// The body of `Join`.
pub fn join(network: &str, endpoint: &str, netns: &Netns) -> Value {
    let mut body = ids(network, endpoint);
    body["SandboxKey"] = json!(netns.path());
    body["Options"] = json!({});
    body
}

/// A container, as far as a network driver can tell.
pub struct Container<'a> {
    driver: &'a Driver,
    nic: &'a Nic,
    /// The ids of the endpoint.
    pub network: String,
    pub endpoint: String,
    /// What is inside.
    pub netns: Netns,
}

impl<'a> Container<'a> {
    /// The name Docker gives to the first netdev.
    pub const INSIDE: &'static str = "eth0";

    /// As far as `CreateEndpoint`.
    #[track_caller]
    pub fn create(driver: &'a Driver, nic: &'a Nic, network: &str) -> Self {
        let container = Self::unknown(driver, nic, network);
        driver.done("CreateEndpoint", &endpoint(network, &container.endpoint, ""));
        container
    }

    /// One that the driver has not heard of.
    #[track_caller]
    pub fn unknown(driver: &'a Driver, nic: &'a Nic, network: &str) -> Self {
        let id = docker_id();
        let netns = Netns::new(format!("c{}", &id[..8]));
        // Its multicast reports would be counted, and lost if the link goes down that moment.
        netns.run("busybox sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
        Self { driver, nic, network: network.to_owned(), endpoint: id, netns }
    }

    /// As far as a process in it could use the netdev.
    #[track_caller]
    pub fn start(driver: &'a Driver, nic: &'a Nic, network: &str) -> Self {
        let container = Self::create(driver, nic, network);
        container.join();
        container.move_in();
        driver.done("ProgramExternalConnectivity", &container.ids());
        container
    }

    /// The body of the operations that need no more.
    pub fn ids(&self) -> Value {
        ids(&self.network, &self.endpoint)
    }

    /// `Join`, and its answer.
    #[track_caller]
    pub fn join(&self) -> Value {
        self.driver.done("Join", &self.join_body())
    }

    /// The body of `Join`.
    pub fn join_body(&self) -> Value {
        join(&self.network, &self.endpoint, &self.netns)
    }

    /// What the engine, or its runtime's hook, does after `Join`.
    #[track_caller]
    pub fn move_in(&self) {
        let (nic, inside) = (&self.nic.name, Self::INSIDE);
        command::ip(&format!("link set {nic} down"));
        command::ip(&format!("link set {nic} netns {}", self.netns.name()));
        self.netns.ip(&format!("link set {nic} name {inside}"));
        self.netns.ip(&format!("addr add {}/24 dev {inside}", self.nic.near4(2)));
        self.netns.ip(&format!("link set {inside} up"));
    }

    /// What the engine does when the container ends, as far as the answer to `Leave`.
    #[track_caller]
    pub fn leave(&self) {
        self.driver.done("RevokeExternalConnectivity", &self.ids());
        self.driver.done("Leave", &self.ids());
    }

    /// What it does after `Leave`: it puts up with every failure.
    pub fn move_out(&self) {
        let (nic, inside) = (&self.nic.name, Self::INSIDE);
        let steps = [
            format!("link set {inside} down"),
            format!("link set {inside} name {nic}"),
            format!("link set {nic} netns 1"),
        ];
        for step in steps {
            let line = format!("-n {} {step}", self.netns.name());
            if command::attempt("ip", &line.split(' ').collect::<Vec<_>>()).is_err() {
                return;
            }
        }
    }

    /// The whole end of a container.
    #[track_caller]
    pub fn stop(self) {
        self.leave();
        self.move_out();
        self.driver.done("DeleteEndpoint", &self.ids());
    }

    /// How a process in it sees the netdev, under the name it should have.
    pub fn look(&self) -> Option<Look> {
        Look::at(&self.netns.place(), Self::INSIDE)
    }
}
