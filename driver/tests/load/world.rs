//! Two NICs, their networks and containers, as an engine that is never sure sees them, and what must hold.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Mutex,
};

use serde_json::{Value, json};

use crate::support::{
    command, docker_id,
    driver::Driver,
    eventually,
    look::Look,
    netns::Netns,
    nic::{Nic, Traffic},
    simulated,
};

/// How many NICs there are.
pub const NICS: usize = 2;

/// What can happen. Each is to a NIC, its network and its container, and nothing if they are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All that the engine does until a container runs, as far as it is not done yet.
    Start,
    CreateNetwork,
    DeleteNetwork,
    CreateEndpoint,
    Join,
    /// The engine moves the netdev into the container.
    MoveIn,
    Ping,
    /// The container renames it.
    Rename,
    /// The container gives it another MAC.
    ChangeMac,
    /// The container moves it into a namespace of its own.
    Nest,
    Leave,
    /// The engine moves it back, if it finds it.
    MoveOut,
    DeleteEndpoint,
    /// The container is killed: the kernel gives the netdev back, under the name that it had in there.
    Die,
    /// The netdev is pulled out.
    Destroy,
    /// The driver is killed with -9, and started.
    Kill,
    /// The driver is ended in good order, and started.
    Restart,
    /// The driver is killed, its state file lost, and it is started.
    LoseState,
}

/// A container's endpoint.
struct Endpoint {
    id: String,
    network: String,
    netns: Netns,
    nested: Option<Netns>,
    joined: bool,
    /// It has a MAC of the container's own: what it sends is dropped.
    spoofs: bool,
    /// Where the netdev is, and what it is called there.
    place: Where,
    /// The driver may have ended it by itself, or forgotten it with the state file.
    uncertain: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Where {
    Home(String),
    Inside(String),
    Nested(String),
    Nowhere,
}

struct Slot {
    nic: Nic,
    before: Look,
    network: Option<String>,
    endpoint: Option<Endpoint>,
    /// The state file was lost under it: its MAC went with that.
    forgotten: bool,
}

/// All of it.
pub struct World {
    driver: Driver,
    slots: Vec<Slot>,
    /// The most that was ever counted for an endpoint.
    counted: BTreeMap<String, Traffic>,
}

/// Those that came through a world as they were.
static SPARE: Mutex<Vec<Nic>> = Mutex::new(Vec::new());

impl World {
    pub fn new() -> Self {
        let spare = || SPARE.lock().ok().and_then(|mut spare| spare.pop());
        let slots = (0..NICS).map(|_| {
            let nic = spare().unwrap_or_else(Nic::new);
            let before = nic.look().expect("a NIC on the host");
            Slot { nic, before, network: None, endpoint: None, forgotten: false }
        });
        Self { slots: slots.collect(), driver: Driver::start(), counted: BTreeMap::new() }
    }

    /// Has something happen, and panics unless everything is as it must be afterwards.
    pub fn take(&mut self, step: Step, at: usize) {
        match step {
            Step::Kill => {
                self.driver.kill();
                self.driver.serve();
            }
            Step::Restart => {
                self.driver.terminate();
                self.driver.serve();
            }
            Step::LoseState => self.lose_state(),
            _ => self.slots[at].take(step, &self.driver),
        }
        self.check();
    }

    fn lose_state(&mut self) {
        self.driver.kill();
        let _ = fs::remove_file(self.driver.state_dir.join("state.json"));
        self.driver.serve();
        for slot in &mut self.slots {
            if let Some(network) = slot.network.take() {
                // The user removes and creates it again, as the error says.
                self.driver.done("DeleteNetwork", &json!({ "NetworkID": network }));
            }
            if let Some(endpoint) = &mut slot.endpoint {
                slot.forgotten = true;
                endpoint.uncertain = true;
            }
        }
    }

