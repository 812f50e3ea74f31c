//! A netdev's way into a container and home: how it looks at each step, and what is counted.
use std::{sync::Barrier, thread};

use serde_json::json;

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    eventually,
    look::Look,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    trials,
};

trials![
    device_is_prepared_and_given_back,
    device_that_was_up_comes_back_with_addresses_and_routes,
    endpoint_that_never_joined_is_undone,
    what_the_container_changed_is_undone,
    mtu_is_set_and_given_back,
    mac_address_is_given_back,
    every_hook_counts_what_the_far_end_counts,
    own_multicast_is_not_received,
    container_cannot_take_the_counters_off,
    native_xdp_that_is_not_there_is_an_error,
    stats_name_the_endpoint,
    delete_without_leave_brings_the_device_home,
    twenty_networks_at_once,
    another_drivers_netdev_is_refused,
];

fn device_is_prepared_and_given_back() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link set {} alias uplink:rack-3 mtu 1400 txqueuelen 777", nic.name));
    command::ip(&format!("link property add dev {} altname {}-alt", nic.name, nic.name));
    let before = nic.look().unwrap();
    let network = simulated::create_network(&driver, &nic);
    assert_eq!(nic.look().unwrap(), before, "a network alone changes nothing");
    let container = Container::create(&driver, &nic, &network);
    let taken = nic.look().unwrap();
    assert!(!taken.is_up());
    assert_eq!((&taken.mac, taken.mtu), (&before.mac, before.mtu));
    assert_names(taken.alias.as_deref().unwrap_or("no alias"), &[&container.endpoint, &nic.name]);
    assert_eq!(driver.pins(&container.endpoint), ["counters", "rx", "tx"]);
    container.join();
    container.move_in();
    assert_eq!(nic.look(), None);
    nic.ping(&nic.near4(2), 3);
    container.leave();
    assert_ne!(
        container.look(),
        None,
        "the engine takes it out itself, and crashes if it often doesn't find it"
    );
    container.move_out();
    assert_ne!(nic.look(), None, "it is home before DeleteEndpoint");
    let ids = container.ids();
    driver.done("DeleteEndpoint", &ids);
    assert_eq!(nic.look().unwrap(), before);
    assert_eq!(driver.pins(&container.endpoint), [""; 0]);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    assert_eq!(nic.look().unwrap(), before);
    driver.finish();
}

fn device_that_was_up_comes_back_with_addresses_and_routes() {
    let driver = Driver::start();
    let nic = Nic::new();
    let name = &nic.name;
    command::ip(&format!("link set {name} up"));
    command::ip(&format!("addr add {}/24 dev {name}", nic.near4(9)));
    command::ip(&format!("addr add {}/24 dev {name}", nic.near4(10)));
    command::ip(&format!("addr add {}/64 dev {name} nodad", nic.near6(9)));
    command::ip(&format!("route add 198.51.100.0/24 via {} metric 4{}", nic.far4(), &name[3..]));
    command::ip(&format!("-6 route add 2001:db8::/48 via {} metric 4{}", nic.far6(), &name[3..]));
    let routes = || {
        let mut lines = Vec::new();
        for family in ["-4", "-6"] {
            let all = command::ip(&format!("{family} route show dev {name}"));
            // The kernel's own come and go with the carrier.
            lines.extend(
                all.lines()
                    .filter(|l| !l.contains("proto kernel"))
                    .map(|l| l.replace(" linkdown", "").trim().to_owned()),
            );
        }
        lines
    };
    let (before, routes_before) = (nic.look().unwrap(), routes());
    assert_eq!(routes_before.len(), 2, "{routes_before:?}");
    let id = simulated::create_network_with(&driver, &json!({"netdevice": name, "force": "1"}));
    assert_eq!(nic.look().unwrap(), before, "a network alone changes nothing");
    let container = Container::start(&driver, &nic, &id);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    eventually("the device is as it was", || {
        let now = (nic.look().unwrap(), routes());
        if now == (before.clone(), routes_before.clone()) {
            Ok(())
        } else {
            Err(format!("{now:?}, not {before:?}, {routes_before:?}"))
        }
    });
    nic.ping(&nic.near4(9), 1);
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
}

