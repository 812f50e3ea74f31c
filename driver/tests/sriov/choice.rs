//! Which VF a container gets, and what it reads when it can't have one.
use std::{collections::BTreeSet, fs, thread};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use crate::support::{
    assert_names, command, docker::Engine, docker_id, driver::Driver, eventually, look::Place, netns::Netns,
    simulated, trials,
};

use super::{
    bench::{Segment, bench},
    docker::{DockerNetwork, address},
    frames::mac_of,
    pf::row_mac,
    tenant::{Network, Wish},
};

trials![
    seven_containers_and_the_eighth_is_told,
    by_number_and_by_address,
    by_number_and_by_address_under_docker,
    vfs_in_use_by_others_are_not_taken,
    unbound_vfs_are_probed,
    vfs_without_an_address_get_a_stable_one,
];

fn seven_containers_and_the_eighth_is_told() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &[]);
    let names: Vec<_> = (0..vfs.pf.total()).map(|n| format!("n{n}")).collect();
    let mut containers: Vec<_> = thread::scope(|scope| {
        let starting: Vec<_> = names.iter().map(|name| scope.spawn(|| network.run(name, &[]))).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // Who has which, by the one thing that both sides see.
    let mut holders = Vec::new();
    let inside: Vec<_> = containers.iter().map(|one| (one.look("eth0").mac, &one.name)).collect();
    for (vf, row) in vfs.pf.rows().iter().enumerate() {
        let of_mac: Vec<_> = inside.iter().filter(|(mac, _)| *mac == row_mac(row)).collect();
        assert_eq!(of_mac.len(), 1, "{row}");
        holders.push(format!("VF {vf}: container {}", of_mac[0].1));
    }
    let holders: Vec<_> = holders.iter().map(String::as_str).collect();
    for container in &containers {
        side.ping(&address(container), 1);
    }
    // The driver may not ask Docker for names while Docker asks it, so they are known a little later.
    let ours = Network::of(&driver, vfs.pf, network.id());
    eventually("all names are known", || {
        let complaint = ours.refuses(&Wish::default());
        if holders.iter().all(|holder| complaint.contains(holder)) { Ok(()) } else { Err(complaint) }
    });
    let complaint = network.try_run("eighth", &[]).err().expect("there is no eighth VF");
    assert_names(&complaint, &[&[vfs.pf.name.as_str(), "all 7 VFs are in use"], &holders[..]].concat());
    // The first to go makes room for it.
    drop(inside);
    drop(containers.remove(4));
    let eighth = network.run("eighth", &[]);
    side.ping(&address(&eighth), 1);
    for container in &containers {
        side.ping(&address(container), 1);
    }
    drop((containers, eighth));
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn by_number_and_by_address() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 0);
    let network = Network::create(&driver, vfs.pf, &[]);
    let lowest = network.start(&Wish::default());
    assert_eq!(lowest.vf, 0);
    let fifth = network.start(&Wish::vf(5));
    assert_eq!(fifth.vf, 5);
    // The VF that has it already. On older kernels its PF does not know.
    let own = mac_of(&Place::Host, &vfs.pf.netdev(3).unwrap()).to_string();
    let third = network.start(&Wish::mac(&own));
    assert_eq!((third.vf, third.look().mac), (3, own.clone()));
    // Any other is given it.
    let foreign = "02:5e:00:00:00:77";
    let given = network.start(&Wish::mac(foreign));
    assert_eq!(given.vf, 1);
    assert_eq!(given.look().mac, foreign);
    assert_eq!(row_mac(&vfs.pf.row(1)), foreign);
    given.address(&side.host(2));
    side.ping(&side.host(2), 2);
    // Both.
    let both = network.start(&Wish { mac: "02:5e:00:00:00:78".into(), vf: Some(6) });
    assert_eq!((both.vf, both.look().mac.as_str()), (6, "02:5e:00:00:00:78"));
    both.address(&side.host(3));
    side.ping(&side.host(3), 2);

    let pf = vfs.pf.name.as_str();
    assert_names(&network.refuses(&Wish::vf(5)), &[pf, "VF 5", "in use by endpoint", &fifth.endpoint[..12]]);
    assert_names(&network.refuses(&Wish::mac(&own)), &[pf, "VF 3", "in use by", &third.endpoint[..12]]);
    assert_names(&network.refuses(&Wish::mac(foreign)), &[pf, "VF 1", "in use by", &given.endpoint[..12]]);
    // Nor by another VF of the same PF.
    let twice = Wish { mac: foreign.into(), vf: Some(2) };
    assert_names(&network.refuses(&twice), &[foreign, "in use by", &given.endpoint[..12], pf, "VF 1"]);
    assert_names(&network.refuses(&Wish::vf(7)), &["vf=7", pf, "7 VFs"]);
    for bad in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
        assert_names(&network.refuses(&Wish::mac(bad)), &[bad]);
    }
    // Two are left.
    let (second, fourth) = (network.start(&Wish::default()), network.start(&Wish::default()));
    assert_eq!((second.vf, fourth.vf), (2, 4));
    let complaint = network.refuses(&Wish::mac("02:5e:00:00:00:79"));
    assert_names(&complaint, &[pf, "all 7 VFs are in use"]);
    for tenant in [lowest, fifth, third, given, both, second, fourth] {
        tenant.stop();
    }
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn by_number_and_by_address_under_docker() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 0);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &[]);
    let mac = "02:5e:00:00:00:7a";
    let chosen = network.run_with("chosen", "driver-opt=vf=4", &["--mac-address", mac]).unwrap();
    assert_eq!(vfs.pf.netdev(4), None);
    assert_eq!(chosen.look("eth0").mac, mac);
    assert_eq!(row_mac(&vfs.pf.row(4)), mac);
    side.ping(&address(&chosen), 2);
    let complaint = eventually("the first container's name", || {
        let complaint = network.run_with("second", "driver-opt=vf=4", &[]).err().expect("VF 4 is in use");
        if complaint.contains("container") { Ok(complaint) } else { Err(complaint) }
    });
    assert_names(&complaint, &["VF 4", "in use by container", &chosen.name]);
    chosen.stop();
    assert_ne!(vfs.pf.netdev(4), None);
    chosen.docker(&["start"]);
    assert_eq!((vfs.pf.netdev(4), chosen.look("eth0").mac.as_str()), (None, mac));
    side.ping(&address(&chosen), 2);
    drop(chosen);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// VF 0 is up with an address, 1 is a member of a bridge, 2 is in another namespace, 3 has the driver of
