//! Network options and the netdevice: what is refused, and what the user is told.
use serde_json::{Value, json};

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    nic::Nic,
    simulated::{self, Container},
    trials,
};

trials![
    value_out_of_range_is_explained,
    empty_value_is_refused,
    unknown_key_is_refused,
    every_good_value_is_taken,
    vf_settings_need_a_vf,
    sriov_needs_a_physical_function,
    netdevice_is_required,
    netdevice_has_to_exist,
    loopback_is_refused,
    netdevice_of_another_network_is_refused,
    immovable_netdevice_is_refused,
    enslaved_netdevice_is_refused,
    hosts_address_needs_force,
    hosts_route_needs_force,
    what_the_kernel_adds_itself_needs_no_force,
    second_endpoint_is_told_who_has_the_device,
    refused_network_leaves_nothing,
];

/// What the driver says to a network with these options.
#[track_caller]
fn complaint(driver: &Driver, options: &Value) -> String {
    driver.refused("CreateNetwork", &simulated::network(&docker_id(), options))
}

/// Makes a network with these options, and deletes it.
#[track_caller]
fn accepted(driver: &Driver, options: &Value) {
    let id = docker_id();
    driver.done("CreateNetwork", &simulated::network(&id, options));
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
}

fn value_out_of_range_is_explained() {
    let driver = Driver::start();
    let nic = Nic::new();
    let cases: [(&str, &[&str], &[&str]); 15] = [
        ("vlan", &["4095", "-1", "abc", "1.5", "0x10", " 5", "99999999999"], &["0 to 4094"]),
        ("mode", &["bridge", "SRIOV", "sr-iov"], &["sriov", "passthrough"]),
        ("privileged", &["2", "yes", "-1"], &["0", "1", "false", "true"]),
        ("prefix", &["a/b", "a b", "veryverylongprefix", "..", "é"], &[]),
        ("vfs", &["-1", "many", "70000"], &[]),
        ("vlan_qos", &["8", "-1", "high"], &["0 to 7"]),
        ("vlan_proto", &["802.3", "8021q", "0x8100"], &["802.1q", "802.1ad"]),
        ("min_tx_rate", &["-1", "fast", "99999999999"], &["Mbit/s"]),
        ("max_tx_rate", &["-1", "10G", "99999999999"], &["Mbit/s"]),
        ("link_state", &["up", "on"], &["auto", "enable", "disable"]),
        ("spoofchk", &["yes", "1"], &["on", "off"]),
        ("trust", &["no", "0"], &["on", "off"]),
        ("mtu", &["-5", "big", "67", "99999999999"], &[]),
        ("rx_hook", &["generic", "skb", "XDP"], &["auto", "xdp", "tcx"]),
        ("counters", &["all", "none"], &["basic", "detailed"]),
    ];
    for (key, values, right) in cases {
        for value in values {
            let said = complaint(&driver, &json!({"netdevice": nic.name, key: value}));
            assert_names(&said, &[&format!("{key}={value}")]);
            assert_names(&said, right);
        }
    }
    let said = complaint(&driver, &json!({"netdevice": nic.name, "vlan": "4095"}));
    assert_names(&said, &["vlan=4095: must be 0 to 4094"]);
    let said = complaint(&driver, &json!({"netdevice": nic.name, "force": "2"}));
    assert_names(&said, &["force=2", "1"]);
    driver.finish();
}

fn empty_value_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    for key in [
        "mode",
        "vlan",
        "privileged",
        "prefix",
        "vfs",
        "vlan_qos",
        "vlan_proto",
        "min_tx_rate",
        "max_tx_rate",
        "link_state",
        "spoofchk",
        "trust",
        "mtu",
        "rx_hook",
        "counters",
        "force",
    ] {
        assert_names(&complaint(&driver, &json!({"netdevice": nic.name, key: ""})), &[&format!("{key}=")]);
    }
    assert_names(&complaint(&driver, &json!({"netdevice": ""})), &["netdevice="]);
    driver.finish();
}

