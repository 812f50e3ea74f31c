//! Devices that would not come home by themselves: the engine moves them by name, and gives up early.
use std::{fs, thread, time::Duration};

use serde_json::json;

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    eventually,
    look::Place,
    netns::Netns,
    nic::Nic,
    simulated::{self, Container},
    trials, unique,
};

trials![
    renamed_in_the_container,
    renamed_and_its_old_name_taken_in_the_container,
    name_taken_on_the_host,
    altname_in_the_way_on_the_host,
    moved_on_into_a_namespace_of_the_container,
    lost_with_its_namespace,
    renamed_while_the_driver_was_down,
    home_under_each_others_names,
    its_pins_are_taken_away,
];

/// A container on a NIC of a driver, at work.
struct Scene {
    driver: Driver,
    nic: Nic,
}

impl Scene {
    fn new() -> Self {
        Self { driver: Driver::start(), nic: Nic::new() }
    }

    /// Starts a container, lets `mischief` happen, and stops it as an engine would.
    fn after(&self, mischief: impl FnOnce(&Container)) {
        let before = self.nic.look();
        let network = simulated::create_network(&self.driver, &self.nic);
        let container = Container::start(&self.driver, &self.nic, &network);
        mischief(&container);
        container.stop();
        assert_eq!(self.nic.look(), before);
        // And it can be used again.
        let container = Container::start(&self.driver, &self.nic, &network);
        self.nic.ping(&self.nic.near4(2), 1);
        container.stop();
        self.driver.done("DeleteNetwork", &json!({"NetworkID": network}));
        assert_eq!(self.nic.look(), before);
    }
}

fn renamed_in_the_container() {
    let scene = Scene::new();
    scene.after(|container| {
        container.netns.ip("link set eth0 name evil0");
    });
    scene.driver.finish();
}

fn renamed_and_its_old_name_taken_in_the_container() {
    let scene = Scene::new();
    let decoy = Netns::new(format!("decoy{}", unique()));
    scene.after(|container| {
        // Two decoys: one with the name that Docker looks for, one with the name it would give.
        container.netns.ip("link set eth0 down");
        container.netns.ip("link set eth0 name evil0");
        container.netns.ip(&format!("link add {} type bridge", scene.nic.name));
        container.netns.ip(&format!("link add eth0 type veth peer name x netns {}", decoy.name()));
    });
    // The decoy that Docker has moved out of the way is not the device.
    scene.driver.finish();
}

fn name_taken_on_the_host() {
    let scene = Scene::new();
    let (driver, nic) = (&scene.driver, &scene.nic);
    let before = nic.look();
    let network = simulated::create_network(driver, nic);
    let container = Container::start(driver, nic, &network);
    command::ip(&format!("link add {} type bridge", nic.name));
    container.leave();
    container.move_out();
    // It is the host's again, whatever it is called meanwhile, and the other device is left alone.
    assert_names(&driver.refused("DeleteEndpoint", &container.ids()), &[&nic.name]);
    assert_ne!(nic.name_now(), None, "lost to the host");
    assert_ne!(nic.name_now().as_ref(), Some(&nic.name));
    assert_eq!(container.look(), None);
    command::ip(&format!("link del {}", nic.name));
    // With the name free it can have it back, at the latest when it is needed next.
    let container = Container::start(driver, nic, &network);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    assert_eq!(nic.look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    scene.driver.finish();
}

fn altname_in_the_way_on_the_host() {
    let scene = Scene::new();
    let host = format!("host{}", unique());
    command::ip(&format!("link add {host} type bridge"));
    scene.after(|container| {
        // The kernel moves no device one of whose names is taken where it should go.
        container.netns.ip(&format!("link property add dev eth0 altname {host}"));
    });
    assert!(Place::Host.attempt(&format!("ip link show dev {host}")).is_ok());
    command::ip(&format!("link del {host}"));
    scene.driver.finish();
}

fn moved_on_into_a_namespace_of_the_container() {
    let scene = Scene::new();
    let nested = Netns::new(format!("nested{}", unique()));
    let _process = nested.background("sleep 1000");
    scene.after(|container| {
        container.netns.ip(&format!("link set eth0 netns {}", nested.name()));
        nested.ip("link set eth0 name deeper0");
    });
    scene.driver.finish();
}

fn lost_with_its_namespace() {
    let scene = Scene::new();
    let (driver, nic) = (&scene.driver, &scene.nic);
    let before = nic.look();
    let network = simulated::create_network(driver, nic);
    let container = Container::start(driver, nic, &network);
    let (ids, endpoint) = (container.ids(), container.endpoint.clone());
    // A virtual device ends with the namespace it is in, unlike hardware.
    drop(container);
    eventually("the device is gone", || {
        if nic.far.place().attempt("ip link show dev far").is_err() {
            Ok(())
        } else {
            Err("it is not".into())
        }
    });
    driver.done("Leave", &ids);
    driver.done("DeleteEndpoint", &ids);
    assert_eq!(driver.pins(&endpoint), [""; 0]);
    let complaint = driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), ""));
    assert_names(&complaint, &[&nic.name]);
    // Plugged in again, it serves again.
    nic.plug();
    assert_eq!(nic.look(), before);
    let container = Container::start(driver, nic, &network);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    scene.driver.finish();
}

fn renamed_while_the_driver_was_down() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    driver.kill();
    container.netns.ip("link set eth0 name evil0");
    driver.serve();
    container.stop();
    assert_eq!(nic.look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

/// As two containers of one mind leave them to a kernel that brings them home while no driver runs.
fn home_under_each_others_names() {
    let driver = Driver::start();
    let nics = [Nic::new(), Nic::new()];
    let before = nics.each_ref().map(Nic::look);
    let networks = nics.each_ref().map(|nic| simulated::create_network(&driver, nic));
    let containers = [0, 1].map(|n| Container::start(&driver, &nics[n], &networks[n]));
    driver.kill();
    for (container, other) in containers.iter().zip(nics.iter().rev()) {
        let inside = Container::INSIDE;
        container.netns.ip(&format!("link set {inside} down"));
        container.netns.ip(&format!("link set {inside} name {}", other.name));
        container.netns.ip(&format!("link set {} netns 1", other.name));
    }
    driver.serve();
    eventually("each is what it was", || {
        let now = nics.each_ref().map(Nic::look);
        if now == before { Ok(()) } else { Err(format!("{now:?}\n{}", driver.log())) }
    });
    for network in networks {
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
    driver.finish();
}

/// Which means to end the counting, and not what is counted.
fn its_pins_are_taken_away() {
    let (driver, nic) = (Driver::without_engine(), Nic::new());
    driver.serve_with(&["--look", "1"]);
    command::ip(&format!("link set {} up mtu 1400", nic.name));
    let before = nic.look();
    let network = simulated::create_network_with(&driver, &json!({"netdevice": nic.name, "mtu": "1300"}));
    let container = Container::start(&driver, &nic, &network);
    fs::remove_dir_all(driver.bpffs.join(&container.endpoint)).unwrap();
    // Some looks.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(driver.stats().len(), 1, "{}", driver.log());
    nic.ping(&nic.near4(2), 1);
    container.stop();
    assert_eq!(nic.look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
