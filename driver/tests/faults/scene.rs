//! A driver, hardware that has to be afterwards what it was, and a container's life as far as one call.
use std::{fs, io, sync::OnceLock};

use serde_json::{Value, json};

use crate::support::{
    command, docker_id,
    driver::{Driver, entries},
    eventually,
    http::{self, Answer},
    netns::Netns,
    simulated,
};

use super::{docker::Docker, plan::Plan};

/// What is handed out: a whole netdev, a VF, or what one is made of.
pub trait Hardware {
    /// All that anybody could notice of it; none while it is not there.
    fn look(&self) -> Option<String>;
    /// `-o` of its network.
    fn options(&self) -> Value;
    /// `--driver-opt` of a container.
    fn wish(&self) -> Value {
        json!({})
    }
    /// The MAC that its container asks for.
    fn mac(&self) -> String;
    /// The netdev that Docker is to move for this endpoint.
    fn netdev(&self, endpoint: &str) -> String;
    /// Panics unless a container that has its netdev as `eth0` has it as the options say.
    fn check(&self, netns: &Netns);
}

/// A call that goes wrong, and what was before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    CreateNetwork,
    CreateEndpoint,
    Join,
    /// `DeleteEndpoint`, of a container that Docker has taken the netdev out of.
    DeleteMoved,
    /// The same, and it never got the netdev.
    DeleteUnmoved,
    /// The same, and it has renamed the netdev, so that Docker did not find it.
    DeleteAway,
    DeleteNetwork,
    /// `DeleteNetwork`, and a container still has the netdev.
    DeleteNetworkInUse,
}

impl Call {
    /// All that change anything.
    pub const ALL: [Self; 8] = [
        Self::CreateNetwork,
        Self::CreateEndpoint,
        Self::Join,
        Self::DeleteMoved,
        Self::DeleteUnmoved,
        Self::DeleteAway,
        Self::DeleteNetwork,
        Self::DeleteNetworkInUse,
    ];
}

/// What becomes of one call after another.
pub struct Stage<H> {
    pub driver: Driver,
    pub docker: Docker,
    pub plan: Plan,
    pub hardware: H,
    before: String,
}

/// One network on the stage, and its container.
pub struct Scene<'a, H> {
    pub stage: &'a Stage<H>,
    pub call: Call,
    pub network: String,
    pub endpoint: String,
    pub netns: Netns,
    /// What it got.
    netdev: OnceLock<String>,
}

/// What a call says that was not done in time.
const LATE: [&str; 4] = [
    "not done within",
    "not done in time",
    "no answer from the kernel within",
    "has not taken the request within",
];

/// The name Docker gives to the first netdev.
pub const INSIDE: &str = "eth0";

impl<H: Hardware> Stage<H> {
    /// A driver that serves, beside an engine that knows no better.
    #[track_caller]
    pub fn on(hardware: H) -> Self {
        let docker = Docker::start();
        let driver = Driver::stopped(&docker.host());
        let plan = Plan::of(&driver);
        let before = hardware.look().expect("the hardware");
        let stage = Self { driver, docker, plan, hardware, before };
        stage.serve();
        stage
    }

    /// Starts the driver, which looks at all endpoints then, and not again of its own accord.
    #[track_caller]
    pub fn serve(&self) {
        self.driver.serve_with(&["--look", "86400"]);
    }

    /// Waits until the hardware is the host's, as it was, and nothing of an endpoint is left.
    #[track_caller]
    pub fn assert_clean(&self) {
        eventually("the hardware is as it was, and nobody has it", || self.is_clean());
    }

    /// Whether it is, or what is not.
    pub fn is_clean(&self) -> Result<(), String> {
        let (state, pins) = (self.on_disk(), entries(&self.driver.bpffs));
        let mut networks = state["networks"].as_object().into_iter().flatten();
        let endpoints = networks.any(|(_, n)| n["endpoints"].as_object().is_some_and(|e| !e.is_empty()));
        let now = self.hardware.look();
        if now.as_ref() == Some(&self.before) && !endpoints && pins.is_empty() {
            return Ok(());
        }
        let now = now.unwrap_or_default();
        Err(format!("{now}\nnot {}\npins {pins:?}\n{state:#}", self.before))
    }