fn unknown_key_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    for key in ["colour", "Vlan", "vlan ", "netdevice2", "com.example.vlan"] {
        let said = complaint(&driver, &json!({"netdevice": nic.name, key: "red"}));
        // And which there are.
        assert_names(&said, &[key, "netdevice", "vlan", "rx_hook"]);
    }
    driver.finish();
}

fn every_good_value_is_taken() {
    let driver = Driver::start();
    let nic = Nic::new();
    let good: [(&str, &[&str]); 7] = [
        ("mode", &["passthrough"]),
        ("privileged", &["0", "1", "false", "true"]),
        ("prefix", &["net", "wan-", "a"]),
        ("mtu", &["68", "1280", "1500", "9000"]),
        ("rx_hook", &["auto", "xdp", "tcx"]),
        ("counters", &["basic", "detailed"]),
        ("force", &["0", "1"]),
    ];
    for (key, values) in good {
        for value in values {
            accepted(&driver, &json!({"netdevice": nic.name, key: value}));
        }
    }
    driver.finish();
}

fn vf_settings_need_a_vf() {
    let driver = Driver::start();
    let nic = Nic::new();
    for (key, value) in [
        ("vlan", "100"),
        ("vfs", "2"),
        ("vlan_qos", "3"),
        ("vlan_proto", "802.1ad"),
        ("min_tx_rate", "10"),
        ("max_tx_rate", "10"),
        ("link_state", "enable"),
        ("spoofchk", "on"),
        ("trust", "on"),
    ] {
        for options in [
            json!({"netdevice": nic.name, key: value, "mode": "passthrough"}),
            json!({"netdevice": nic.name, key: value}),
        ] {
            assert_names(&complaint(&driver, &options), &[key, "passthrough"]);
        }
    }
    driver.finish();
}

fn sriov_needs_a_physical_function() {
    let driver = Driver::start();
    let nic = Nic::new();
    let said = complaint(&driver, &json!({"netdevice": nic.name, "mode": "sriov"}));
    assert_names(&said, &[&nic.name, "SR-IOV"]);
    driver.finish();
}

fn netdevice_is_required() {
    let driver = Driver::start();
    assert_names(&complaint(&driver, &json!({})), &["netdevice"]);
    assert_names(&complaint(&driver, &json!({"mode": "passthrough"})), &["netdevice"]);
    let mut body = simulated::network(&docker_id(), &json!(null));
    assert_names(&driver.refused("CreateNetwork", &body), &["netdevice"]);
    body["Options"] = json!({});
    assert_names(&driver.refused("CreateNetwork", &body), &["netdevice"]);
    driver.finish();
}

fn netdevice_has_to_exist() {
    let driver = Driver::start();
    for name in ["nosuch0", "../lo", "lo/..", "a b", "waytoolongforanetdevice"] {
        let said = complaint(&driver, &json!({"netdevice": name}));
        assert_names(&said, &[name]);
    }
    driver.finish();
}

fn loopback_is_refused() {
    let driver = Driver::start();
    assert_names(&complaint(&driver, &json!({"netdevice": "lo"})), &["lo", "loopback"]);
    assert_names(&complaint(&driver, &json!({"netdevice": "lo", "force": "1"})), &["loopback"]);
    driver.finish();
}

fn netdevice_of_another_network_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    let first = simulated::create_network(&driver, &nic);
    let taken = json!({"netdevice": nic.name, "force": "1"});
    assert_names(&complaint(&driver, &taken), &[&nic.name, &first[..12]]);
    // Also while it is away in a container, and under another of its names.
    let altname = format!("{}-alt", nic.name);
    command::ip(&format!("link property add dev {} altname {altname}", nic.name));
    assert_names(&complaint(&driver, &json!({"netdevice": altname})), &[&first[..12]]);
    let container = Container::start(&driver, &nic, &first);
    assert_names(&complaint(&driver, &taken), &[&nic.name, &first[..12]]);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": first}));
    accepted(&driver, &taken);
    driver.finish();
}

