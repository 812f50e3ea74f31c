//! What a container leaves on a netdev, or on top of it, must not meet the next one, nor stay on the host.
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

use serde_json::json;

use crate::support::{
    assert_names, command, docker_id,
    driver::{Driver, entries},
    eventually,
    look::Place,
    netns::Netns,
    nic::Nic,
    simulated::{self, Container},
    tcx::{self, Hook},
    trials, unique,
};

trials![
    upper_devices_end_with_the_handover,
    upper_devices_in_further_namespaces_end_too,
    a_bridge_of_the_container_lets_go,
    the_hosts_upper_devices_stay,
    upper_devices_elsewhere_are_refused,
    tcx_programs_end_with_the_handover,
    the_hosts_tcx_programs_stay,
    links_stay_with_the_network_and_the_driver,
    names_that_are_no_text_are_taken_off,
    names_that_are_no_text_do_not_hide_upper_devices,
    states_that_the_container_forced_are_undone,
];

/// No UTF-8.
const NO_TEXT: &[u8] = b"\xff\xfe";

/// `ip` in a namespace, `name` in the place of the word `NAME`.
#[track_caller]
fn ip_with(netns: &Netns, line: &str, name: &[u8]) {
    let words = line.split_whitespace().map(|word| match word {
        "NAME" => OsStr::from_bytes(name).to_owned(),
        word => OsString::from(word),
    });
    let args: Vec<OsString> = ["-n", netns.name()].into_iter().map(OsString::from).chain(words).collect();
    command::run("ip", &args);
}

/// The end of a container whose namespace lives on. The engine takes the netdev out, or leaves that to the
/// driver.
#[track_caller]
fn disconnect(driver: &Driver, container: &Container, engine_moves: bool) {
    container.leave();
    if engine_moves {
        container.move_out();
    }
    driver.done("DeleteEndpoint", &container.ids());
}

#[track_caller]
fn assert_has(place: &Place, netdev: &str, has: bool) {
    let found = place.attempt(&format!("ip link show dev {netdev}"));
    assert_eq!(found.is_ok(), has, "{netdev}: {found:?}");
}

