//! What goes over the wire, in both directions, and what is counted of it.
use std::fs;

use crate::support::{
    command,
    container::{Container, Network},
    docker::Engine,
    driver::Driver,
    eventually,
    nic::{Nic, Traffic},
    trials,
};

trials![
    both_ways_by_tcp_and_ping,
    both_hooks,
    two_networks_in_one_container,
    stats_without_the_driver,
    stats_name_the_container,
];

/// How much a transfer has in it.
const SIZE: u64 = 2 << 20;

/// Fetches a file from the container into the far end.
fn fetch_from(container: &Container, nic: &Nic) {
    container.sh(&format!("mkdir -p /www && head -c {SIZE} /dev/urandom > /www/file"));
    container.background("httpd -f -p 80 -h /www");
    let file = format!("/run/{}.fetched", nic.name);
    let fetch = format!("busybox wget -q -O {file} http://{}/file", nic.near4(2));
    eventually("the container serves", || nic.far.place().attempt(&fetch));
    let there = container.sh("md5sum < /www/file");
    let here = command::run("busybox", &["md5sum", &file]);
    assert_eq!(here.split(' ').next(), there.split(' ').next());
}

/// Fetches a file from the far end into the container.
fn fetch_into(container: &Container, nic: &Nic) {
    let folder = format!("/run/{}.www", nic.name);
    fs::create_dir_all(&folder).unwrap();
    let content: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
    fs::write(format!("{folder}/file"), &content).unwrap();
    let _server = nic.far.background(&format!("busybox httpd -f -p 80 -h {folder}"));
    let fetch = format!("wget -q -O /tmp/file http://{}/file", nic.far4());
    eventually("the far end serves", || {
        container.attempt(&fetch).map_err(|complaint| format!("{fetch}: {complaint}"))
    });
    let here = command::run("busybox", &["md5sum", &format!("{folder}/file")]);
    let there = container.sh("md5sum < /tmp/file");
    assert_eq!(here.split(' ').next(), there.split(' ').next());
}

fn both_ways_by_tcp_and_ping() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("web", &[]);
    assert_eq!(container.netdevs(), ["eth0"]);
    assert!(container.sh("ip route").contains(&format!("default via {} dev eth0", nic.far4())));
    container.sh(&format!("ping -c 20 -i 0.02 -W 5 {}", nic.far4()));
    nic.ping(&nic.near4(2), 20);
    let pings = driver.agrees_with(&nic, Traffic::default()).traffic();
    assert!(pings.rx_packets >= 40 && pings.tx_packets >= 40, "{pings:?}");
    fetch_from(&container, &nic);
    let sent = driver.agrees_with(&nic, Traffic::default()).traffic();
    assert!(sent.tx_bytes - pings.tx_bytes > SIZE, "{pings:?}, {sent:?}");
    fetch_into(&container, &nic);
    let received = driver.agrees_with(&nic, Traffic::default()).traffic();
    assert!(received.rx_bytes - sent.rx_bytes > SIZE, "{sent:?}, {received:?}");
    container.stop();
    network.assert_home();
    assert!(driver.stats().is_empty());
    drop(container);
    network.remove();
    driver.finish();
}

fn both_hooks() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    for hook in ["xdp", "tcx"] {
        let nic = Nic::new();
        let network = Network::create(engine, &driver, &nic, &["-o", &format!("rx_hook={hook}")]);
        let container = network.run("hook", &[]);
        nic.ping(&nic.near4(2), 20);
        fetch_into(&container, &nic);
        let stats = driver.agrees_with(&nic, Traffic::default());
        assert_eq!(stats.rx_hook, hook);
        assert!(stats.traffic().rx_bytes > SIZE, "{stats:?}");
        drop(container);
        network.remove();
    }
    driver.finish();
}

fn two_networks_in_one_container() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    let (first, second) = (Nic::new(), Nic::new());
    let one = Network::create(engine, &driver, &first, &[]);
    let two = Network::create(engine, &driver, &second, &["-o", "prefix=net"]);
    let container = one.run("both", &[]);
    engine.docker(&["network", "connect", &two.name, &container.name]);
    assert_eq!(container.netdevs(), ["eth0", "net0"]);
    first.ping(&first.near4(2), 10);
    second.ping(&second.near4(2), 25);
    container.sh(&format!(
        "ping -c 5 -i 0.02 -W 5 {} && ping -c 5 -i 0.02 -W 5 {}",
        first.far4(),
        second.far4()
    ));
    let a = driver.agrees_with(&first, Traffic::default());
    let b = driver.agrees_with(&second, Traffic::default());
    assert!(a.traffic().rx_packets >= 15 && b.traffic().rx_packets >= 30, "{a:?}, {b:?}");
    driver.names(&first.name, &container.name);
    driver.names(&second.name, &container.name);
    assert_ne!(a.endpoint_id, b.endpoint_id);
    engine.docker(&["network", "disconnect", &one.name, &container.name]);
    one.assert_home();
    assert_eq!(container.netdevs(), ["net0"]);
    second.ping(&second.near4(2), 5);
    driver.agrees_with(&second, Traffic::default());
    container.stop();
    two.assert_home();
    drop(container);
    one.remove();
    two.remove();
    driver.finish();
}

fn stats_without_the_driver() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("on", &[]);
    nic.ping(&nic.near4(2), 10);
    driver.terminate();
    nic.ping(&nic.near4(2), 10);
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().rx_packets >= 20, "{stats:?}");
    driver.names(&nic.name, &container.name);
    driver.serve();
    drop(container);
    network.remove();
    driver.finish();
}

fn stats_name_the_container() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("named", &[]);
    let id = engine.docker(&["network", "inspect", "-f", "{{.Id}}", &network.name]);
    let stats = driver.stats_of(&nic.name);
    assert_eq!((&stats.network_id, stats.mode.as_str()), (&id, "passthrough"));
    driver.names(&nic.name, &container.name);
    // And it can be asked for by either.
    let named = driver.stats_for(&[&container.name]);
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].endpoint_id, stats.endpoint_id);
    assert_eq!(driver.stats_for(&[&stats.endpoint_id[..12]]).len(), 1);
    drop(container);
    network.remove();
    driver.finish();
}