/// another kind of use, and 6 has something on top, as a VM's macvtap is. 4 is only up, which nobody minds.
fn vfs_in_use_by_others_are_not_taken() {
    let bench = bench();
    let mut vfs = bench.with_vfs();
    let netdev = |vf| vfs.pf.netdev(vf).unwrap();
    let (up, member, away, open, under) = (netdev(0), netdev(1), netdev(2), netdev(4), netdev(6));
    command::ip(&format!("link set {up} up"));
    command::ip(&format!("addr add 192.0.2.1/24 dev {up}"));
    command::ip("link add admin0 type bridge");
    command::ip(&format!("link set {member} master admin0"));
    let elsewhere = Netns::new("elsewhere".into());
    command::ip(&format!("link set {away} netns {}", elsewhere.name()));
    command::run("modprobe", &["vfio-pci"]);
    let address = vfs.pf.address(3);
    vfs.pf.unbind(3);
    fs::write(format!("/sys/bus/pci/devices/{address}/driver_override"), "vfio-pci").unwrap();
    fs::write("/sys/bus/pci/drivers_probe", &address).unwrap();
    assert_eq!(vfs.pf.driver(3).as_deref(), Some("vfio-pci"));
    command::ip(&format!("link set {open} up"));
    command::ip(&format!("link add link {under} name admin1 type macvlan mode bridge"));
    vfs.settle();

    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[]);
    for (vf, parts) in [
        (0, &["the host", up.as_str()][..]),
        (1, &["the host", member.as_str()]),
        (2, &["another network namespace"]),
        (3, &["vfio-pci"]),
        (6, &["the host", under.as_str()]),
    ] {
        assert_names(&network.refuses(&Wish::vf(vf)), &[&[&format!("VF {vf}"), "in use by"], parts].concat());
    }
    // Another driver's, which its container has not got yet.
    let other = Driver::start();
    let others = Network::create(&other, vfs.pf, &[("vlan", "100")]);
    let endpoint = docker_id();
    let mut body = simulated::endpoint(&others.id, &endpoint, "");
    body["Options"]["vf"] = json!("5");
    other.done("CreateEndpoint", &body);
    let theirs = format!("a container of driver {}", other.name);
    assert_names(&network.refuses(&Wish::vf(5)), &["VF 5", "in use by", &theirs]);
    let tenant = network.start(&Wish::default());
    assert_eq!(tenant.vf, 4);
    let complaint = network.refuses(&Wish::default());
    assert_names(
        &complaint,
        &[
            "VF 0: the host",
            "VF 1: the host",
            "VF 2: another",
            "VF 3: bound to vfio-pci",
            &format!("VF 5: {theirs}"),
            "VF 6: the host",
        ],
    );
    // In another namespace it would see the next tenant's frames as well.
    command::ip(&format!("link set admin1 netns {}", elsewhere.name()));
    assert_names(&network.refuses(&Wish::default()), &["VF 6: ", "the macvlan admin1", "on top of it"]);
    elsewhere.ip("link del admin1");
    other.done("DeleteEndpoint", &simulated::ids(&others.id, &endpoint));
    others.remove();
    other.finish();
    tenant.stop();
    // Another driver is just assigning it, or taking it back.
    let file = format!("/sys/bus/pci/devices/{}/sriov_vf_msix_count", vfs.pf.address(4));
    let file = fs::File::options().write(true).open(file).unwrap();
    let claimed = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let tenant = network.start(&Wish::default());
    assert_eq!(tenant.vf, 5);
    assert_names(&network.refuses(&Wish::vf(4)), &["VF 4", "in use by", "another driver"]);
    drop(claimed);
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();

    drop(elsewhere);
    command::ip("link del admin0");
    fs::write(format!("/sys/bus/pci/devices/{address}/driver_override"), "\n").unwrap();
    vfs.pf.set_count(0);
}

