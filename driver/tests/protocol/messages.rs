//! The operations: what they answer, what they make of nonsense, and of being asked twice.
use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    assert_names, docker_id,
    driver::{Driver, entries},
    nic::Nic,
    simulated::{self, Container},
    trials,
};

trials![
    every_operation_answers_twice_the_same,
    deleting_the_unknown_is_done_already,
    joining_the_unknown_is_refused,
    notices_are_taken,
    gateway_allocation_is_answered,
    missing_field_is_named,
    nonsense_is_a_complaint,
    empty_body_changes_nothing,
    delete_network_without_an_id_deletes_nothing,
    id_with_a_path_in_it_is_refused,
    strange_subnets_crash_nothing,
    gateway_is_given_to_the_container,
    internal_network_has_no_gateway,
    null_ipam_needs_no_gateway,
    join_says_what_to_move,
];

/// Every operation that does something to a network.
const WITH_NETWORK: [&str; 6] =
    ["CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Join", "Leave"];

/// Those of them that name an endpoint, too.
const WITH_ENDPOINT: [&str; 4] = ["CreateEndpoint", "DeleteEndpoint", "Join", "Leave"];

/// Those that have an answer to everything, as the engine needs it: an error would cost the container.
const NEVER_FAIL: [&str; 5] = [
    "AllocateNetwork",
    "FreeNetwork",
    "EndpointOperInfo",
    "ProgramExternalConnectivity",
    "RevokeExternalConnectivity",
];

fn every_operation_answers_twice_the_same() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = docker_id();
    let twice = |operation: &str, body: &Value| {
        let first = driver.done(operation, body);
        assert_eq!(driver.done(operation, body), first, "{operation}, the second time");
        first
    };
    let empty = json!({});
    assert_eq!(twice("CreateNetwork", &simulated::network(&network, &json!({"netdevice": nic.name}))), empty);
    let container = Container::create(&driver, &nic, &network);
    let body = simulated::endpoint(&network, &container.endpoint, "");
    // Only what was left empty may be filled; Docker shows it to its user.
    assert_eq!(twice("CreateEndpoint", &body), json!({"Interface": {"MacAddress": nic.mac()}}));
    let join = container.join_body();
    twice("Join", &join);
    assert!(twice("EndpointOperInfo", &container.ids())["Value"].is_object());
    container.move_in();
    // The device is elsewhere now; a retry that was under way all the time must not mind.
    twice("CreateEndpoint", &body);
    twice("Join", &join);
    assert_eq!(twice("ProgramExternalConnectivity", &container.ids()), empty);
    assert!(twice("EndpointOperInfo", &container.ids())["Value"].is_object());
    assert!(container.look().is_some_and(|look| look.is_up()), "the container has its netdev still");
    assert_eq!(twice("RevokeExternalConnectivity", &container.ids()), empty);
    assert_eq!(twice("Leave", &container.ids()), empty);
    container.move_out();
    assert_eq!(twice("DeleteEndpoint", &container.ids()), empty);
    assert_eq!(twice("DeleteNetwork", &json!({"NetworkID": network})), empty);
    assert_eq!(nic.look(), before);
    driver.finish();
}

fn deleting_the_unknown_is_done_already() {
    let driver = Driver::start();
    let (network, endpoint) = (docker_id(), docker_id());
    for operation in ["Leave", "DeleteEndpoint", "RevokeExternalConnectivity"] {
        driver.done(operation, &simulated::ids(&network, &endpoint));
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    // Never a reason for a container not to start.
    driver.done("ProgramExternalConnectivity", &simulated::ids(&network, &endpoint));
    driver.done("EndpointOperInfo", &simulated::ids(&network, &endpoint));
    driver.finish();
}

fn joining_the_unknown_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    let (network, endpoint) = (docker_id(), docker_id());
    let complaint = driver.refused("CreateEndpoint", &simulated::endpoint(&network, &endpoint, ""));
    assert_names(&complaint, &[&network[..12]]);
    let known = simulated::create_network(&driver, &nic);
    let mut join = simulated::ids(&known, &endpoint);
    join["SandboxKey"] = json!("/run/netns/none");
    join["Options"] = json!({});
    assert_names(&driver.refused("Join", &join), &[&endpoint[..12]]);
    driver.done("DeleteNetwork", &json!({"NetworkID": known}));
    driver.finish();
}

fn notices_are_taken() {
    let driver = Driver::start();
    let node = json!({"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.1", "Self": true}});
    for operation in ["DiscoverNew", "DiscoverDelete"] {
        assert_eq!(driver.done(operation, &node), json!({}));
        assert_eq!(driver.done(operation, &node), json!({}));
    }
    let network = docker_id();
    let body = json!({"NetworkID": network, "Options": {}, "IPv4Data": [], "IPv6Data": []});
    for _ in 0..2 {
        assert!(driver.done("AllocateNetwork", &body).is_object());
    }
    for _ in 0..2 {
        assert_eq!(driver.done("FreeNetwork", &json!({"NetworkID": network})), json!({}));
    }
    driver.finish();
}

