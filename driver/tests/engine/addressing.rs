//! What a user may ask for: addresses, names, MTU, and no way out.
use crate::support::{
    assert_names,
    container::Network,
    docker::Engine,
    driver::Driver,
    eventually,
    nic::{Nic, Traffic},
    trials,
};

trials![
    addresses_and_mac_by_request,
    dual_stack,
    prefix_and_mtu,
    internal_network,
    null_ipam,
    subnet_of_the_users_choice,
];

fn addresses_and_mac_by_request() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &["--ipv6", "--subnet", &nic.net6()]);
    let (ip, ip6, mac) = (nic.near4(77), nic.near6(0x77), "02:42:0a:40:00:77");
    let container = network.run("asked", &["--ip", &ip, "--ip6", &ip6, "--mac-address", mac]);
    let look = container.look("eth0");
    assert_eq!(look.mac, mac);
    assert!(
        look.addresses.contains(&format!("{ip}/24")) && look.addresses.contains(&format!("{ip6}/64")),
        "{look:?}"
    );
    assert_eq!(
        container.docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}"]),
        mac
    );
    nic.ping(&ip, 5);
    assert_names(&nic.far.ip(&format!("neigh show {ip}")), &[mac]);
    // The requested MAC is the endpoint's own: nothing of it is a forgery.
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert_eq!(stats.spoofed(), 0);
    container.stop();
    network.assert_home();
    container.docker(&["start"]);
    assert_eq!(container.look("eth0").mac, mac);
    nic.ping(&ip, 1);
    drop(container);
    // The next one gets the NIC's own again.
    let next = network.run("next", &[]);
    assert_eq!(next.look("eth0").mac, nic.mac());
    drop(next);
    network.remove();
    driver.finish();
}

fn dual_stack() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let (net6, far6) = (nic.net6(), nic.far6());
    let network = Network::create(engine, &driver, &nic, &["--ipv6", "--subnet", &net6, "--gateway", &far6]);
    let container = network.run("dual", &[]);
    assert_eq!(container.netdevs(), ["eth0"]);
    assert_names(&container.sh("ip route"), &[&format!("default via {} dev eth0", nic.far4())]);
    assert_names(&container.sh("ip -6 route"), &[&format!("default via {far6} dev eth0")]);
    // Neighbour discovery may have to wait for an address to be found free.
    eventually("IPv6 from the container", || container.attempt(&format!("ping -6 -c 1 -W 1 {far6}")));
    container.sh(&format!("ping -6 -c 10 -i 0.02 -W 5 {far6}"));
    container.sh(&format!("ping -c 10 -i 0.02 -W 5 {}", nic.far4()));
    nic.far.run(&format!("busybox ping -6 -c 10 -i 0.02 -W 5 {}", nic.near6(2)));
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().rx_packets >= 30 && stats.traffic().tx_packets >= 30, "{stats:?}");
    container.stop();
    network.assert_home();
    drop(container);
    network.remove();
    driver.finish();
}

fn prefix_and_mtu() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    nic.far.ip("link set far mtu 9000");
    let network = Network::create(engine, &driver, &nic, &["-o", "prefix=wan", "-o", "mtu=9000"]);
    let container = network.run("big", &[]);
    assert_eq!(container.netdevs(), ["wan0"]);
    assert_eq!(container.look("wan0").mtu, 9000);
    nic.far.run(&format!("busybox ping -c 5 -i 0.02 -W 5 -s 8900 {}", nic.near4(2)));
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().rx_bytes > 5 * 8900, "{stats:?}");
    // The prefix is known after a restart of the driver, too.
    driver.kill();
    driver.serve();
    container.docker(&["restart", "-t", "0"]);
    assert_eq!(container.netdevs(), ["wan0"]);
    assert_eq!(container.look("wan0").mtu, 9000);
    container.stop();
    network.assert_home();
    drop(container);
    network.remove();
    driver.finish();
}

fn internal_network() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &["--internal", "--ipv6", "--subnet", &nic.net6()]);
    let container = network.run("inside", &[]);
    assert_eq!(container.netdevs(), ["eth0"]);
    for family in ["-4", "-6"] {
        let routes = container.sh(&format!("ip {family} route"));
        assert!(!routes.contains("default"), "{routes}");
    }
    nic.ping(&nic.near4(2), 2);
    drop(container);
    network.remove();
    driver.finish();
}

fn null_ipam() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create_bare(engine, &driver, &nic, &["--ipam-driver", "null"]);
    let container = network.run("bare", &["--cap-add", "NET_ADMIN"]);
    // Without a gateway Docker would add an interface of its own.
    assert_eq!(container.netdevs(), ["eth0"]);
    assert!(container.look("eth0").addresses.is_empty(), "{:?}", container.look("eth0"));
    assert_eq!(container.sh("ip route"), "");
    container.sh(&format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", nic.near4(9)));
    nic.ping(&nic.near4(9), 3);
    driver.agrees_with(&nic, Traffic::default());
    container.docker(&["restart", "-t", "0"]);
    assert_eq!(container.netdevs(), ["eth0"]);
    drop(container);
    network.remove();
    driver.finish();
}

fn subnet_of_the_users_choice() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    // As the original's users type it; Docker makes up the gateway.
    let network = Network::create_bare(
        engine,
        &driver,
        &nic,
        &["-o", "mode=passthrough", "--subnet", "194.168.1.0/24", "--aux-address", "srv=194.168.1.5"],
    );
    nic.far.ip("addr add 194.168.1.1/24 dev far");
    let container = network.run("user", &[]);
    assert_eq!(container.netdevs(), ["eth0"]);
    container.sh("ping -c 2 -W 5 194.168.1.1");
    nic.ping("194.168.1.2", 2);
    drop(container);
    network.remove();
    driver.finish();
}