fn endpoint_that_never_joined_is_undone() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link set {} up", nic.name));
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    // As after an error elsewhere in the engine: before Join, and between Join and the move.
    for joins in [false, true] {
        let container = Container::create(&driver, &nic, &network);
        if joins {
            container.join();
            driver.done("Leave", &container.ids());
        }
        driver.done("DeleteEndpoint", &container.ids());
        assert_eq!(nic.look(), before, "joined: {joins}");
        assert_eq!(driver.pins(&container.endpoint), [""; 0]);
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn what_the_container_changed_is_undone() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link set {} up", nic.name));
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    for change in [
        "down",
        "address 02:ee:ee:ee:ee:ee",
        "mtu 1000",
        "alias evil",
        "txqueuelen 5",
        "gso_max_segs 2",
        "gso_max_size 3000",
        "gro_max_size 4000",
        "group 7",
        "broadcast 02:ff:ff:ff:ff:ff",
        "mode dormant",
        "promisc on",
        "allmulticast on",
        "multicast off",
        "arp off",
        "up",
    ] {
        container.netns.ip(&format!("link set {} {change}", Container::INSIDE));
    }
    container.netns.ip(&format!("link property add dev {} altname innocent", Container::INSIDE));
    container.netns.ip("link add evil0 type bridge");
    container.netns.ip(&format!("link set {} master evil0", Container::INSIDE));
    container.netns.run(&format!("tc qdisc add dev {} clsact", Container::INSIDE));
    container.stop();
    assert_eq!(nic.look(), before);
    let filters = command::run("tc", &["qdisc", "show", "dev", &nic.name]);
    assert!(!filters.contains("clsact"), "{filters}");
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn mtu_is_set_and_given_back() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    for mtu in [1280, 9000] {
        let options = json!({"netdevice": nic.name, "mtu": mtu.to_string()});
        let id = simulated::create_network_with(&driver, &options);
        let container = Container::start(&driver, &nic, &id);
        assert_eq!(container.look().unwrap().mtu, mtu);
        container.stop();
        assert_eq!(nic.look(), before);
        driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    }
    driver.finish();
}

