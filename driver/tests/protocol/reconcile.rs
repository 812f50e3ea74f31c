//! What becomes of netdevs without a word from Docker, told by the kernel: no look from time to time helps.
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use docker_passthrough::device::{netns::NetNs, rtnl::Rtnl};
use serde_json::{Value, json};

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    eventually,
    look::Look,
    netns::Netns,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    trials, unique,
};

trials![
    netdev_that_comes_home_is_put_right,
    netdev_that_comes_home_otherwise_than_it_went_is_put_right,
    netdev_that_comes_home_in_a_flood_is_put_right,
    stray_that_comes_home_is_put_right,
    netdev_that_is_gone_is_forgotten,
    totals_of_a_netdev_that_is_gone_stay_until_the_endpoint_ends,
    running_container_is_left_alone,
    a_mark_is_seen_while_netdevs_come_and_go,
];

/// All endpoints are looked at when it starts, and then not for a day.
const SELDOM: [&str; 2] = ["--look", "86400"];

/// A driver that hears from nobody but the kernel.
fn start() -> Driver {
    let driver = Driver::without_engine();
    driver.serve_with(&SELDOM);
    driver
}

/// Waits until the NIC is as it was, and no endpoint has it.
#[track_caller]
fn wait_free(driver: &Driver, nic: &Nic, before: Option<&Look>) {
    eventually("the NIC is as it was, and nobody has it", || {
        let (now, stats) = (nic.look(), driver.stats());
        let taken = stats.iter().any(|stats| stats.netdevice == nic.name);
        if now.as_ref() == before && !taken { Ok(()) } else { Err(format!("{now:?}, {stats:?}")) }
    });
}

/// The container ends, and its netdev comes home as hardware does.
fn comes_home(container: &Container) {
    container.netns.ip("link set eth0 down");
    container.netns.ip(&format!("link set eth0 name lost{}", &container.endpoint[..8]));
    container.netns.ip(&format!("link set lost{} netns 1", &container.endpoint[..8]));
}

