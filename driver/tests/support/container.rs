//! A network of a private engine on a NIC, and its containers.
use serde_json::Value;

use super::{
    docker::{Engine, IMAGE},
    driver::Driver,
    look::{Look, Place, text},
    nic::Nic,
};

/// A network with one driver and one NIC, removed when this goes out of scope.
pub struct Network<'a> {
    pub engine: &'a Engine,
    pub name: String,
    nic: &'a Nic,
    before: Look,
}

impl<'a> Network<'a> {
    /// `docker network create`, with the subnet of the NIC's cable.
    #[track_caller]
    pub fn create(engine: &'a Engine, driver: &Driver, nic: &'a Nic, options: &[&str]) -> Self {
        let (net, gateway) = (nic.net4(), nic.far4());
        let subnet = ["--subnet", net.as_str(), "--gateway", gateway.as_str()];
        Self::create_bare(engine, driver, nic, &[&subnet, options].concat())
    }

    /// The same, with no more addresses than `options` have.
    #[track_caller]
    pub fn create_bare(engine: &'a Engine, driver: &Driver, nic: &'a Nic, options: &[&str]) -> Self {
        let before = nic.look().expect("a NIC that nobody has");
        let (name, netdevice) = (format!("net-{}", nic.name), format!("netdevice={}", nic.name));
        let start = ["network", "create", "-d", &driver.name, "-o", &netdevice];
        engine.docker(&[&start, options, &[name.as_str()]].concat());
        Self { engine, name, nic, before }
    }

    /// `docker run` of a process that does nothing, in this network alone.
    #[track_caller]
    pub fn run(&self, name: &str, options: &[&str]) -> Container<'a> {
        self.attempt(name, options).unwrap_or_else(|complaint| {
            panic!("docker run {}: {complaint}\n{}", options.join(" "), self.engine.log())
        })
    }

    /// The same, or the complaint.
    pub fn attempt(&self, name: &str, options: &[&str]) -> Result<Container<'a>, String> {
        let network = ["--network", &self.name];
        Container::run(self.engine, format!("{name}-{}", self.nic.name), &[&network, options].concat())
    }

    /// Panics unless the NIC is the host's, as it was before.
    #[track_caller]
    pub fn assert_home(&self) {
        assert_eq!(self.nic.look().as_ref(), Some(&self.before));
        // What Docker makes for a container that has no gateway.
        assert_eq!(Look::at(&Place::Host, "docker_gwbridge"), None);
    }

    /// Waits until it is.
    #[track_caller]
    pub fn wait_home(&self) {
        super::eventually("the NIC is home as it was", || match self.nic.look() {
            Some(look) if look == self.before => Ok(()),
            look => Err(format!("{look:?} (now called {:?}), not {:?}", self.nic.name_now(), self.before)),
        });
    }

    /// `docker network rm`.
    #[track_caller]
    pub fn remove(self) {
        self.engine.docker(&["network", "rm", &self.name]);
        self.assert_home();
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.engine.attempt(&["network", "rm", &self.name]);
    }
}

/// A container, removed when this goes out of scope.
pub struct Container<'a> {
    engine: &'a Engine,
    pub name: String,
}

impl<'a> Container<'a> {
    /// `docker run` of a process that does nothing, or the complaint.
    pub fn run(engine: &'a Engine, name: String, options: &[&str]) -> Result<Self, String> {
        // Even one that does not start is there to be removed.
        let container = Self { engine, name };
        let start = ["run", "-d", "--name", &container.name];
        engine.attempt(&[&start, options, &[IMAGE, "sleep", "1000000"]].concat())?;
        Ok(container)
    }

    /// `docker VERB … NAME`.
    #[track_caller]
    pub fn docker(&self, verb: &[&str]) -> String {
        self.engine.docker(&[verb, &[&self.name]].concat())
    }

    /// `docker stop`; the process is PID 1 in there and heeds SIGKILL only.
    #[track_caller]
    pub fn stop(&self) {
        self.docker(&["stop", "-t", "0"]);
    }

    /// A shell command inside; panics if it fails.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.attempt(line).unwrap_or_else(|complaint| panic!("in {}: {line}: {complaint}", self.name))
    }

    /// A shell command inside.
    pub fn attempt(&self, line: &str) -> Result<String, String> {
        self.engine.attempt(&["exec", &self.name, "sh", "-c", line])
    }

    /// A shell command inside that goes on.
    #[track_caller]
    pub fn background(&self, line: &str) {
        self.engine.docker(&["exec", "-d", &self.name, "sh", "-c", line]);
    }

    /// Its first process, as the machine numbers it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let pid = self.inspect()["State"]["Pid"].as_i64().expect("a pid");
        i32::try_from(pid).expect("a pid")
    }

    /// The id of its one endpoint.
    #[track_caller]
    pub fn endpoint(&self) -> String {
        self.of_network("EndpointID")
    }

    /// What the engine says of its one network's endpoint.
    #[track_caller]
    pub fn of_network(&self, what: &str) -> String {
        let all = self.inspect();
        let networks = all["NetworkSettings"]["Networks"].as_object().expect("networks");
        assert_eq!(networks.len(), 1, "{networks:?}");
        networks.values().map(|network| text(&network[what])).collect()
    }

    /// `docker inspect`.
    #[track_caller]
    fn inspect(&self) -> Value {
        let answer = self.engine.api("GET", &format!("/containers/{}/json", self.name));
        answer.unwrap_or_else(|complaint| panic!("{complaint}"))
    }

    /// The machine's programs in its network.
    pub fn place(&self) -> Place {
        Place::Process(self.pid())
    }

    /// The netdevs that it has, sorted, without loopback.
    #[track_caller]
    pub fn netdevs(&self) -> Vec<String> {
        let all = self.sh("ls /sys/class/net");
        // The second is a file of the bonding module's.
        let others = ["lo", "bonding_masters"];
        all.split_whitespace().filter(|name| !others.contains(name)).map(str::to_owned).collect()
    }

    /// How it sees a netdev.
    #[track_caller]
    pub fn look(&self, netdev: &str) -> Look {
        let look = Look::at(&self.place(), netdev);
        look.unwrap_or_else(|| panic!("{} has no {netdev} but {:?}", self.name, self.netdevs()))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.engine.api("DELETE", &format!("/containers/{}?force=1", self.name));
    }
}
