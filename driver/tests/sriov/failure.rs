//! The driver, the engine or the hardware goes away under running containers.
use crate::support::{assert_names, docker::Engine, driver::Driver, eventually, trials};

use super::{
    bench::{Segment, bench},
    docker::{DockerNetwork, address},
    tenant::{Network, Wish},
};

trials![
    driver_killed_under_running_containers,
    engine_killed_under_running_containers,
    containers_that_vanished_give_way,
    vfs_taken_away_under_a_running_container,
];

fn driver_killed_under_running_containers() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let (red_side, plain_side) = (Segment::new(bench, 100), Segment::new(bench, 0));
    let red = DockerNetwork::create(engine, &driver, vfs.pf, &red_side, &[]);
    let plain = DockerNetwork::create(engine, &driver, vfs.pf, &plain_side, &["privileged=1"]);
    let (first, second) = (red.run("first", &[]), plain.run("second", &[]));
    let counted = |container: &crate::support::container::Container| {
        let stats = driver.stats_for(&[&container.endpoint()]);
        (stats[0].traffic().rx_packets, stats[0].traffic().tx_packets)
    };
    red_side.ping(&address(&first), 10);
    plain_side.ping(&address(&second), 10);
    let (one, two) = (counted(&first), counted(&second));
    assert!(one.0 >= 10 && one.1 >= 10 && two.0 >= 10 && two.1 >= 10, "{one:?}, {two:?}");
    driver.kill();
    red_side.ping(&address(&first), 10);
    driver.serve();
    red_side.ping(&address(&first), 10);
    plain_side.ping(&address(&second), 10);
    let (later_one, later_two) = (counted(&first), counted(&second));
    assert!(later_one.0 >= one.0 + 20 && later_one.1 >= one.1 + 20, "{one:?}, then {later_one:?}");
    assert!(later_two.0 >= two.0 + 10 && later_two.1 >= two.1 + 10, "{two:?}, then {later_two:?}");
    // Theirs are not given to others.
    let third = red.run_with("third", "driver-opt=vf=0", &[]).err().expect("VF 0 is in use");
    assert_names(&third, &["VF 0", "in use by"]);
    let third = red.run("third", &[]);
    red_side.ping(&address(&third), 2);
    red_side.ping(&address(&first), 2);
    plain_side.ping(&address(&second), 2);
    first.stop();
    first.docker(&["start"]);
    red_side.ping(&address(&first), 2);
    drop((first, second, third));
    red.remove();
    plain.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn engine_killed_under_running_containers() {
    let (bench, engine) = (bench(), Engine::start(&[]));
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(&engine, &driver, vfs.pf, &side, &["max_tx_rate=300"]);
    let orphan = network.run_with("orphan", "driver-opt=vf=2", &[]).unwrap();
    side.ping(&address(&orphan), 2);
    engine.kill();
    engine.serve();
    // The engine ends the container, and tells nobody. Its VF is had again all the same.
    eventually("the container starts again", || engine.attempt(&["start", &orphan.name]));
    assert_eq!(vfs.pf.netdev(2), None);
    side.ping(&address(&orphan), 2);
    assert_eq!(driver.stats().len(), 1);
    drop(orphan);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// Containers that end with nobody telling the driver: those of one network give way to another's, too.
fn containers_that_vanished_give_way() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let red = Network::create(&driver, vfs.pf, &[("vlan", "100"), ("privileged", "1")]);
    let plain = Network::create(&driver, vfs.pf, &[]);
    let total = vfs.pf.total();
    let mut tenants: Vec<_> = (0..total).map(|_| red.start(&Wish::default())).collect();
    let alive = tenants.remove(0);
    tenants.into_iter().for_each(drop);
    eventually("the VFs are home", || {
        let away: Vec<_> = (1..total).filter(|&vf| vfs.pf.netdev(vf).is_none()).collect();
        if away.is_empty() { Ok(()) } else { Err(format!("{away:?}")) }
    });
    let chosen = plain.start(&Wish::vf(3));
    let any = plain.start(&Wish::default());
    let same = red.start(&Wish::default());
    assert!(any.vf != 0 && same.vf != 0, "the living one's VF was given away");
    assert_eq!(alive.look().name, "eth0");
    for tenant in [alive, chosen, any, same] {
        tenant.stop();
    }
    red.remove();
    plain.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn vfs_taken_away_under_a_running_container() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &[]);
    let bereft = network.run("bereft", &[]);
    side.ping(&address(&bereft), 2);
    vfs.pf.set_count(0);
    assert!(bereft.netdevs().is_empty(), "{:?}", bereft.netdevs());
    let complaint = network.try_run("none", &[]).err().expect("there are no VFs");
    assert_names(&complaint, &[&vfs.pf.name, "VFs"]);
    driver.assert_alive();
    vfs.pf.set_count(vfs.pf.total());
    let next = network.run("next", &[]);
    side.ping(&address(&next), 2);
    bereft.stop();
    bereft.docker(&["start"]);
    side.ping(&address(&bereft), 2);
    side.ping(&address(&next), 2);
    assert_eq!(driver.stats().len(), 2);
    drop((bereft, next));
    network.remove();
    driver.finish();
    // They are new ones: only ours are to be as they were made.
    vfs.pf.set_count(0);
}
