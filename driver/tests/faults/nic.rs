//! A whole netdev whose every trait has to be restored.
use serde_json::{Value, json};

use crate::support::{command, look::Look, netns::Netns, nic::Nic};

use super::scene::{Hardware, Stage};

/// A driver and a NIC.
#[track_caller]
pub fn stage() -> Stage<Nic> {
    let nic = Nic::new();
    let name = &nic.name;
    command::ip(&format!("link set {name} up alias uplink mtu 1400 txqueuelen 777"));
    command::ip(&format!("link property add dev {name} altname {name}-alt"));
    command::ip(&format!("addr add {}/24 dev {name}", nic.near4(9)));
    command::ip(&format!("route add 198.51.100.0/24 via {} metric 4{}", nic.far4(), &name[3..]));
    Stage::on(nic)
}

impl Hardware for Nic {
    /// Its routes and its qdiscs, too.
    fn look(&self) -> Option<String> {
        let look: Look = self.look()?;
        let routes = command::attempt("ip", &["route", "show", "dev", &self.name, "198.51.100.0/24"]).ok()?;
        let qdiscs = command::attempt("tc", &["qdisc", "show", "dev", &self.name]).ok()?;
        Some(format!("{look:?}; {}; {qdiscs}", routes.replace(" linkdown", "").trim()))
    }

    fn options(&self) -> Value {
        json!({"netdevice": self.name, "force": "1", "mtu": "1300"})
    }

    fn mac(&self) -> String {
        "02:42:0a:40:00:17".into()
    }

    fn netdev(&self, _: &str) -> String {
        self.name.clone()
    }

    fn check(&self, netns: &Netns) {
        netns.ip(&format!("addr add {}/24 dev eth0", self.near4(2)));
        self.ping(&self.near4(2), 1);
    }
}