fn gateway_allocation_is_answered() {
    let driver = Driver::start();
    let body = json!({"Options": {"com.docker.network.generic": {"netdevice": "eth9"}}});
    for _ in 0..2 {
        let answer = driver.done("GwAllocCheck", &body);
        assert!(answer["SkipIPv4"].is_boolean() && answer["SkipIPv6"].is_boolean(), "{answer}");
    }
    driver.finish();
}

fn missing_field_is_named() {
    let driver = Driver::start();
    let id = docker_id();
    let whole = json!({
        "NetworkID": id, "EndpointID": id, "SandboxKey": "/run/netns/x", "Options": {},
        "Interface": {"Address": "10.0.0.2/8"}, "IPv4Data": [], "IPv6Data": [],
    });
    let complaint_without = |operation: &str, field: &str| {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().remove(field);
        driver.post(&format!("/NetworkDriver.{operation}"), body.to_string().as_bytes()).complaint()
    };
    for operation in WITH_NETWORK {
        assert_names(&complaint_without(operation, "NetworkID"), &["NetworkID"]);
    }
    for operation in WITH_ENDPOINT {
        assert_names(&complaint_without(operation, "EndpointID"), &["EndpointID"]);
    }
    driver.assert_alive();
    driver.finish();
}

fn nonsense_is_a_complaint() {
    let driver = Driver::start();
    let nonsense: [&[u8]; 11] = [
        b"{",
        b"{\"NetworkID\":",
        b"null",
        b"[]",
        b"\"NetworkID\"",
        b"7",
        b"plain text",
        b"{\"NetworkID\": 5, \"EndpointID\": []}",
        b"{\"NetworkID\": null, \"EndpointID\": null}",
        b"\xff\xfe",
        b"{\"NetworkID\": \"\", \"EndpointID\": \"\"}",
    ];
    for operation in WITH_NETWORK {
        for body in nonsense {
            driver.post(&format!("/NetworkDriver.{operation}"), body).complaint();
        }
        let deep = "[".repeat(100_000);
        driver.post(&format!("/NetworkDriver.{operation}"), deep.as_bytes()).complaint();
    }
    for operation in NEVER_FAIL {
        for body in nonsense {
            let answer = driver.post(&format!("/NetworkDriver.{operation}"), body);
            assert_eq!((answer.status, answer.json().get("Err")), (200, None), "{operation}");
        }
    }
    driver.assert_alive();
    driver.finish();
}

