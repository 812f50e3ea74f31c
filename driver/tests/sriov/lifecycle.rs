//! VFs are made for the first network and taken away after the last, or were there and stay.
use serde_json::json;

use crate::support::{
    assert_names, command, docker::Engine, docker_id, driver::Driver, netns::Netns, simulated, trials,
};

use super::{
    bench::{Segment, bench},
    docker::DockerNetwork,
    tenant::{Network, Wish},
};

trials![
    vfs_of_the_administrator_stay,
    vfs_of_the_driver_go_with_the_last_network,
    vfs_that_someone_uses_stay,
    one_vlan_has_one_network,
    a_pf_is_handed_out_one_way_at_a_time,
    a_whole_netdev_gets_its_sizes_back,
    vfs_stay_while_their_pf_has_another_name,
    vfs_that_an_administrator_made_later_are_his,
    a_pf_stays_up_for_vfs_that_are_in_use,
];

fn vfs_of_the_administrator_stay() {
    let bench = bench();
    let mut vfs = bench.without_vfs();
    vfs.pf.raise();
    vfs.pf.set_count(4);
    vfs.settle();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[]);
    let other = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    assert_eq!(vfs.pf.count(), 4);
    let tenants = [network.start(&Wish::default()), other.start(&Wish::default())];
    let more = [network.start(&Wish::default()), other.start(&Wish::default())];
    assert_names(&network.refuses(&Wish::default()), &["all 4 VFs are in use"]);
    tenants.into_iter().chain(more).for_each(super::tenant::Tenant::stop);
    network.remove();
    // Also if the driver was started anew in between.
    driver.kill();
    driver.serve();
    other.remove();
    driver.finish();
    assert_eq!(vfs.pf.count(), 4);
    vfs.assert_as_before();
}

fn vfs_of_the_driver_go_with_the_last_network() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::start();
    assert!(!vfs.pf.look().is_up());
    let complaint = Network::refused(&driver, vfs.pf, &[("vfs", "8")]);
    assert_names(&complaint, &["vfs=8", &vfs.pf.name, "7"]);
    let network = Network::create(&driver, vfs.pf, &[("vfs", "3")]);
    assert_eq!(vfs.pf.count(), 3);
    assert!(vfs.pf.look().is_up());
    let other = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    assert_eq!(vfs.pf.count(), 3);
    assert_names(&network.refuses(&Wish::vf(3)), &["vf=3", "3 VFs"]);
    let tenant = other.start(&Wish::vf(2));
    network.remove();
    assert_eq!(vfs.pf.count(), 3);
    driver.kill();
    driver.serve();
    tenant.stop();
    other.remove();
    // As it was: none, and down.
    vfs.assert_as_before();
    // All of them, without `vfs`.
    let network = Network::create(&driver, vfs.pf, &[]);
    assert_eq!(vfs.pf.count(), vfs.pf.total());
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn vfs_that_someone_uses_stay() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("vfs", "2")]);
    let tenant = network.start(&Wish::vf(0));
    vfs.pf.await_netdevs_but(0);
    let used = vfs.pf.netdev(1).unwrap();
    command::ip(&format!("link set {used} up"));
    command::ip(&format!("addr add 192.0.2.1/24 dev {used}"));
    tenant.stop();
    network.remove();
    assert_eq!(vfs.pf.count(), 2, "a VF was taken from the host");
    // The next time they are not in use, and still the driver's.
    command::ip(&format!("addr flush dev {used}"));
    command::ip(&format!("link set {used} down"));
    Network::create(&driver, vfs.pf, &[]).remove();
    driver.finish();
    vfs.assert_as_before();
}

fn one_vlan_has_one_network() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let (side, other) = (Segment::new(bench, 100), Segment::new(bench, 0));
    let first = DockerNetwork::create(engine, &driver, vfs.pf, &side, &[]);
    let complaint = crate::support::eventually("the complaint names the network", || {
        // In another subnet: Docker would not get as far as us.
        let again = DockerNetwork::attempt(engine, &driver, vfs.pf, &other, &["vlan_qos=1", "vlan=100"]);
        let complaint = again.err().expect("VLAN 100 is taken");
        if complaint.contains(&first.name) { Ok(complaint) } else { Err(complaint) }
    });
    assert_names(&complaint, &["vlan=100", &vfs.pf.name, &first.name]);
    // Free again, it may be had again.
    first.remove();
    let again = DockerNetwork::create(engine, &driver, vfs.pf, &side, &[]);
    let untagged = DockerNetwork::create(engine, &driver, vfs.pf, &other, &[]);
    again.remove();
    untagged.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn a_pf_is_handed_out_one_way_at_a_time() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let pf = vfs.pf.name.as_str();
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let tenant = network.start(&Wish::default());
    let complaint = Network::refused(&driver, vfs.pf, &[("mode", "passthrough")]);
    assert_names(&complaint, &[pf]);
    // Nor is the netdev of a tenant's VF, or of any VF of this PF, a netdevice for a network.
    tenant.stop();
    network.remove();
    let whole = Network::create(&driver, vfs.pf, &[("mode", "passthrough")]);
    let complaint = Network::refused(&driver, vfs.pf, &[("vlan", "100")]);
    assert_names(&complaint, &[pf, "belongs to network", &whole.id[..12]]);
    // Who has the PF has its VFs: also while it is away.
    let vf = vfs.pf.netdev(1).unwrap();
    let of_vf = simulated::network(&docker_id(), &json!({"netdevice": vf}));
    let complaint = driver.refused("CreateNetwork", &of_vf);
    assert_names(&complaint, &[&vf, "is a VF of", pf, &whole.id[..12]]);
    let (endpoint, netns) = (docker_id(), Netns::new("whole".into()));
    let ids = simulated::ids(&whole.id, &endpoint);
    driver.done("CreateEndpoint", &simulated::endpoint(&whole.id, &endpoint, ""));
    driver.done("Join", &simulated::join(&whole.id, &endpoint, &netns));
    command::ip(&format!("link set {pf} netns {}", netns.name()));
    let complaint = driver.refused("CreateNetwork", &of_vf);
    assert_names(&complaint, &[&vf, "is a VF of", pf, &whole.id[..12]]);
    driver.done("DeleteEndpoint", &ids);
    whole.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// With XDP on it igb takes no MTU that does not fit into one buffer.