fn immovable_netdevice_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    let bridge = format!("br-{}", nic.name);
    command::ip(&format!("link add {bridge} type bridge"));
    let said = complaint(&driver, &json!({"netdevice": bridge, "force": "1"}));
    command::ip(&format!("link del {bridge}"));
    assert_names(&said, &[&bridge, "network namespace"]);
    driver.finish();
}

fn enslaved_netdevice_is_refused() {
    let driver = Driver::start();
    let nic = Nic::new();
    let bridge = format!("br-{}", nic.name);
    command::ip(&format!("link add {bridge} type bridge"));
    command::ip(&format!("link set {} master {bridge}", nic.name));
    let said = complaint(&driver, &json!({"netdevice": nic.name}));
    assert_names(&said, &[&nic.name, &bridge]);
    command::ip(&format!("link del {bridge}"));
    accepted(&driver, &json!({"netdevice": nic.name}));
    driver.finish();
}

fn hosts_address_needs_force() {
    let driver = Driver::start();
    for address in ["192.0.2.7/24", "2001:db8::7/64"] {
        let nic = Nic::new();
        command::ip(&format!("link set {} up", nic.name));
        command::ip(&format!("addr add {address} dev {} nodad", nic.name));
        let plain = address.split('/').next().unwrap();
        for options in [json!({"netdevice": nic.name}), json!({"netdevice": nic.name, "force": "0"})] {
            assert_names(&complaint(&driver, &options), &[&nic.name, plain, "force=1"]);
        }
        accepted(&driver, &json!({"netdevice": nic.name, "force": "1"}));
    }
    driver.finish();
}

fn hosts_route_needs_force() {
    let driver = Driver::start();
    for (family, route) in
        [("-4", "198.51.100.0/24"), ("-6", "2001:db8:9::/64"), ("-4", "default"), ("-6", "default")]
    {
        let nic = Nic::new();
        command::ip(&format!("link set {} up", nic.name));
        // A metric of its own: other tests may have such a route as well.
        command::ip(&format!("{family} route add {route} dev {} metric {}", nic.name, &nic.name[3..]));
        let said = complaint(&driver, &json!({"netdevice": nic.name}));
        assert_names(&said, &[&nic.name, "route", "force=1"]);
        accepted(&driver, &json!({"netdevice": nic.name, "force": "1"}));
    }
    driver.finish();
}

fn what_the_kernel_adds_itself_needs_no_force() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link set {} up", nic.name));
    crate::support::eventually("a link-local address", || {
        let said = command::ip(&format!("-6 addr show dev {} scope link", nic.name));
        if said.contains("fe80:") { Ok(()) } else { Err(said) }
    });
    accepted(&driver, &json!({"netdevice": nic.name}));
    driver.finish();
}

fn second_endpoint_is_told_who_has_the_device() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let second = || driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), ""));
    let first = Container::create(&driver, &nic, &network);
    let who = format!("in use by endpoint {}", &first.endpoint[..12]);
    assert_names(&second(), &[&nic.name, &who]);
    first.join();
    first.move_in();
    assert_names(&second(), &[&nic.name, &who]);
    assert!(first.look().is_some_and(|look| look.is_up()), "the first keeps it");
    first.stop();
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn refused_network_leaves_nothing() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let id = docker_id();
    let bad = simulated::network(&id, &json!({"netdevice": nic.name, "vlan": "4095"}));
    driver.refused("CreateNetwork", &bad);
    assert_names(
        &driver.refused("CreateEndpoint", &simulated::endpoint(&id, &docker_id(), "")),
        &[&id[..12]],
    );
    assert_eq!(nic.look(), before);
    accepted(&driver, &json!({"netdevice": nic.name}));
    driver.finish();
}