fn empty_body_changes_nothing() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    // A retry of the engine can come without a body: it says nothing of what was meant.
    for operation in WITH_NETWORK {
        driver.post(&format!("/NetworkDriver.{operation}"), b"").complaint();
    }
    for operation in NEVER_FAIL {
        assert_eq!(driver.post(&format!("/NetworkDriver.{operation}"), b"").json().get("Err"), None);
    }
    assert!(container.look().is_some_and(|look| look.is_up()));
    assert_eq!(driver.pins(&container.endpoint), ["counters", "rx", "tx"]);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn delete_network_without_an_id_deletes_nothing() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let before = tree(&driver.state_dir);
    assert!(!before.is_empty(), "nothing in {}", driver.state_dir.display());
    for body in [json!({}), json!({"NetworkID": ""}), json!({"NetworkID": "."}), json!({"NetworkID": "*"})] {
        driver.refused("DeleteNetwork", &body);
    }
    assert_eq!(tree(&driver.state_dir), before);
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn id_with_a_path_in_it_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    let above = driver.state_dir.ancestors().nth(2).unwrap().to_owned();
    let victim = above.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("counters"), "precious").unwrap();
    let network = simulated::create_network(&driver, &nic);
    let pins = entries(&driver.bpffs);
    let names: Vec<String> = tree(&above).into_iter().map(|(name, _)| name).collect();
    for id in ["../../victim", "/etc", "a/b", "..", "a\0b", &"a".repeat(300)] {
        let created =
            driver.refused("CreateNetwork", &simulated::network(id, &json!({"netdevice": nic.name})));
        assert_names(&created, &["NetworkID"]);
        driver.refused("DeleteNetwork", &json!({"NetworkID": id}));
        let endpoint = driver.refused("CreateEndpoint", &simulated::endpoint(&network, id, ""));
        assert_names(&endpoint, &["EndpointID"]);
        driver.refused("DeleteEndpoint", &simulated::ids(&network, id));
    }
    let after: Vec<String> = tree(&above).into_iter().map(|(name, _)| name).collect();
    assert_eq!(after, names);
    assert_eq!(fs::read_to_string(victim.join("counters")).unwrap(), "precious");
    assert_eq!(entries(&driver.bpffs), pins);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn strange_subnets_crash_nothing() {
    let driver = Driver::start();
    let nic = Nic::new();
    let strange = [
        json!(null),
        json!([null]),
        json!([]),
        json!({}),
        json!("10.0.0.0/8"),
        json!([{}]),
        json!([{"Pool": null, "Gateway": null}]),
        json!([{"Pool": "", "Gateway": ""}]),
        json!([{"Pool": "10.0.0.0/99", "Gateway": "10.0.0.1"}]),
        json!([{"Pool": 7}]),
        json!([{"Pool": "fd00::/64", "Gateway": "fd00::1/64"}]),
        json!([[[]]]),
    ];
    for field in ["IPv4Data", "IPv6Data", "Options"] {
        for value in &strange {
            let id = docker_id();
            let mut body = simulated::network(&id, &json!({"netdevice": nic.name}));
            body[field] = value.clone();
            // Taken or refused, but answered, and gone after.
            let _ = driver.call("CreateNetwork", &body);
            driver.done("DeleteNetwork", &json!({"NetworkID": id}));
        }
    }
    let network = simulated::create_network(&driver, &nic);
    for value in [json!(null), json!({}), json!("x"), json!([]), json!({"Address": "x", "MacAddress": "y"})] {
        let id = docker_id();
        let mut body = simulated::endpoint(&network, &id, "");
        body["Interface"] = value;
        let _ = driver.call("CreateEndpoint", &body);
        driver.done("DeleteEndpoint", &simulated::ids(&network, &id));
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.assert_alive();
    driver.finish();
}

/// `Join`'s answer on a network with these subnets and options.
fn joined(ipv4: &Value, ipv6: &Value, options: &[(&str, Value)]) -> Value {
    let driver = Driver::start();
    let nic = Nic::new();
    let id = docker_id();
    let mut body = simulated::network(&id, &json!({"netdevice": nic.name}));
    body["IPv4Data"] = ipv4.clone();
    body["IPv6Data"] = ipv6.clone();
    for (key, value) in options {
        body["Options"][key] = value.clone();
    }
    driver.done("CreateNetwork", &body);
    let container = Container::create(&driver, &nic, &id);
    let answer = container.join();
    // The same after a restart, from what is remembered.
    driver.kill();
    driver.serve();
    assert_eq!(container.join(), answer, "after a restart");
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
    answer
}

fn pool(pool: &str, gateway: &str) -> Value {
    json!([{"AddressSpace": "LocalDefault", "Pool": pool, "Gateway": gateway}])
}

/// A field that may be left out if it is empty.
fn field<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_default()
}

fn gateway_is_given_to_the_container() {
    let answer = joined(
        &pool("194.168.1.0/24", "194.168.1.1/24"),
        &pool("fd00:1::/64", "fd00:1::1/64"),
        &[("com.docker.network.enable_ipv6", json!(true)), ("com.docker.network.enable_ipv4", json!(true))],
    );
    // Without the prefix length: the engine parses an address.
    assert_eq!(field(&answer, "Gateway"), "194.168.1.1");
    assert_eq!(field(&answer, "GatewayIPv6"), "fd00:1::1");
}

fn internal_network_has_no_gateway() {
    let answer = joined(
        &pool("194.168.1.0/24", "194.168.1.1/24"),
        &pool("fd00:1::/64", "fd00:1::1/64"),
        &[("com.docker.network.internal", json!(true)), ("com.docker.network.enable_ipv6", json!(true))],
    );
    assert_eq!(field(&answer, "Gateway"), "");
    assert_eq!(field(&answer, "GatewayIPv6"), "");
    assert_eq!(answer["DisableGatewayService"], true, "or Docker adds a way out of its own");
}

fn null_ipam_needs_no_gateway() {
    let none = json!([{"AddressSpace": "null", "Pool": "0.0.0.0/0"}]);
    let answer = joined(&none, &json!([]), &[]);
    assert_eq!(field(&answer, "Gateway"), "");
    assert_eq!(answer["DisableGatewayService"], true, "or Docker adds a second interface");
}

fn join_says_what_to_move() {
    let driver = Driver::start();
    let nic = Nic::new();
    let id = simulated::create_network_with(
        &driver,
        &json!({"netdevice": nic.name, "mode": "passthrough", "prefix": "net"}),
    );
    let container = Container::create(&driver, &nic, &id);
    let answer = container.join();
    assert_eq!(answer["InterfaceName"], json!({"SrcName": nic.name, "DstPrefix": "net"}));
    driver.done("Leave", &container.ids());
    driver.done("DeleteEndpoint", &container.ids());
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
}

/// Every file under a folder, and what it has in it.
fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in entries(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            found.extend(tree(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else if name != "log" {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found
}