    /// What must always hold.
    fn check(&mut self) {
        self.driver.assert_alive();
        let listed = command::finish("ls", self.driver.command("ls").arg("--json")).expect("ls");
        let listed: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let networks: BTreeSet<_> = listed.iter().map(|network| text(&network["network_id"])).collect();
        let ours: BTreeSet<_> = self.slots.iter().filter_map(|slot| slot.network.clone()).collect();
        assert_eq!(networks, ours, "networks that `ls` shows");
        let holders: Vec<_> =
            listed.iter().flat_map(|of| of["endpoints"].as_array().cloned().unwrap_or_default()).collect();
        let devices: BTreeSet<_> = holders.iter().map(|holder| text(&holder["netdevice"])).collect();
        assert_eq!(devices.len(), holders.len(), "two endpoints on one netdev: {holders:?}");
        let shown: BTreeSet<_> = holders.iter().map(|holder| text(&holder["endpoint_id"])).collect();
        let stats = self.driver.stats();
        for slot in &self.slots {
            let Some(endpoint) = &slot.endpoint else {
                assert!(
                    !devices.contains(&slot.nic.name),
                    "{} is home, and in use by {holders:?}",
                    slot.nic.name
                );
                if let Some(now) = slot.nic.look() {
                    assert_eq!(now, slot.before);
                }
                continue;
            };
            if endpoint.uncertain {
                continue;
            }
            assert!(shown.contains(&endpoint.id), "{} of {holders:?}", endpoint.id);
            let row = stats.iter().find(|row| row.endpoint_id == endpoint.id).expect("its counters");
            let now = row.traffic();
            let most = self.counted.entry(endpoint.id.clone()).or_default();
            let grown = now.rx_packets >= most.rx_packets && now.tx_packets >= most.tx_packets;
            assert!(grown, "{now:?} after {most:?}");
            *most = now;
        }
        let known =
            |id: &String| self.slots.iter().filter_map(|slot| slot.endpoint.as_ref()).any(|of| of.id == *id);
        assert!(shown.iter().all(known), "`ls` shows {shown:?}");
    }

    /// Everything ends as Docker ends it, and everybody has their own again.
    pub fn finish(mut self) {
        for slot in &mut self.slots {
            for step in [Step::Leave, Step::MoveOut, Step::DeleteEndpoint, Step::DeleteNetwork] {
                slot.take(step, &self.driver);
            }
        }
        self.check();
        let Self { driver, slots, .. } = self;
        driver.finish();
        for slot in slots {
            // One that is not there was pulled out.
            if slot.nic.look().is_some() {
                SPARE.lock().expect("spare NICs").push(slot.nic);
            }
        }
    }
}

impl Slot {
    fn take(&mut self, step: Step, driver: &Driver) {
        match step {
            Step::Start => {
                let missing = [self.network.is_none(), self.endpoint.is_none(), true, true];
                let steps = [Step::CreateNetwork, Step::CreateEndpoint, Step::Join, Step::MoveIn];
                for (step, _) in steps.into_iter().zip(missing).filter(|(_, missing)| *missing) {
                    self.take(step, driver);
                }
            }
            Step::CreateNetwork => self.create_network(driver),
            Step::DeleteNetwork if self.endpoint.is_none() => {
                if let Some(network) = self.network.take() {
                    driver.done("DeleteNetwork", &json!({ "NetworkID": network }));
                }
            }
            Step::CreateEndpoint => self.create_endpoint(driver),
            Step::Destroy => {
                let _ = command::attempt("ip", &["-n", self.nic.far.name(), "link", "del", "far"]);
                if let Some(endpoint) = &mut self.endpoint {
                    endpoint.place = Where::Nowhere;
                    endpoint.uncertain = true;
                }
            }
            Step::DeleteEndpoint => {
                if let Some(endpoint) = self.endpoint.take() {
                    self.delete_endpoint(endpoint, driver);
                }
            }
            _ => {
                if let Some(endpoint) = &mut self.endpoint {
                    endpoint.take(step, &self.nic, driver);
                }
            }
        }
    }

    fn is_plugged(&self) -> bool {
        self.nic.far.place().attempt("ip link show dev far").is_ok()
    }

    fn create_network(&mut self, driver: &Driver) {
        if !self.is_plugged() && self.endpoint.is_none() {
            self.nic.plug();
        }
        let id = docker_id();
        let answer =
            driver.call("CreateNetwork", &simulated::network(&id, &json!({"netdevice": self.nic.name})));
        if self.network.is_some() {
            answer.expect_err("a netdev in two networks");
            return;
        }
        match answer {
            Ok(_) => self.network = Some(id),
            // One that is out, of an endpoint that was forgotten.
            Err(complaint) => assert!(self.endpoint.is_some(), "{complaint}"),
        }
    }