fn a_whole_netdev_gets_its_sizes_back() {
    let bench = bench();
    let netdev = bench.pf.name.as_str();
    bench.without_vfs();
    command::ip(&format!("link set {netdev} mtu 9000"));
    let mut vfs = bench.without_vfs();
    vfs.settle();
    let driver = Driver::start();
    let options = [("mode", "passthrough"), ("mtu", "1500"), ("rx_hook", "xdp")];
    let network = Network::create(&driver, vfs.pf, &options);
    for moved in [false, true] {
        let (endpoint, netns) = (docker_id(), Netns::new("jumbo".into()));
        driver.done("CreateEndpoint", &simulated::endpoint(&network.id, &endpoint, ""));
        assert_eq!(vfs.pf.look().mtu, 1500);
        let ids = simulated::ids(&network.id, &endpoint);
        if moved {
            driver.done("Join", &simulated::join(&network.id, &endpoint, &netns));
            command::ip(&format!("link set {netdev} netns {}", netns.name()));
            netns.ip(&format!("link set {netdev} gso_ipv4_max_size 2000 gro_ipv4_max_size 2500"));
        }
        driver.done("DeleteEndpoint", &ids);
        vfs.assert_as_before();
    }
    network.remove();
    driver.finish();
    vfs.assert_as_before();
    command::ip(&format!("link set {netdev} mtu 1500"));
}

/// An administrator renames it while no container has anything of it, and back.
fn vfs_stay_while_their_pf_has_another_name() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::without_engine();
    driver.serve_with(&["--look", "1"]);
    let network = Network::create(&driver, vfs.pf, &[("vfs", "2")]);
    command::ip(&format!("link set {} name renamed0", vfs.pf.name));
    // Some looks at what is left to do.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(vfs.pf.count(), 2, "{}", driver.log());
    command::ip(&format!("link set renamed0 name {}", vfs.pf.name));
    vfs.pf.await_netdevs();
    network.start(&Wish::default()).stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn vfs_that_an_administrator_made_later_are_his() {
    let bench = bench();
    let mut vfs = bench.without_vfs();
    let driver = Driver::start();
    for count in [3, 2] {
        let network = Network::create(&driver, vfs.pf, &[("vfs", "2")]);
        assert_eq!(vfs.pf.count(), 2);
        vfs.pf.set_count(0);
        vfs.pf.set_count(count);
        vfs.pf.raise();
        network.start(&Wish::vf(1)).stop();
        network.remove();
        assert_eq!(vfs.pf.count(), count, "{}", driver.log());
        vfs.pf.set_count(0);
        command::ip(&format!("link set {} down", vfs.pf.name));
    }
    driver.finish();
    vfs.settle();
}

fn a_pf_stays_up_for_vfs_that_are_in_use() {
    let bench = bench();
    let vfs = bench.without_vfs();
    vfs.pf.set_count(2);
    vfs.pf.await_netdevs();
    assert!(!vfs.pf.look().is_up());
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[]);
    assert!(vfs.pf.look().is_up());
    let used = vfs.pf.netdev(1).unwrap();
    command::ip(&format!("link set {used} up"));
    command::ip(&format!("addr add 192.0.2.1/24 dev {used}"));
    network.remove();
    assert!(vfs.pf.look().is_up(), "{}", driver.log());
    // With nobody left it is as it was.
    command::ip(&format!("addr flush dev {used}"));
    command::ip(&format!("link set {used} down"));
    Network::create(&driver, vfs.pf, &[]).remove();
    assert!(!vfs.pf.look().is_up(), "{}", driver.log());
    assert_eq!(vfs.pf.count(), 2);
    driver.finish();
    vfs.pf.set_count(0);
}
