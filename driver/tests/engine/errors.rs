//! What the user reads when it does not work.
use crate::support::{
    assert_names, command, container::Network, docker::Engine, driver::Driver, eventually, nic::Nic, trials,
};

trials![
    bad_options_are_explained,
    unfit_netdevices_are_explained,
    second_container_is_told_of_the_first,
    forced_network_takes_a_device_in_use_by_the_host,
];

/// What `docker network create` says to these options.
#[track_caller]
fn complaint(engine: &Engine, driver: &Driver, options: &[&str]) -> String {
    let name = format!("refused-{}", driver.name);
    let create = [&["network", "create", "-d", &driver.name], options, &[name.as_str()]].concat();
    let complaint = engine.attempt(&create).expect_err("a network that can't be");
    let networks = engine.docker(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(!networks.contains(&name), "{networks}");
    complaint
}

fn bad_options_are_explained() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let netdevice = format!("netdevice={}", nic.name);
    for (option, parts) in [
        ("vlan=4095", &["remote: vlan=4095: must be 0 to 4094"][..]),
        ("vlan=abc", &["vlan=abc"]),
        ("vlan=100", &["vlan=100", "passthrough"]),
        ("trust=on", &["trust=on", "passthrough"]),
        ("colour=red", &["colour=red", "netdevice"]),
        ("mode=", &["mode="]),
        ("mode=sriov", &[nic.name.as_str(), "SR-IOV"]),
        ("rx_hook=generic", &["rx_hook=generic", "xdp"]),
        ("mtu=1", &["mtu=1"]),
    ] {
        assert_names(&complaint(engine, &driver, &["-o", &netdevice, "-o", option]), parts);
    }
    assert_names(&complaint(engine, &driver, &[]), &["netdevice", "required"]);
    driver.finish();
}

fn unfit_netdevices_are_explained() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let told = |netdevice: &str, parts: &[&str]| {
        let said = complaint(engine, &driver, &["-o", &format!("netdevice={netdevice}")]);
        assert_names(&said, &[parts, &[netdevice]].concat());
    };
    told("nosuch0", &[]);
    told("lo", &["loopback"]);
    let bridge = format!("b{}", nic.name);
    command::ip(&format!("link add {bridge} type bridge"));
    told(&bridge, &["network namespace"]);
    command::ip(&format!("link set {} master {bridge}", nic.name));
    told(&nic.name, &[&bridge]);
    command::ip(&format!("link set {} nomaster", nic.name));
    command::ip(&format!("link del {bridge}"));

    let network = Network::create(engine, &driver, &nic, &[]);
    // The driver may not ask Docker while Docker asks it, so names are known a little later.
    let wait_for = |name: &str| {
        eventually("the one that has it", || {
            let said = complaint(engine, &driver, &["-o", &format!("netdevice={}", nic.name)]);
            assert_names(&said, &[&nic.name, "belongs to network"]);
            if said.contains(name) { Ok(()) } else { Err(said) }
        });
    };
    let container = network.run("holder", &[]);
    wait_for(&network.name);
    wait_for(&container.name);
    drop(container);
    network.remove();
    driver.finish();
}

fn second_container_is_told_of_the_first() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let first = network.run("first", &[]);
    // The driver may not ask Docker while Docker asks it, so the name is known a little later.
    eventually("the first container's name", || {
        let complaint = network.attempt("second", &[]).err().expect("the device is in use");
        assert_names(&complaint, &[&nic.name, "in use by"]);
        if complaint.contains(&first.name) { Ok(()) } else { Err(complaint) }
    });
    nic.ping(&nic.near4(2), 2);
    first.stop();
    let second = network.run("second", &[]);
    nic.ping(&nic.near4(2), 2);
    // The first can't come back now, and says why.
    let complaint = engine.attempt(&["start", &first.name]).unwrap_err();
    assert_names(&complaint, &[&nic.name, "in use by"]);
    drop((first, second));
    network.remove();
    driver.finish();
}

fn forced_network_takes_a_device_in_use_by_the_host() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    command::ip(&format!("link set {} up", nic.name));
    command::ip(&format!("addr add {}/24 dev {}", nic.near4(200), nic.name));
    let netdevice = format!("netdevice={}", nic.name);
    let said = complaint(engine, &driver, &["-o", &netdevice]);
    assert_names(&said, &[&nic.name, &nic.near4(200), "force=1"]);
    let network = Network::create(engine, &driver, &nic, &["-o", "force=1"]);
    network.remove();
    driver.finish();
}
