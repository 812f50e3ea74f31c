//! What the engine does with the driver and VFs, without an engine: networks and containers by hand.
use serde_json::{Value, json};

use crate::support::{
    command, docker_id,
    driver::{Driver, Stats},
    eventually,
    look::{Look, Place},
    netns::Netns,
    simulated,
};

use super::{frames::hush, pf::Pf};

/// A network in sriov mode.
pub struct Network<'a> {
    pub driver: &'a Driver,
    pub pf: &'a Pf,
    pub id: String,
}

/// What a container asks for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// `--mac-address`.
    pub mac: String,
    /// `--driver-opt vf=N`.
    pub vf: Option<u32>,
}

impl Wish {
    /// This VF.
    pub fn vf(vf: u32) -> Self {
        Self { vf: Some(vf), ..Self::default() }
    }

    /// This address.
    pub fn mac(mac: &str) -> Self {
        Self { mac: mac.to_owned(), ..Self::default() }
    }
}

/// The body of `CreateNetwork`.
fn body(id: &str, pf: &Pf, options: &[(&str, &str)]) -> Value {
    let mut generic = json!({"netdevice": pf.name});
    for (key, value) in options {
        generic[key] = json!(value);
    }
    simulated::network(id, &generic)
}

impl<'a> Network<'a> {
    /// `docker network create`.
    #[track_caller]
    pub fn create(driver: &'a Driver, pf: &'a Pf, options: &[(&str, &str)]) -> Self {
        let id = docker_id();
        driver.done("CreateNetwork", &body(&id, pf, options));
        Self { driver, pf, id }
    }

    /// The complaint about one that can't be.
    #[track_caller]
    pub fn refused(driver: &Driver, pf: &Pf, options: &[(&str, &str)]) -> String {
        driver.refused("CreateNetwork", &body(&docker_id(), pf, options))
    }

    /// One that Docker made.
    pub fn of(driver: &'a Driver, pf: &'a Pf, id: String) -> Self {
        Self { driver, pf, id }
    }

    /// `docker run`.
    #[track_caller]
    pub fn start(&self, wish: &Wish) -> Tenant<'_> {
        self.attempt(wish).unwrap_or_else(|complaint| panic!("{wish:?}: {complaint}"))
    }

    /// The same, or the complaint.
    #[track_caller]
    pub fn attempt(&self, wish: &Wish) -> Result<Tenant<'_>, String> {
        self.attempt_in(wish, |endpoint| Netns::new(format!("c{}", &endpoint[..8])))
    }

    /// The same in a namespace that the endpoint is given.
    #[track_caller]
    pub fn attempt_in(&self, wish: &Wish, netns: impl FnOnce(&str) -> Netns) -> Result<Tenant<'_>, String> {
        let endpoint = docker_id();
        let mut body = simulated::endpoint(&self.id, &endpoint, &wish.mac);
        if let Some(vf) = wish.vf {
            body["Options"]["vf"] = json!(vf.to_string());
        }
        let answer = self.driver.call("CreateEndpoint", &body)?;
        let told = answer["Interface"]["MacAddress"].as_str().unwrap_or_default();
        // The answer may only say what Docker has not said.
        assert!(told.is_empty() || wish.mac.is_empty(), "{answer}");
        let mac = format!("{told}{}", wish.mac);
        let netns = netns(&endpoint);
        let joined = self.driver.done("Join", &simulated::join(&self.id, &endpoint, &netns));
        let netdev = joined["InterfaceName"]["SrcName"].as_str().expect("a netdev").to_owned();
        let vf = self.pf.vf_of(&netdev);
        let tenant = Tenant { network: self, endpoint, netns, vf, netdev, mac };
        tenant.move_in();
        super::clsact::await_counted(&tenant.place());
        self.driver.done("ProgramExternalConnectivity", &tenant.ids());
        Ok(tenant)
    }

    /// The complaint of a container that can't start.
    #[track_caller]
    pub fn refuses(&self, wish: &Wish) -> String {
        match self.attempt(wish) {
            Err(complaint) => complaint,
            Ok(tenant) => panic!("{wish:?}: got VF {} as {}", tenant.vf, tenant.mac),
        }
    }

    /// `docker network rm`.
    #[track_caller]
    pub fn remove(self) {
        self.driver.done("DeleteNetwork", &json!({"NetworkID": self.id}));
    }
}

/// A container with a VF, as far as a network driver can tell.
pub struct Tenant<'a> {
    network: &'a Network<'a>,
    pub endpoint: String,
    pub netns: Netns,
    /// The number of its VF.
    pub vf: u32,
    /// Its netdev's name on the host.
    pub netdev: String,
    /// The MAC that it was told.
    pub mac: String,
}

/// The name Docker gives to the first netdev.
pub const INSIDE: &str = "eth0";

impl Tenant<'_> {
    fn ids(&self) -> Value {
        simulated::ids(&self.network.id, &self.endpoint)
    }

    /// What the engine, or its runtime's hook, does after `Join`.
    #[track_caller]
    fn move_in(&self) {
        let (netdev, netns) = (&self.netdev, self.netns.name());
        let path = self.netns.path();
        hush(&self.netns.place());
        let out = [format!("link set {netdev} down"), format!("link set {netdev} netns {netns}")];
        command::ip_batch(None, &out).expect("a netdev to move");
        let mut inside = vec![format!("link set {netdev} name {INSIDE}")];
        if !self.mac.is_empty() {
            inside.push(format!("link set {INSIDE} address {}", self.mac));
        }
        inside.push(format!("link set {INSIDE} up"));
        command::ip_batch(Some(&path), &inside).expect("a netdev that can go up");
    }

    /// What it does after `Leave`: it puts up with every failure.
    fn move_out(&self) {
        let netdev = &self.netdev;
        let steps = [
            format!("link set {INSIDE} down"),
            format!("link set {INSIDE} name {netdev}"),
            format!("link set {netdev} netns 1"),
        ];
        let _ = command::ip_batch(Some(&self.netns.path()), &steps);
    }

    /// Gives it an address in a subnet of 24 bits.
    #[track_caller]
    pub fn address(&self, address: &str) {
        self.netns.ip(&format!("addr add {address}/24 dev {INSIDE}"));
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.netns.place()
    }

    /// How it sees its netdev.
    #[track_caller]
    pub fn look(&self) -> Look {
        Look::at(&self.place(), INSIDE).unwrap_or_else(|| panic!("VF {} is not there", self.vf))
    }

    /// What was counted for it.
    #[track_caller]
    pub fn stats(&self) -> Stats {
        let mut found = self.network.driver.stats_for(&[&self.endpoint]);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The whole end of a container.
    #[track_caller]
    pub fn stop(self) {
        drop(self.leave());
    }

    /// The same, but for its namespace.
    #[track_caller]
    pub fn leave(self) -> Netns {
        self.network.driver.done("RevokeExternalConnectivity", &self.ids());
        self.network.driver.done("Leave", &self.ids());
        self.move_out();
        self.network.driver.done("DeleteEndpoint", &self.ids());
        self.netns
    }

    /// The container's end without a `Leave`: its network is gone when the driver hears of it.
    #[track_caller]
    pub fn die(self) {
        let (driver, ids) = (self.network.driver, self.ids());
        drop(self.netns);
        // The kernel may take longer to bring it home than the driver waits; it is taken back all the same.
        eventually("its VF is given back", || match driver.call("DeleteEndpoint", &ids) {
            Err(complaint) if complaint.contains("stays reserved") => Err(complaint),
            done => Ok(done.expect("the end of an endpoint")),
        });
    }
}