fn upper_devices_end_with_the_handover() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    for (mode, engine_moves) in [("passthru", true), ("passthru", false), ("bridge", true)] {
        let container = Container::start(&driver, &nic, &network);
        container.netns.ip(&format!("link add link eth0 name spy type macvlan mode {mode}"));
        container.netns.ip("link set spy up");
        container.netns.ip("link add bystander type veth peer name x");
        disconnect(&driver, &container, engine_moves);
        assert_eq!(nic.look(), before);
        assert_has(&container.netns.place(), "spy", false);
        assert_has(&container.netns.place(), "bystander", true);
        let next = Container::start(&driver, &nic, &network);
        nic.ping(&nic.near4(2), 1);
        next.stop();
    }
    // The far end of the cable has the NIC for its peer, which is not beneath it.
    assert_has(&nic.far.place(), "far", true);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn upper_devices_in_further_namespaces_end_too() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let nested = Netns::new(format!("nested{}", unique()));
    let container = Container::start(&driver, &nic, &network);
    container.netns.ip("link add link eth0 name spy type macvlan");
    container.netns.ip(&format!("link set spy netns {}", nested.name()));
    nested.ip("link add base type veth peer name x");
    nested.ip("link add link base name innocent type macvlan");
    disconnect(&driver, &container, true);
    assert_has(&nested.place(), "spy", false);
    assert_has(&nested.place(), "innocent", true);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn a_bridge_of_the_container_lets_go() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    for engine_moves in [true, false] {
        let container = Container::start(&driver, &nic, &network);
        container.netns.ip("link add evil0 type bridge");
        container.netns.ip("link set eth0 master evil0");
        container.netns.ip("link set evil0 up");
        disconnect(&driver, &container, engine_moves);
        assert_eq!(nic.look(), before);
        assert_has(&container.netns.place(), "evil0", true);
        let next = Container::start(&driver, &nic, &network);
        nic.ping(&nic.near4(2), 1);
        next.stop();
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn the_hosts_upper_devices_stay() {
    let driver = Driver::start();
    let nic = Nic::new();
    let elsewhere = Netns::new(format!("else{}", unique()));
    let own = format!("own{}", unique());
    command::ip(&format!("link add link {} name {own} type macvlan mode bridge", nic.name));
    command::ip(&format!("link add link {} name {own}b type macvlan mode bridge", nic.name));
    command::ip(&format!("link set {own}b netns {}", elsewhere.name()));
    let id = simulated::create_network_with(&driver, &json!({"netdevice": nic.name, "force": "1"}));
    let container = Container::start(&driver, &nic, &id);
    container.netns.ip("link add link eth0 name spy type macvlan mode bridge");
    disconnect(&driver, &container, true);
    assert_has(&container.netns.place(), "spy", false);
    assert_has(&Place::Host, &own, true);
    assert_has(&elsewhere.place(), &format!("{own}b"), true);
    command::ip(&format!("link del {own}"));
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
}

fn upper_devices_elsewhere_are_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    let elsewhere = Netns::new(format!("else{}", unique()));
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    command::ip(&format!("link add link {} name {}s type macvlan mode bridge", nic.name, nic.name));
    command::ip(&format!("link set {}s netns {}", nic.name, elsewhere.name()));
    let request = simulated::endpoint(&network, &docker_id(), "");
    let complaint = driver.refused("CreateEndpoint", &request);
    assert_names(&complaint, &[&nic.name, &format!("macvlan {}s", nic.name), elsewhere.name(), "force=1"]);
    assert_eq!(nic.look(), before);
    elsewhere.ip(&format!("link del {}s", nic.name));
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn tcx_programs_end_with_the_handover() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    for hook in [Hook::Ingress, Hook::Egress] {
        let container = Container::start(&driver, &nic, &network);
        let place = container.netns.path();
        tcx::within(&place, || tcx::attach(Container::INSIDE, hook));
        let link = tcx::within(&place, || tcx::link(Container::INSIDE, hook));
        disconnect(&driver, &container, true);
        assert_eq!(names(&tcx::programs(&nic.name, hook)), ["passthru_idle"]);
        assert_eq!(nic.look(), before);
        drop(link);
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    assert_eq!(at_both(&nic), [[0; 0], [0; 0]]);
    driver.finish();
}

fn the_hosts_tcx_programs_stay() {
    let driver = Driver::start();
    let nic = Nic::new();
    tcx::attach(&nic.name, Hook::Egress);
    let _link = tcx::link(&nic.name, Hook::Ingress);
    let before = at_both(&nic);
    assert_eq!(before.each_ref().map(Vec::len), [1, 1]);
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    tcx::within(&container.netns.path(), || tcx::attach(Container::INSIDE, Hook::Egress));
    disconnect(&driver, &container, true);
    let idle = at_both(&nic).map(|mut programs| programs.remove(0));
    assert_eq!(names(&idle), ["passthru_idle"; 2]);
    assert_eq!(at_both(&nic), [[idle[0], before[0][0]], [idle[1], before[1][0]]]);
    // One that comes while the netdev is home is the host's, too, and ours are before it again.
    tcx::attach_first(&nic.name, Hook::Ingress);
    let third = tcx::programs(&nic.name, Hook::Ingress)[0];
    let container = Container::start(&driver, &nic, &network);
    let inside = tcx::within(&container.netns.path(), || {
        [Hook::Ingress, Hook::Egress].map(|hook| tcx::programs(Container::INSIDE, hook))
    });
    assert_eq!((&inside[0][1..], &inside[1][1..]), (&[third, before[0][0]][..], &before[1][..]));
    assert_eq!(names(&[inside[0][0], inside[1][0]]), ["passthru_rx_tcx", "passthru_tx_tcx"]);
    disconnect(&driver, &container, true);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    assert_eq!(at_both(&nic), [vec![third, before[0][0]], before[1].clone()]);
    driver.finish();
}

/// From one container of a network to the next, but neither without the network nor without the driver.
fn links_stay_with_the_network_and_the_driver() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let mut used = Vec::new();
    for round in 0..3 {
        let container = Container::start(&driver, &nic, &network);
        used.push(tcx::within(&container.netns.path(), || tcx::programs(Container::INSIDE, Hook::Egress)));
        disconnect(&driver, &container, true);
        assert_eq!(nic.look(), before);
        assert_eq!(entries(&driver.bpffs), [""; 0]);
        assert_eq!(names(&at_both(&nic).concat()), ["passthru_idle"; 2]);
        if round == 1 {
            driver.kill();
            eventually("its links go with it", || match at_both(&nic).concat() {
                left if left.is_empty() => Ok(()),
                left => Err(names(&left).join(", ")),
            });
            driver.serve();
        }
    }
    // The same program, until there was another driver.
    assert_eq!(used[0], used[1]);
    assert_ne!(used[1], used[2]);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    assert_eq!(at_both(&nic).concat(), [0; 0]);
    driver.finish();
}

