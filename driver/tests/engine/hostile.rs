//! A container that owns its network, and uses that against the host.
use crate::support::{
    command,
    container::Network,
    docker::Engine,
    driver::Driver,
    nic::{Nic, Traffic},
    trials, unique,
};

trials![everything_net_admin_can_do, device_hidden_behind_other_names, forged_macs_are_noticed];

/// What `--cap-add` gives it.
const CAPABILITIES: [&str; 4] = ["--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW"];

fn everything_net_admin_can_do() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    for hook in ["xdp", "tcx"] {
        let nic = Nic::new();
        let network = Network::create(engine, &driver, &nic, &["-o", &format!("rx_hook={hook}")]);
        let container = network.run("hostile", &CAPABILITIES);
        let address = nic.near4(2);
        nic.ping(&address, 10);
        let calm = driver.agrees_with(&nic, Traffic::default()).traffic();
        // What its own busybox can do …
        container.sh("ip link set eth0 down && ip link set eth0 name evil0 && ip link set evil0 mtu 1300 \
             && ip link set evil0 promisc on && ip link set evil0 multicast off && ip link set evil0 up");
        container.sh(&format!("ip addr replace {address}/24 dev evil0"));
        let _ = container.attempt("tc qdisc add dev evil0 root pfifo; tc qdisc add dev evil0 ingress");
        // … and what a better equipped image could, within the same network.
        let place = container.place();
        for attack in [
            "ip link set dev evil0 xdp off",
            "ip link set dev evil0 xdpdrv off",
            "ip link set dev evil0 xdpgeneric off",
            "bpftool net detach xdpdrv dev evil0",
            "tc qdisc del dev evil0 clsact",
            "tc filter del dev evil0 egress",
            "ip link set dev evil0 alias evil",
            "ip link set dev evil0 txqueuelen 3",
            "ip link set dev evil0 gso_max_size 2000",
            "ip link set dev evil0 group 9",
            "ip link property add dev evil0 altname evil1",
        ] {
            let _ = place.attempt(attack);
        }
        assert_eq!(container.netdevs(), ["evil0"]);
        nic.ping(&address, 10);
        let after = driver.agrees_with(&nic, Traffic::default()).traffic();
        assert!(
            after.rx_packets >= calm.rx_packets + 10 && after.tx_packets >= calm.tx_packets + 10,
            "{after:?}"
        );
        let endpoint = container.endpoint();
        container.stop();
        network.assert_home();
        assert_eq!(driver.pins(&endpoint), [""; 0]);
        let next = network.run("next", &[]);
        nic.ping(&nic.near4(2), 1);
        drop((container, next));
        network.remove();
    }
    driver.finish();
}

fn device_hidden_behind_other_names() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let host = format!("host{}", unique());
    command::ip(&format!("link add {host} type bridge"));
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("hiding", &CAPABILITIES);
    let place = container.place();
    // A decoy under the name Docker looks for, and a name that is taken where the device should go.
    place.run("ip link set eth0 down");
    place.run("ip link set eth0 name hidden0");
    place.run("ip link add eth0 type bridge");
    place.run(&format!("ip link property add dev hidden0 altname {host}"));
    container.stop();
    network.assert_home();
    assert_eq!(command::ip(&format!("-br link show dev {host}")).split(' ').next(), Some(host.as_str()));
    command::ip(&format!("link del {host}"));
    drop(container);
    network.remove();
    driver.finish();
}

fn forged_macs_are_noticed() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    for privileged in [false, true] {
        let nic = Nic::new();
        let network = Network::create(engine, &driver, &nic, &["-o", &format!("privileged={privileged}")]);
        let container = network.run("forger", &CAPABILITIES);
        nic.ping(&nic.near4(2), 3);
        let honest = driver.agrees_with(&nic, Traffic::default());
        assert_eq!(honest.spoofed(), 0);
        container
            .sh("ip link set eth0 down && ip link set eth0 address 02:ee:ee:ee:ee:01 && ip link set eth0 up");
        let _ = container.attempt(&format!("ping -c 5 -i 0.05 -W 1 {}", nic.far4()));
        // Whether they pass is the network's choice; what passes is counted, and what is forged as such.
        let stats = driver.agrees_with(&nic, Traffic::default());
        assert!(stats.spoofed() >= 1, "{stats:?}");
        if privileged {
            assert!(stats.traffic().tx_packets >= honest.traffic().tx_packets + 5, "{stats:?}");
        }
        container.stop();
        network.assert_home();
        drop(container);
        network.remove();
    }
    driver.finish();
}