fn netdev_that_comes_home_is_put_right() {
    let (driver, nic) = (start(), Nic::new());
    command::ip(&format!("link set {} up alias mine", nic.name));
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    for _ in 0..3 {
        let container = Container::start(&driver, &nic, &network);
        nic.ping(&nic.near4(2), 1);
        comes_home(&container);
        wait_free(&driver, &nic, before.as_ref());
        // Docker may say so all the same, later.
        container.leave();
        driver.done("DeleteEndpoint", &container.ids());
        assert_eq!(nic.look(), before);
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

/// The kernel's event tells a number, a name and a tag: two of three are the container's to change, and the number
/// is another one where it is taken.
fn netdev_that_comes_home_otherwise_than_it_went_is_put_right() {
    let (driver, nic) = (start(), Nic::new());
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let number = || command::run("cat", &[&format!("/sys/class/net/{}/ifindex", nic.name)]).trim().to_owned();
    for (tag, name, same_number) in [(true, false, false), (false, true, false), (false, false, true)] {
        let container = Container::create(&driver, &nic, &network);
        container.join();
        let before_it_went = number();
        container.move_in();
        let squatter = format!("squat{}", unique());
        if !same_number {
            command::ip(&format!("link add {squatter} index {before_it_went} type bridge"));
        }
        let home = if name { nic.name.clone() } else { format!("lost{}", unique()) };
        container.netns.ip("link set eth0 down");
        if !tag {
            container.netns.ip("link set eth0 alias evil");
        }
        container.netns.ip(&format!("link set eth0 name {home}"));
        container.netns.ip(&format!("link set {home} netns 1"));
        eventually("the NIC is as it was, and nobody has it", || {
            let (now, stats) = (nic.look(), driver.stats());
            if now == before && stats.is_empty() {
                Ok(())
            } else {
                Err(format!("tag {tag}, name {name}, number {same_number}: {now:?}, {stats:?}"))
            }
        });
        assert_eq!(number() == before_it_went, same_number);
        if !same_number {
            command::ip(&format!("link del {squatter}"));
        }
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn netdev_that_comes_home_in_a_flood_is_put_right() {
    let (driver, nic) = (start(), Nic::new());
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let noise = format!("noise{}", unique());
    command::ip(&format!("link add {noise} type veth peer name {noise}p"));
    let flood: Vec<String> = (0..6000).map(|n| format!("link set {noise} alias a{n}")).collect();
    // Meanwhile it reads nothing, and the kernel keeps no more than it has room for.
    driver.stop_for(|| {
        command::ip_batch(None, &flood[..3000]).unwrap();
        comes_home(&container);
        command::ip_batch(None, &flood[3000..]).unwrap();
    });
    wait_free(&driver, &nic, before.as_ref());
    command::ip(&format!("link del {noise}"));
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn stray_that_comes_home_is_put_right() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    driver.kill();
    fs::remove_dir_all(&driver.state_dir).unwrap();
    driver.serve_with(&SELDOM);
    comes_home(&container);
    eventually("it has its name back, and no tag", || match nic.look() {
        Some(Look { alias: None, .. }) if driver.pins(&container.endpoint).is_empty() => Ok(()),
        look => Err(format!("{look:?}")),
    });
    driver.finish();
}

fn netdev_that_is_gone_is_forgotten() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    // Made ready, and not yet in a container.
    let container = Container::create(&driver, &nic, &network);
    command::ip(&format!("link del {}", nic.name));
    eventually("its endpoint is forgotten", || {
        let pins = driver.pins(&container.endpoint);
        if driver.stats().is_empty() && pins.is_empty() { Ok(()) } else { Err(format!("{pins:?}")) }
    });
    nic.plug();
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

/// A netdev that ends in a container, a VF that is taken away say, takes no figure along.
fn totals_of_a_netdev_that_is_gone_stay_until_the_endpoint_ends() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 5);
    let counted = driver.agrees_with(&nic, Traffic::default()).traffic();
    container.netns.ip("link del eth0");
    // Neighbours may have asked for each other meanwhile.
    let last = driver.stats_for(&[&container.endpoint])[0].traffic();
    assert!(
        last.rx_packets >= counted.rx_packets && last.tx_bytes >= counted.tx_bytes,
        "{last:?}, {counted:?}"
    );
    container.leave();
    driver.done("DeleteEndpoint", &container.ids());
    assert_eq!(driver.pins(&container.endpoint), [""; 0]);
    let total = format!("rx_packets={} rx_bytes={}", last.rx_packets, last.rx_bytes);
    assert_names(&driver.log(), &[&total]);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn running_container_is_left_alone() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    // What the kernel tells of the host is about this netdev only in name, number or tag.
    let impostor = format!("imp{}", unique());
    let alias = format!("docker-passthrough {} {} {}", driver.name, container.endpoint, nic.name);
    command::ip(&format!("link add {impostor} type bridge"));
    command::prepared("ip", &["link", "set", &impostor, "alias", &alias]).status().unwrap();
    command::ip(&format!("link set {impostor} up"));
    // One that is really home tells when those events have been read.
    let other = Nic::new();
    let before = other.look();
    let second = simulated::create_network(&driver, &other);
    let ended = Container::start(&driver, &other, &second);
    comes_home(&ended);
    wait_free(&driver, &other, before.as_ref());
    nic.ping(&nic.near4(2), 1);
    driver.agrees_with(&nic, Traffic::default());
    container.stop();
    command::ip(&format!("link del {impostor}"));
    let removed = |network: &str| -> Value { json!({ "NetworkID": network }) };
    driver.done("DeleteNetwork", &removed(&network));
    driver.done("DeleteNetwork", &removed(&second));
    let unknown = driver.refused("CreateEndpoint", &simulated::endpoint(&second, &docker_id(), ""));
    assert_names(&unknown, &["not known"]);
    driver.finish();
}

/// A netdev whose mark is overlooked would be taken from a container that is just starting. Lists of all netdevs'
/// qdiscs, which the kernel hands out in parts, lack some while others go.
fn a_mark_is_seen_while_netdevs_come_and_go() {
    let netns = Netns::new(format!("marks{}", unique()));
    let there = NetNs::open(&netns.path()).expect("the namespace");
    let rtnl = Rtnl::within(&there).expect("a socket in it");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let others = (0..100).map(|n| format!("link add t{n} up group 7 type veth peer name u{n} group 7"));
    let add: Vec<_> = others.chain(["link add kept type veth peer name tpek".to_owned()]).collect();
    let mut seen = 0;
    for _ in 0..10 {
        command::ip_batch(Some(&netns.path()), &add).expect("netdevs");
        let kept = netns.ifindex("kept");
        assert!(runtime.block_on(rtnl.mark(kept)).expect("an ingress qdisc"));
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                netns.ip("link del group 7");
                gone.store(true, Ordering::Relaxed);
            });
            while !gone.load(Ordering::Relaxed) {
                assert!(runtime.block_on(rtnl.is_marked(kept)).expect("an answer"), "after {seen} times");
                seen += 1;
            }
        });
        runtime.block_on(rtnl.unmark(kept)).expect("taking it off");
        assert!(!runtime.block_on(rtnl.is_marked(kept)).expect("an answer"));
        netns.ip("link del kept");
        assert!(!runtime.block_on(rtnl.is_marked(kept)).expect("an answer"));
    }
    assert!(seen > 100, "{seen}");
}