fn unbound_vfs_are_probed() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 0);
    vfs.pf.probe(false);
    let network = Network::create(&driver, vfs.pf, &[]);
    assert_eq!((vfs.pf.count(), vfs.pf.driver(0)), (vfs.pf.total(), None));
    let (first, third) = (network.start(&Wish::default()), network.start(&Wish::vf(3)));
    assert_eq!((first.vf, third.vf), (0, 3));
    // Only what is needed.
    assert_eq!((vfs.pf.driver(1), vfs.pf.driver(3).as_deref()), (None, Some("igbvf")));
    let wanted = fs::read_to_string(format!("/sys/bus/pci/devices/{}/driver_override", vfs.pf.address(3)));
    assert_eq!(wanted.unwrap().trim(), "(null)");
    first.address(&side.host(2));
    side.ping(&side.host(2), 2);
    first.stop();
    third.stop();
    network.remove();
    driver.finish();
    vfs.pf.probe(true);
    // The count, too: they were the driver's.
    assert_eq!(vfs.pf.count(), 0);
}

fn vfs_without_an_address_get_a_stable_one() {
    let bench = bench();
    let mut vfs = bench.with_vfs();
    vfs.pf.set(2, "mac 00:00:00:00:00:00");
    vfs.settle();
    assert_eq!(row_mac(&vfs.pf.row(2)), "00:00:00:00:00:00");
    let driver = Driver::start();
    let side = Segment::new(bench, 0);
    let network = Network::create(&driver, vfs.pf, &[]);
    let mut given = BTreeSet::new();
    for _ in 0..2 {
        let tenant = network.start(&Wish::vf(2));
        let mac = tenant.look().mac;
        assert_eq!((&tenant.mac, &row_mac(&vfs.pf.row(2))), (&mac, &mac));
        let first = u8::from_str_radix(&mac[..2], 16).unwrap();
        assert_eq!(first & 3, 2, "{mac} is not a local address of one");
        given.insert(mac);
        tenant.address(&side.host(2));
        side.ping(&side.host(2), 2);
        tenant.stop();
        assert_eq!(row_mac(&vfs.pf.row(2)), "00:00:00:00:00:00");
    }
    assert_eq!(given.len(), 1, "{given:?}");
    network.remove();
    driver.finish();
    vfs.assert_as_before();
    vfs.pf.set_count(0);
}