    /// A call that has to succeed. A machine that is busy with others may make it late: Docker's user tries
    /// again.
    #[track_caller]
    pub fn done(&self, call: &str, body: &Value) {
        eventually("the call succeeds", || match self.driver.call(call, body) {
            Err(complaint) if LATE.iter().any(|late| complaint.contains(late)) => Err(complaint),
            Err(complaint) => panic!("{call} {body}: {complaint}"),
            Ok(_) => Ok(()),
        });
    }

    /// What is on the disk.
    pub fn on_disk(&self) -> Value {
        let file = fs::read(self.driver.state_dir.join("state.json")).unwrap_or_default();
        serde_json::from_slice(&file).unwrap_or(Value::Null)
    }

    /// Docker tried again for a quarter of a minute, and has given up by the time that the driver is back.
    pub fn docker_gave_up(&self) {
        let mut state = self.on_disk();
        for network in state["networks"].as_object_mut().into_iter().flatten().map(|(_, network)| network) {
            let endpoints = network["endpoints"].as_object_mut().into_iter().flatten();
            for endpoint in endpoints.map(|(_, endpoint)| endpoint) {
                earlier(&mut endpoint["created"]);
                if !endpoint["joined"].is_null() {
                    earlier(&mut endpoint["joined"]);
                }
            }
            earlier(&mut network["created"]);
        }
        if !state.is_null() {
            fs::write(self.driver.state_dir.join("state.json"), state.to_string()).expect("the state file");
        }
    }
}

fn earlier(created: &mut Value) {
    *created = json!(created.as_u64().expect("seconds") - 45);
}

impl<'a, H: Hardware> Scene<'a, H> {
    /// A new network and a new container, as they are before the call.
    #[track_caller]
    pub fn before(stage: &'a Stage<H>, call: Call) -> Self {
        let scene = Self::new(stage, call, docker_id());
        let driver = &stage.driver;
        if call != Call::CreateNetwork {
            stage.done("CreateNetwork", &scene.create_network());
        }
        match call {
            Call::CreateNetwork | Call::CreateEndpoint | Call::DeleteNetwork => {}
            Call::Join => _ = driver.done("CreateEndpoint", &scene.create_endpoint()),
            Call::DeleteUnmoved => scene.join(),
            Call::DeleteMoved => {
                scene.run();
                scene.leave();
            }
            Call::DeleteAway | Call::DeleteNetworkInUse => {
                scene.run();
                scene.netns.ip("link set eth0 name evil0");
                scene.leave();
            }
        }
        scene
    }

    /// A new network, and a container that runs.
    #[track_caller]
    pub fn living(stage: &'a Stage<H>) -> Self {
        let scene = Self::new(stage, Call::DeleteMoved, docker_id());
        stage.done("CreateNetwork", &scene.create_network());
        scene.run();
        scene
    }