/// What is at a NIC's TCX hooks.
fn at_both(nic: &Nic) -> [Vec<u32>; 2] {
    [Hook::Ingress, Hook::Egress].map(|hook| tcx::programs(&nic.name, hook))
}

/// What programs are called.
#[track_caller]
fn names(programs: &[u32]) -> Vec<String> {
    let name = |id: &u32| {
        let shown = command::run("bpftool", &["--json", "prog", "show", "id", &id.to_string()]);
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("what bpftool says");
        shown["name"].as_str().unwrap_or_default().to_owned()
    };
    programs.iter().map(name).collect()
}

fn names_that_are_no_text_are_taken_off() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link property add dev {} altname {}-alt", nic.name, nic.name));
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    // The engine takes it home if it finds it: then it is there with what the container called it.
    for (renamed, engine_moves) in [(true, true), (false, true), (true, false)] {
        let container = Container::start(&driver, &nic, &network);
        ip_with(&container.netns, "link set eth0 alias NAME", NO_TEXT);
        ip_with(&container.netns, "link property add dev eth0 altname NAME", b"\xfe\xff");
        if renamed {
            ip_with(&container.netns, "link set eth0 down", NO_TEXT);
            ip_with(&container.netns, "link set eth0 name NAME", b"\xff\xfd");
        }
        disconnect(&driver, &container, engine_moves);
        assert_eq!(nic.look(), before, "renamed: {renamed}");
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn names_that_are_no_text_do_not_hide_upper_devices() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    container.netns.ip("link add link eth0 name spy type macvlan");
    ip_with(&container.netns, "link set spy alias NAME", NO_TEXT);
    disconnect(&driver, &container, true);
    assert_has(&container.netns.place(), "spy", false);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn states_that_the_container_forced_are_undone() {
    let driver = Driver::start();
    let nic = Nic::new();
    // Of the virtual ones that can be handed over, these can be kept down by a protocol.
    let name = format!("{}v", nic.name);
    command::ip(&format!("link add {name} link {} type macvlan mode passthru", nic.name));
    // `ip` does not say whether a netdev is kept down in JSON, nor the mode with the addresses.
    let look = || {
        let all = command::ip(&format!("-d link show dev {name}"));
        let words: Vec<_> = all.split_whitespace().map(str::to_owned).collect();
        let mode = words.iter().position(|word| word == "mode").map(|at| words[at + 1].clone());
        (mode, all.contains("protodown on"), all.contains("protodown_reason"))
    };
    let before = look();
    assert_eq!(before, (Some("DEFAULT".into()), false, false));
    let id = simulated::create_network_with(&driver, &json!({"netdevice": name}));
    let endpoint = docker_id();
    driver.done("CreateEndpoint", &simulated::endpoint(&id, &endpoint, ""));
    let netns = Netns::new(format!("c{}", &endpoint[..8]));
    command::ip(&format!("link set {name} netns {}", netns.name()));
    for change in ["mode dormant", "protodown on", "protodown_reason 3 on"] {
        netns.ip(&format!("link set {name} {change}"));
    }
    driver.done("DeleteEndpoint", &simulated::ids(&id, &endpoint));
    assert_eq!(look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
}