    fn create_endpoint(&mut self, driver: &Driver) {
        let Some(network) = self.network.clone() else { return };
        let id = docker_id();
        let answer = driver.call("CreateEndpoint", &simulated::endpoint(&network, &id, ""));
        if let Some(endpoint) = &self.endpoint {
            // The engine would have ended that one first, had it ended.
            if answer.is_ok() {
                assert!(endpoint.uncertain, "a netdev for two endpoints");
                driver.done("DeleteEndpoint", &simulated::ids(&network, &id));
            }
            return;
        }
        if !self.is_plugged() {
            answer.expect_err("a netdev that is not there");
            return;
        }
        answer.unwrap_or_else(|complaint| panic!("CreateEndpoint: {complaint}"));
        let netns = Netns::new(format!("c{}", &id[..8]));
        netns.run("busybox sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
        let place = Where::Home(self.nic.name.clone());
        self.endpoint = Some(Endpoint {
            id,
            network,
            netns,
            nested: None,
            joined: false,
            spoofs: false,
            place,
            uncertain: false,
        });
    }

    fn delete_endpoint(&mut self, mut endpoint: Endpoint, driver: &Driver) {
        if self.forgotten {
            // Nobody looks for it in there: it is found once it is home.
            endpoint.take(Step::Die, &self.nic, driver);
        }
        driver.done("DeleteEndpoint", &simulated::ids(&endpoint.network, &endpoint.id));
        if self.is_plugged() {
            let home = eventually("the netdev is home", || {
                let found = self.nic.look().ok_or_else(|| format!("it is called {:?}", self.nic.name_now()));
                found.and_then(|look| {
                    if look.alias == self.before.alias { Ok(look) } else { Err(format!("{look:?}")) }
                })
            });
            if !std::mem::take(&mut self.forgotten) {
                assert_eq!(home, self.before);
            } else if home != self.before {
                // What it was like is lost with the file, and is the administrator's to mend.
                command::ip(&format!("-n {} link del far", self.nic.far.name()));
                self.nic.plug();
            }
        }
        self.forgotten = false;
        drop(endpoint);
    }
}

impl Endpoint {
    fn ids(&self) -> Value {
        simulated::ids(&self.network, &self.id)
    }

    /// The netdev's namespace and name, if a container has it.
    fn inside(&self) -> Option<(&Netns, &str)> {
        match &self.place {
            Where::Inside(name) => Some((&self.netns, name)),
            Where::Nested(name) => Some((self.nested.as_ref()?, name)),
            Where::Home(_) | Where::Nowhere => None,
        }
    }

    fn take(&mut self, step: Step, nic: &Nic, driver: &Driver) {
        let fresh = || format!("evil{}", unique_name());
        match (step, self.place.clone()) {
            (Step::Join, _) => {
                let mut body = self.ids();
                body["SandboxKey"] = json!(self.netns.path());
                let answer = driver.call("Join", &body);
                // The driver sees at once if it is not at home any more.
                assert!(answer.is_ok() || self.uncertain || self.joined, "{answer:?}");
                self.joined |= answer.is_ok();
            }
            (Step::MoveIn, Where::Home(name)) if self.joined && !self.uncertain => {
                command::ip(&format!("link set {name} down"));
                command::ip(&format!("link set {name} netns {}", self.netns.name()));
                self.netns.ip(&format!("link set {name} name eth0"));
                self.netns.ip(&format!("addr add {}/24 dev eth0", nic.near4(2)));
                self.netns.ip("link set eth0 up");
                self.place = Where::Inside("eth0".into());
            }
            (Step::Ping, Where::Inside(name)) if name == "eth0" && self.spoofs => {
                let ping = format!("busybox ping -c 1 -W 1 {}", nic.near4(2));
                nic.far.place().attempt(&ping).expect_err("an answer from a MAC that is not the endpoint's");
            }
            (Step::Ping, Where::Inside(name)) if name == "eth0" => nic.ping(&nic.near4(2), 2),
            (Step::Rename, Where::Inside(name)) => {
                let evil = fresh();
                self.netns.ip(&format!("link set {name} down"));
                self.netns.ip(&format!("link set {name} name {evil}"));
                self.place = Where::Inside(evil);
            }
            (Step::ChangeMac, Where::Inside(name)) => {
                self.netns.ip(&format!("link set {name} address 02:ee:00:00:00:01"));
                self.spoofs = true;
            }
            (Step::Nest, Where::Inside(name)) => {
                let nested = Netns::new(format!("n{}", &self.id[..8]));
                self.netns.ip(&format!("link set {name} netns {}", nested.name()));
                self.nested = Some(nested);
                self.place = Where::Nested(name);
            }
            (Step::Leave, _) => drop(driver.done("Leave", &self.ids())),
            (Step::MoveOut, Where::Inside(name)) if name == "eth0" => {
                self.netns.ip("link set eth0 down");
                self.netns.ip(&format!("link set eth0 name {}", nic.name));
                self.netns.ip(&format!("link set {} netns 1", nic.name));
                self.place = Where::Home(nic.name.clone());
                self.uncertain = true;
            }
            (Step::Die, Where::Inside(name) | Where::Nested(name)) => {
                let evil = fresh();
                if let Some((netns, _)) = self.inside() {
                    netns.ip(&format!("link set {name} down"));
                    netns.ip(&format!("link set {name} name {evil}"));
                    netns.ip(&format!("link set {evil} netns 1"));
                }
                self.place = Where::Home(evil);
                self.uncertain = true;
            }
            _ => {}
        }
    }
}

/// A name that no netdev ever had.
fn unique_name() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
