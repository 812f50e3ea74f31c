//! A driver, a NIC with everything on it that has to come back, and a container's life as far as one call.
use std::{fs, io};

use serde_json::{Value, json};

use crate::support::{
    command, docker_id,
    driver::{Driver, entries},
    eventually,
    http::{self, Answer},
    look::Look,
    nic::Nic,
    simulated::{self, Container},
};

use super::{docker::Docker, plan::Plan};

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

/// What becomes of one call after another.
pub struct Stage {
    pub driver: Driver,
    pub docker: Docker,
    pub plan: Plan,
    pub nic: Nic,
    before: (Look, String),
}

/// One network on the stage, and its container.
pub struct Scene<'a> {
    pub stage: &'a Stage,
    pub call: Call,
    pub network: String,
    pub container: Container<'a>,
}

/// The MAC that containers ask for.
const MAC: &str = "02:42:0a:40:00:17";

impl Stage {
    /// A driver that serves, and a NIC whose every trait has to be restored.
    #[track_caller]
    pub fn new() -> Self {
        let docker = Docker::start();
        let driver = Driver::stopped(&docker.host());
        let (plan, nic) = (Plan::of(&driver), Nic::new());
        let name = &nic.name;
        command::ip(&format!("link set {name} up alias uplink mtu 1400 txqueuelen 777"));
        command::ip(&format!("link property add dev {name} altname {name}-alt"));
        command::ip(&format!("addr add {}/24 dev {name}", nic.near4(9)));
        command::ip(&format!("route add 198.51.100.0/24 via {} metric 4{}", nic.far4(), &name[3..]));
        let before = look(&nic).expect("a NIC");
        let stage = Self { driver, docker, plan, nic, before };
        stage.serve();
        stage
    }

    /// Starts the driver, which looks at all endpoints then, and not again of its own accord.
    #[track_caller]
    pub fn serve(&self) {
        self.driver.serve_with(&["--look", "86400"]);
    }

    /// Waits until the NIC is the host's, as it was, and nothing of an endpoint is left.
    #[track_caller]
    pub fn assert_clean(&self) {
        eventually("the NIC is as it was, and nobody has it", || {
            let now = look(&self.nic);
            let (state, pins) = (self.on_disk(), entries(&self.driver.bpffs));
            let mut networks = state["networks"].as_object().into_iter().flatten();
            let endpoints = networks.any(|(_, n)| n["endpoints"].as_object().is_some_and(|e| !e.is_empty()));
            if now.as_ref() == Some(&self.before) && !endpoints && pins.is_empty() {
                Ok(())
            } else {
                Err(format!("{now:?}\nnot {:?}\npins {pins:?}\n{state:#}", self.before))
            }
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

/// Everything of a NIC at home, its routes and its qdiscs too.
fn look(nic: &Nic) -> Option<(Look, String)> {
    let look = nic.look()?;
    let routes = command::attempt("ip", &["route", "show", "dev", &nic.name, "198.51.100.0/24"]).ok()?;
    let qdiscs = command::attempt("tc", &["qdisc", "show", "dev", &nic.name]).ok()?;
    Some((look, format!("{}; {qdiscs}", routes.replace(" linkdown", "").trim())))
}

impl<'a> Scene<'a> {
    /// A new network and a new container, as they are before the call.
    #[track_caller]
    pub fn before(stage: &'a Stage, call: Call) -> Self {
        let network = docker_id();
        let container = Container::unknown(&stage.driver, &stage.nic, &network);
        let scene = Self { stage, call, network, container };
        let driver = &stage.driver;
        if call != Call::CreateNetwork {
            driver.done("CreateNetwork", &scene.create_network());
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
                scene.container.netns.ip("link set eth0 name evil0");
                scene.leave();
            }
        }
        scene
    }

    /// Another container of the same network.
    pub fn another(self) -> Self {
        let container = Container::unknown(&self.stage.driver, &self.stage.nic, &self.network);
        Self { container, ..self }
    }

    /// The same container and another network.
    pub fn elsewhere(self) -> Self {
        let network = docker_id();
        let container = Container::unknown(&self.stage.driver, &self.stage.nic, &network);
        Self { network, container, ..self }
    }

    /// The call.
    pub fn request(&self) -> (&'static str, Value) {
        match self.call {
            Call::CreateNetwork => ("CreateNetwork", self.create_network()),
            Call::CreateEndpoint => ("CreateEndpoint", self.create_endpoint()),
            Call::Join => ("Join", self.container.join_body()),
            Call::DeleteMoved | Call::DeleteUnmoved | Call::DeleteAway => {
                ("DeleteEndpoint", self.container.ids())
            }
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
        let line = format!("-n {} link set evil0 netns 1", self.container.netns.name());
        let _ = command::attempt("ip", &line.split(' ').collect::<Vec<_>>());
    }

    /// Makes the call, which has to succeed.
    #[track_caller]
    pub fn done(&self) {
        let (call, body) = self.request();
        self.stage.driver.done(call, &body);
    }

    /// What comes after the call, to the end of the network, at which nothing may be left.
    #[track_caller]
    pub fn live_on(self) {
        let driver = &self.stage.driver;
        match self.call {
            Call::CreateNetwork | Call::CreateEndpoint => self.run(),
            Call::Join => self.run_joined(),
            _ => {
                self.stage.assert_clean();
                return self.end();
            }
        }
        self.leave();
        driver.done("DeleteEndpoint", &self.container.ids());
        self.end();
    }

    /// The end of the network.
    #[track_caller]
    pub fn end(self) {
        let driver = &self.stage.driver;
        driver.done("DeleteEndpoint", &self.container.ids());
        driver.done("DeleteNetwork", &json!({"NetworkID": self.network}));
        self.stage.assert_clean();
        assert_eq!(self.stage.on_disk()["networks"], json!({}));
    }

    pub fn create_network(&self) -> Value {
        let options = json!({"netdevice": self.stage.nic.name, "force": "1", "mtu": "1300"});
        simulated::network(&self.network, &options)
    }

    pub fn create_endpoint(&self) -> Value {
        simulated::endpoint(&self.network, &self.container.endpoint, MAC)
    }

    fn join(&self) {
        self.stage.driver.done("CreateEndpoint", &self.create_endpoint());
        self.container.join();
    }

    /// As far as a container that has done to its netdev what it can.
    fn run(&self) {
        self.join();
        self.run_joined();
    }

    fn run_joined(&self) {
        self.container.move_in();
        self.stage.nic.ping(&self.stage.nic.near4(2), 1);
        let netns = &self.container.netns;
        netns.ip("link set eth0 alias evil mtu 1000 txqueuelen 5 promisc on");
        // The kernel moves no netdev to where one of its names is taken.
        netns.ip(&format!("link property add dev eth0 altname evil-{}", self.stage.nic.name));
    }

    fn leave(&self) {
        self.container.leave();
        self.container.move_out();
    }
}