    fn new(stage: &'a Stage<H>, call: Call, network: String) -> Self {
        let endpoint = docker_id();
        let netns = Netns::new(format!("c{}", &endpoint[..8]));
        // Its multicast reports would be counted, and lost if the link goes down that moment.
        netns.run("busybox sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
        Self { stage, call, network, endpoint, netns, netdev: OnceLock::new() }
    }

    /// Another container of the same network.
    pub fn another(self) -> Self {
        Self::new(self.stage, self.call, self.network)
    }

    /// Another network, and its container.
    pub fn elsewhere(self) -> Self {
        Self::new(self.stage, self.call, docker_id())
    }

    /// The call.
    pub fn request(&self) -> (&'static str, Value) {
        match self.call {
            Call::CreateNetwork => ("CreateNetwork", self.create_network()),
            Call::CreateEndpoint => ("CreateEndpoint", self.create_endpoint()),
            Call::Join => ("Join", self.join_body()),
            Call::DeleteMoved | Call::DeleteUnmoved | Call::DeleteAway => ("DeleteEndpoint", self.ids()),
            Call::DeleteNetwork | Call::DeleteNetworkInUse => {
                ("DeleteNetwork", json!({"NetworkID": self.network}))
            }
        }
    }

    /// Makes the call once.
    pub fn ask(&self) -> io::Result<Answer> {
        let (call, body) = self.request();
        let path = format!("/NetworkDriver.{call}");
        http::request(&self.stage.driver.socket, "POST", &path, body.to_string().as_bytes())
    }

    /// The container ends, and what is still in it comes home as hardware does.
    pub fn end_container(&self) {
        let line = format!("-n {} link set evil0 netns 1", self.netns.name());
        let _ = command::attempt("ip", &line.split(' ').collect::<Vec<_>>());
    }

    /// Makes the call, which has to succeed.
    #[track_caller]
    pub fn done(&self) {
        let (call, body) = self.request();
        self.stage.done(call, &body);
    }

    /// What comes after the call, to the end of the network, at which nothing may be left.
    #[track_caller]
    pub fn live_on(self) {
        match self.call {
            Call::CreateNetwork | Call::CreateEndpoint => self.run(),
            Call::Join => self.run_joined(),
            _ => {
                self.stage.assert_clean();
                return self.end();
            }
        }
        self.leave();
        self.stage.done("DeleteEndpoint", &self.ids());
        self.end();
    }

    /// The end of the network.
    #[track_caller]
    pub fn end(self) {
        self.stage.done("DeleteEndpoint", &self.ids());
        self.stage.done("DeleteNetwork", &json!({"NetworkID": self.network}));
        self.stage.assert_clean();
        assert_eq!(self.stage.on_disk()["networks"], json!({}));
    }

    pub fn create_network(&self) -> Value {
        simulated::network(&self.network, &self.stage.hardware.options())
    }

    fn create_endpoint(&self) -> Value {
        let hardware = &self.stage.hardware;
        let mut body = simulated::endpoint(&self.network, &self.endpoint, &hardware.mac());
        for (key, value) in hardware.wish().as_object().into_iter().flatten() {
            body["Options"][key] = value.clone();
        }
        body
    }

    /// The body of the operations that need no more.
    pub fn ids(&self) -> Value {
        simulated::ids(&self.network, &self.endpoint)
    }

    /// The body of `Join`.
    pub fn join_body(&self) -> Value {
        simulated::join(&self.network, &self.endpoint, &self.netns)
    }

    fn join(&self) {
        self.stage.done("CreateEndpoint", &self.create_endpoint());
        self.stage.done("Join", &self.join_body());
    }

    /// As far as a container that has done to its netdev what it can.
    fn run(&self) {
        self.join();
        self.run_joined();
    }

    fn run_joined(&self) {
        let netdev = self.stage.hardware.netdev(&self.endpoint);
        let netdev = self.netdev.get_or_init(|| netdev);
        let (netns, mac) = (&self.netns, self.stage.hardware.mac());
        let out = [format!("link set {netdev} down"), format!("link set {netdev} netns {}", netns.name())];
        command::ip_batch(None, &out).expect("a netdev to move");
        let inside = [
            format!("link set {netdev} name {INSIDE}"),
            format!("link set {INSIDE} address {mac}"),
            format!("link set {INSIDE} up"),
        ];
        command::ip_batch(Some(&netns.path()), &inside).expect("a netdev that can go up");
        self.stage.hardware.check(netns);
        let misdeeds = [
            format!("link set {INSIDE} alias evil mtu 1000 txqueuelen 5 promisc on"),
            // The kernel moves no netdev to where one of its names is taken.
            format!("link property add dev {INSIDE} altname evil-{netdev}"),
        ];
        command::ip_batch(Some(&netns.path()), &misdeeds).expect("a container may");
    }

    /// The container ends; what it has renamed is not found.
    pub fn leave(&self) {
        let driver = &self.stage.driver;
        driver.done("RevokeExternalConnectivity", &self.ids());
        driver.done("Leave", &self.ids());
        let Some(netdev) = self.netdev.get() else { return };
        let steps = [
            format!("link set {INSIDE} down"),
            format!("link set {INSIDE} name {netdev}"),
            format!("link set {netdev} netns 1"),
        ];
        let _ = command::ip_batch(Some(&self.netns.path()), &steps);
    }
}