fn mac_address_is_given_back() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let id = docker_id();
    let mac = "02:42:0a:00:00:09";
    driver.done("CreateEndpoint", &simulated::endpoint(&network, &id, mac));
    // The engine sets it, after the move; it stays on the device on the way back.
    command::ip(&format!("link set {} address {mac}", nic.name));
    driver.done("DeleteEndpoint", &simulated::ids(&network, &id));
    assert_eq!(nic.look(), before);
    for bad in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:42"] {
        let complaint = driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), bad));
        assert_names(&complaint, &[bad]);
    }
    assert_eq!(nic.look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn every_hook_counts_what_the_far_end_counts() {
    let driver = Driver::start();
    for (hook, expected) in [("xdp", "xdp"), ("tcx", "tcx"), ("auto", "")] {
        let nic = Nic::new();
        let id = simulated::create_network_with(&driver, &json!({"netdevice": nic.name, "rx_hook": hook}));
        let container = Container::start(&driver, &nic, &id);
        for size in [0, 1, 18, 1000, 1472] {
            nic.far.run(&format!("busybox ping -c 20 -i 0.01 -W 5 -s {size} {}", nic.near4(2)));
        }
        let stats = driver.agrees_with(&nic, Traffic::default());
        assert!(stats.traffic().rx_packets >= 100 && stats.traffic().tx_packets >= 100, "{stats:?}");
        assert!(stats.rx_hook.starts_with(expected), "{stats:?}");
        assert!(matches!(stats.rx_hook.as_str(), "xdp" | "tcx"), "{stats:?}");
        assert_eq!(stats.tx_hook, "tcx");
        assert_eq!(stats.spoofed(), 0);
        let xdp = container.look().unwrap().xdp;
        // 1 is the driver's own hook, 2 would be generic XDP.
        assert_eq!(xdp, (stats.rx_hook == "xdp").then(|| "mode 1".to_owned()));
        container.stop();
        driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    }
    driver.finish();
}

fn own_multicast_is_not_received() {
    let driver = Driver::start();
    for hook in ["xdp", "tcx"] {
        let nic = Nic::new();
        let id = simulated::create_network_with(&driver, &json!({"netdevice": nic.name, "rx_hook": hook}));
        let container = Container::start(&driver, &nic, &id);
        // The stack gives a sender who is in the group a copy of its own, as if the device had received it.
        let listen = format!("ip addr add 239.1.2.3/32 dev {} autojoin", Container::INSIDE);
        container.netns.run(&listen);
        container.netns.run(&format!("ip route add 224.0.0.0/4 dev {}", Container::INSIDE));
        for to in ["239.1.2.3", "224.0.0.1"] {
            let _ = container.netns.place().attempt(&format!("busybox ping -c 5 -i 0.05 -W 1 {to}"));
        }
        let stats = driver.agrees_with(&nic, Traffic::default());
        assert!(stats.traffic().tx_packets >= 5, "{stats:?}");
        container.stop();
        driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    }
    driver.finish();
}

fn container_cannot_take_the_counters_off() {
    let driver = Driver::start();
    for hook in ["xdp", "tcx"] {
        let nic = Nic::new();
        let id = simulated::create_network_with(&driver, &json!({"netdevice": nic.name, "rx_hook": hook}));
        let container = Container::start(&driver, &nic, &id);
        let inside = Container::INSIDE;
        for attack in [
            format!("ip link set dev {inside} xdp off"),
            format!("ip link set dev {inside} xdpdrv off"),
            format!("bpftool net detach xdpdrv dev {inside}"),
            format!("tc qdisc add dev {inside} clsact"),
            format!("tc filter del dev {inside} egress"),
            format!("tc qdisc del dev {inside} clsact"),
            format!("tc qdisc replace dev {inside} root pfifo"),
        ] {
            let _ = container.netns.place().attempt(&attack);
        }
        container.netns.ip(&format!("link set {inside} down"));
        container.netns.ip(&format!("link set {inside} name evil0"));
        container.netns.ip("link set evil0 up");
        nic.ping(&nic.near4(2), 10);
        let stats = driver.agrees_with(&nic, Traffic::default());
        assert!(stats.traffic().rx_packets >= 10 && stats.traffic().tx_packets >= 10, "{stats:?}");
        container.stop();
        driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    }
    driver.finish();
}

fn native_xdp_that_is_not_there_is_an_error() {
    let driver = Driver::start();
    let nic = Nic::new();
    let macvlan = format!("{}v", nic.name);
    command::ip(&format!("link add {macvlan} link {} type macvlan mode passthru", nic.name));
    let look = || Look::at(&crate::support::look::Place::Host, &macvlan);
    let before = look();
    let id = docker_id();
    let network = |hook| simulated::network(&id, &json!({"netdevice": macvlan, "rx_hook": hook}));
    // Where it is noticed is the driver's choice; that nothing is left of the attempt is not.
    let endpoint = docker_id();
    let complaint = driver
        .call("CreateNetwork", &network("xdp"))
        .and_then(|_| driver.call("CreateEndpoint", &simulated::endpoint(&id, &endpoint, "")));
    assert_names(&complaint.unwrap_err(), &[&macvlan, "xdp"]);
    assert_eq!(driver.pins(&endpoint), [""; 0]);
    assert_eq!(look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));

    driver.done("CreateNetwork", &network("auto"));
    driver.done("CreateEndpoint", &simulated::endpoint(&id, &endpoint, ""));
    assert_eq!(driver.stats_of(&macvlan).rx_hook, "tcx");
    driver.done("DeleteEndpoint", &simulated::ids(&id, &endpoint));
    assert_eq!(look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
}

fn stats_name_the_endpoint() {
    let driver = Driver::start();
    assert!(driver.stats().is_empty());
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    assert!(driver.stats().is_empty());
    let container = Container::start(&driver, &nic, &network);
    let stats = driver.stats_of(&nic.name);
    assert_eq!(stats.endpoint_id, container.endpoint);
    assert_eq!(stats.network_id, network);
    assert_eq!(stats.mode, "passthrough");
    assert_eq!(stats.container, None, "there is no engine to ask");
    container.stop();
    assert!(driver.stats().is_empty());
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn delete_without_leave_brings_the_device_home() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    driver.done("DeleteEndpoint", &container.ids());
    assert_eq!(nic.look(), before);
    assert_eq!(container.look(), None);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn twenty_networks_at_once() {
    const MANY: usize = 20;
    let driver = Driver::without_engine();
    // All wait for the kernel's one lock.
    driver.serve_with(&["--call-timeout", "60"]);
    let nics: Vec<Nic> = (0..MANY).map(|_| Nic::new()).collect();
    let start = Barrier::new(MANY);
    thread::scope(|scope| {
        for nic in &nics {
            let (driver, start) = (&driver, &start);
            scope.spawn(move || {
                let before = nic.look();
                start.wait();
                let network = simulated::create_network(driver, nic);
                for _ in 0..2 {
                    let since = nic.far_counters();
                    let container = Container::start(driver, nic, &network);
                    nic.ping(&nic.near4(2), 2);
                    driver.agrees_with(nic, since);
                    container.stop();
                }
                driver.done("DeleteNetwork", &json!({"NetworkID": network}));
                assert_eq!(nic.look(), before);
            });
        }
    });
    assert!(driver.stats().is_empty());
    driver.finish();
}

/// Two drivers of ours on one host know nothing of each other but what is on the netdev.
fn another_drivers_netdev_is_refused() {
    let (ours, theirs, nic) = (Driver::start(), Driver::start(), Nic::new());
    let networks = [&ours, &theirs].map(|driver| simulated::create_network(driver, &nic));
    let before = nic.look();
    let container = Container::create(&theirs, &nic, &networks[1]);
    let complaint = ours.refused("CreateEndpoint", &simulated::endpoint(&networks[0], &docker_id(), ""));
    assert_names(&complaint, &[&nic.name, "in use by a container of driver", &theirs.name]);
    theirs.done("DeleteEndpoint", &container.ids());
    assert_eq!(nic.look(), before);
    let container = Container::start(&ours, &nic, &networks[0]);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    ours.finish();
    theirs.finish();
}
