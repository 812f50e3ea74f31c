//! The driver with its systemd unit's rights alone, under a real engine.
use std::fs;

use crate::support::{
    confined,
    container::Network,
    docker::Engine,
    driver::Driver,
    nic::{Nic, Traffic},
    trials,
};

trials![units_rights_are_enough, rights_are_those_that_were_asked_for];

/// The suite runs once with no more than these.
fn rights_are_those_that_were_asked_for() {
    let rights = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let set = |name: &str| {
            let bits = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            u64::from_str_radix(bits, 16).unwrap()
        };
        (set("CapEff:").count_ones() as usize, set("CapBnd:").count_ones() as usize)
    };
    let driver = Driver::start();
    let unit = confined::capabilities().len();
    let wanted = if confined::is_asked_for() { (unit, unit) } else { rights("self") };
    assert_eq!(rights(&driver.pid().to_string()), wanted);
    driver.finish();
}

fn units_rights_are_enough() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::stopped(&engine.host()), Nic::new());
    let capabilities = confined::capabilities();
    driver.serve_confined(&capabilities);
    let network = Network::create(engine, &driver, &nic, &[]);
    // Of another user, who has fewer rights than root.
    let container = network.run("confined", &["--user", "12345", "--mac-address", "02:42:0a:40:00:55"]);
    nic.ping(&nic.near4(2), 3);
    driver.kill();
    driver.serve_confined(&capabilities);
    nic.ping(&nic.near4(2), 3);
    driver.agrees_with(&nic, Traffic::default());
    driver.names(&nic.name, &container.name);
    container.docker(&["restart", "-t", "0"]);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    network.assert_home();
    drop(container);
    network.remove();
    driver.finish();
}
