//! The driver under exactly the rights that its systemd unit gives it.
use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt as _,
};

use serde_json::json;

use crate::support::{
    command::Background,
    confined, docker_id,
    driver::Driver,
    eventually,
    netns::Netns,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    tcx::{self, Hook},
    trials, unique,
};

trials![units_capabilities_are_enough, no_capability_is_too_many];

/// A container's life with all that takes a right of its own; panics where one is missing.
#[track_caller]
fn live(driver: &Driver, capabilities: &[String]) {
    let (xdp, tcx) = (Nic::new(), Nic::new());
    let before = (xdp.look(), tcx.look());
    let networks = [(&xdp, "xdp"), (&tcx, "tcx")].map(|(nic, hook)| {
        simulated::create_network_with(
            driver,
            &json!({"netdevice": nic.name, "rx_hook": hook, "mtu": "1300"}),
        )
    });
    let first = Container::start(driver, &xdp, &networks[0]);
    let second = Container::start(driver, &tcx, &networks[1]);
    xdp.ping(&xdp.near4(2), 2);
    tcx.ping(&tcx.near4(2), 2);
    // A program of the container's, which has to go: found by its id.
    tcx::within(&second.netns.path(), || tcx::attach(Container::INSIDE, Hook::Ingress));
    // Another life of the driver takes the counters over.
    driver.kill();
    driver.serve_confined(capabilities);
    driver.agrees_with(&xdp, Traffic::default());
    driver.agrees_with(&tcx, Traffic::default());
    // Somebody's `ip netns add` that has not come to its end, or never will.
    let unfinished = format!("/run/netns/unfinished{}", unique());
    File::options().write(true).create_new(true).mode(0o000).open(&unfinished).expect("a file of no rights");
    first.stop();
    let holder = hide(&second);
    second.stop();
    drop(holder);
    fs::remove_file(unfinished).expect("that file");
    assert_eq!((xdp.look(), tcx.look()), before);
    for network in networks {
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
}

fn units_capabilities_are_enough() {
    let capabilities = confined::capabilities();
    let driver = Driver::without_engine();
    driver.serve_confined(&capabilities);
    live(&driver, &capabilities);
    driver.finish();
}

/// The netdev goes where nobody sees it but who may look at a process of another user.
fn hide(container: &Container) -> Background {
    let nested = Netns::new(format!("hidden{}", unique()));
    let holder = nested.background("setpriv --reuid=12345 --clear-groups sleep 1000");
    let user = || fs::read_to_string(format!("/proc/{}/status", holder.id())).unwrap_or_default();
    eventually("it is another user's", || {
        let status = user();
        if status.contains("\nUid:\t12345\t12345") { Ok(()) } else { Err(status) }
    });
    container.netns.ip(&format!("link set {} netns {}", Container::INSIDE, nested.name()));
    // Its name goes, it lives on in the process.
    drop(nested);
    holder
}

fn no_capability_is_too_many() {
    // Without TCX this one is needed: `sriov-6.1 clsact::with_the_units_rights_and_without_hearing`.
    let mut capabilities = confined::capabilities();
    capabilities.retain(|name| name != "net_broadcast");
    for (which, missing) in capabilities.iter().enumerate() {
        let mut others = capabilities.clone();
        others.remove(which);
        let driver = Driver::without_engine();
        driver.serve_confined(&others);
        let complaint = complaint(&driver, &Nic::new());
        assert!(complaint.is_some(), "it does without {missing}");
    }
}

/// What a container's life fails by, if it does.
fn complaint(driver: &Driver, nic: &Nic) -> Option<String> {
    let network = docker_id();
    let container = Container::unknown(driver, nic, &network);
    let create = simulated::network(&network, &json!({"netdevice": nic.name}));
    let begun = driver
        .call("CreateNetwork", &create)
        .and_then(|_| driver.call("CreateEndpoint", &simulated::endpoint(&network, &container.endpoint, "")))
        .and_then(|_| driver.call("Join", &container.join_body()));
    if let Err(complaint) = begun {
        return Some(complaint);
    }
    container.move_in();
    let _holder = hide(&container);
    container.leave();
    driver.call("DeleteEndpoint", &container.ids()).err()
}
