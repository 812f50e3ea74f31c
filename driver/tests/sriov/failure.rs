//! The driver, the engine or the hardware goes away under running containers.
use std::fs;

use crate::support::{
    assert_names, command,
    docker::Engine,
    driver::Driver,
    eventually,
    look::{Look, Place},
    netns::Netns,
    trials,
};

use super::{
    bench::{Segment, bench},
    docker::{DockerNetwork, address},
    pf::row_mac,
    tenant::{INSIDE, Network, Wish},
};

trials![
    driver_killed_under_running_containers,
    engine_killed_under_running_containers,
    containers_that_vanished_give_way,
    vfs_taken_away_under_a_running_container,
    vfs_of_the_driver_that_are_taken_away_are_made_again,
    lost_state_leaves_no_tenants_settings,
    pf_lost_under_a_running_container,
    engine_and_driver_are_away_by_turns,
    what_can_not_be_read_is_not_forgotten,
];

fn driver_killed_under_running_containers() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let (red_side, plain_side) = (Segment::new(bench, 100), Segment::new(bench, 0));
    let red = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let plain = Network::create(&driver, vfs.pf, &[("privileged", "1")]);
    let (first, second) = (red.start(&Wish::default()), plain.start(&Wish::default()));
    first.address(&red_side.host(2));
    second.address(&plain_side.host(2));
    let ping = |count| {
        red_side.ping(&red_side.host(2), count);
        plain_side.ping(&plain_side.host(2), count);
    };
    let counted = || [&first, &second].map(|tenant| tenant.stats().traffic());
    ping(10);
    let early = counted();
    driver.kill();
    ping(10);
    let alone = counted();
    driver.serve();
    let served = counted();
    ping(10);
    let late = counted();
    for which in 0..2 {
        let (early, alone, served, late) = (early[which], alone[which], served[which], late[which]);
        assert!(early.rx_packets >= 10 && early.tx_packets >= 10, "{early:?}");
        for (more, less) in [(alone, early), (late, served)] {
            let more = more - less;
            assert!(more.rx_packets >= 10 && more.tx_packets >= 10, "{more:?}");
        }
        assert!(served.rx_packets >= alone.rx_packets && served.tx_packets >= alone.tx_packets);
    }
    // Theirs are not given to others.
    assert_names(&red.refuses(&Wish::vf(first.vf)), &["VF 0", "in use by"]);
    assert_names(&red.refuses(&Wish::vf(second.vf)), &["VF 1", "in use by"]);
    let others: Vec<_> = (2..vfs.pf.total()).map(|_| red.start(&Wish::default())).collect();
    assert_names(&plain.refuses(&Wish::default()), &["all 7 VFs are in use"]);
    ping(2);
    others.into_iter().chain([first, second]).for_each(super::tenant::Tenant::stop);
    red.remove();
    plain.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn engine_killed_under_running_containers() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &["max_tx_rate=300"]);
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

/// Containers that end with nobody telling the driver: they give way to whoever needs their VFs, also of
/// another network, and if it must be that very one.
fn containers_that_vanished_give_way() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::start();
    let red = Network::create(&driver, vfs.pf, &[("vlan", "100"), ("privileged", "1"), ("vfs", "3")]);
    let plain = Network::create(&driver, vfs.pf, &[]);
    vfs.pf.await_netdevs();
    let mut unknowing = 0;
    for (network, wish) in [(&plain, Wish::default()), (&plain, Wish::vf(2)), (&red, Wish::vf(1))] {
        let mut tenants: Vec<_> = (0..3).map(|_| red.start(&Wish::default())).collect();
        let alive = tenants.remove(0);
        tenants.into_iter().for_each(drop);
        vfs.pf.await_netdevs_but(alive.vf);
        unknowing += u32::from(driver.stats().len() == 3);
        let next = network.start(&wish);
        assert_eq!(next.vf, wish.vf.unwrap_or(1), "{wish:?}");
        let row = vfs.pf.row(next.vf);
        assert_eq!(row["trust"], std::ptr::eq(network, &raw const red), "{row}");
        assert_names(&network.refuses(&Wish::vf(alive.vf)), &["VF 0", "in use by"]);
        assert_eq!(alive.look().name, "eth0");
        next.stop();
        alive.stop();
    }
    assert!(unknowing > 0, "the driver knew each time");
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
    let ours = Network::of(&driver, vfs.pf, network.id());
    let another = ours.start(&Wish::vf(5));
    side.ping(&address(&bereft), 2);
    vfs.pf.set_count(0);
    assert!(bereft.netdevs().is_empty(), "{:?}", bereft.netdevs());
    assert_names(&ours.refuses(&Wish::default()), &[&vfs.pf.name, "VFs"]);
    assert_names(&ours.refuses(&Wish::vf(1)), &["vf=1", &vfs.pf.name]);
    driver.assert_alive();
    // Fewer than before: the network goes on with what is left.
    vfs.pf.set_count(3);
    let next = ours.start(&Wish::default());
    next.address(&side.host(77));
    side.ping(&side.host(77), 2);
    assert_names(&ours.refuses(&Wish::vf(5)), &["vf=5", "3 VFs"]);
    // Its VF is not there any more.
    another.stop();
    bereft.stop();
    bereft.docker(&["start"]);
    side.ping(&address(&bereft), 2);
    side.ping(&side.host(77), 2);
    assert_eq!(driver.stats().len(), 2);
    next.stop();
    drop(bereft);
    network.remove();
    driver.finish();
    // They are not those of before: fresh ones for whoever comes next.
    vfs.pf.set_count(0);
}

fn vfs_of_the_driver_that_are_taken_away_are_made_again() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 100);
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100"), ("vfs", "2")]);
    assert_eq!(vfs.pf.count(), 2);
    vfs.pf.set_count(0);
    let tenant = network.start(&Wish::default());
    assert_eq!(vfs.pf.count(), 2);
    tenant.address(&side.host(2));
    side.ping(&side.host(2), 2);
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn lost_state_leaves_no_tenants_settings() {
    let bench = bench();
    let mut vfs = bench.with_vfs();
    // A VF whose address is not known to its PF, as a fresh one's can be, keeps the one it was given.
    let own = "02:0a:00:00:00:07";
    vfs.pf.give_mac(0, own);
    vfs.settle();
    assert_eq!(row_mac(&vfs.pf.row(0)), own);
    let driver = Driver::start();
    let options = [("vlan", "100"), ("max_tx_rate", "300"), ("privileged", "1")];
    let network = Network::create(&driver, vfs.pf, &options);
    let tenant = network.start(&Wish::vf(0));
    let vf = tenant.vf;
    let has_vlan = || vfs.pf.row(vf)["vlan_list"][0]["vlan"] == 100;
    assert!(has_vlan());
    driver.kill();
    fs::remove_file(driver.state_dir.join("state.json")).unwrap();
    // Its container ends. What the VF was like is known by nobody but its tag.
    drop(tenant);
    driver.serve();
    eventually("the tenant's settings are off", || if has_vlan() { Err(driver.log()) } else { Ok(()) });
    eventually("its tag is off", || {
        let netdev = vfs.pf.netdev(vf).ok_or("no netdev")?;
        let look = Look::at(&Place::Host, &netdev).ok_or("gone")?;
        look.alias.map_or(Ok(()), Err)
    });
    vfs.assert_as_before();
    // Who is given it before that was seen to has not the last tenant's VLAN, as if that were the VF's own.
    let network = Network::create(&driver, vfs.pf, &options);
    let tenant = network.start(&Wish::vf(0));
    driver.kill();
    fs::remove_file(driver.state_dir.join("state.json")).unwrap();
    driver.serve();
    let network = Network::create(&driver, vfs.pf, &options);
    drop(tenant);
    eventually("the VF is home", || vfs.pf.netdev(vf).ok_or_else(|| "it is not".to_owned()));
    let next = network.start(&Wish::vf(0));
    assert!(has_vlan(), "{}", driver.log());
    next.stop();
    vfs.assert_as_before();
    network.remove();
    driver.finish();
    // Fresh ones for the next test: an address that an administrator gave binds a VF.
    vfs.pf.set_count(0);
}

/// Its driver is unbound, or it is unplugged: the VFs go with it, and it comes back without any.
fn pf_lost_under_a_running_container() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.without_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &["vfs=2"]);
    let ours = Network::of(&driver, vfs.pf, network.id());
    let bereft = network.run("bereft", &[]);
    side.ping(&address(&bereft), 2);
    let counted = driver.stats()[0].traffic();
    let lost = vfs.pf.lose();
    assert!(bereft.netdevs().is_empty(), "{:?}", bereft.netdevs());
    let kept = driver.stats()[0].traffic();
    assert!(kept.rx_packets >= counted.rx_packets && counted.rx_packets >= 2, "{kept:?}, {counted:?}");
    assert_names(&ours.refuses(&Wish::default()), &[&vfs.pf.name, "no such netdev"]);
    let doctor = driver.command("doctor").output().unwrap();
    let netdevice = format!("netdevice={}: no such netdev on this host", vfs.pf.name);
    assert_names(&String::from_utf8_lossy(&doctor.stdout), &[&netdevice]);
    bereft.stop();
    assert!(driver.stats().is_empty());
    driver.assert_alive();
    drop(lost);
    assert_eq!(vfs.pf.count(), 0);
    // They were made by the driver, and are again.
    bereft.docker(&["start"]);
    assert_eq!(vfs.pf.count(), 2);
    side.ping(&address(&bereft), 2);
    drop(bereft);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn engine_and_driver_are_away_by_turns() {
    let (bench, engine) = (bench(), Engine::start(&["--live-restore"]));
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(&engine, &driver, vfs.pf, &side, &["max_tx_rate=300"]);
    let (survivor, victim) = (network.run("survivor", &[]), network.run("victim", &[]));
    side.ping(&address(&survivor), 2);
    let (pid, early) = (survivor.pid(), driver.stats_for(&[&survivor.name])[0].traffic());
    let there = address(&survivor);
    let dying = nix::unistd::Pid::from_raw(victim.pid());
    engine.kill();
    // One dies while nobody looks. The driver is another then, too.
    nix::sys::signal::kill(dying, nix::sys::signal::Signal::SIGKILL).unwrap();
    driver.kill();
    side.ping(&there, 2);
    driver.serve();
    engine.serve();
    assert_eq!(survivor.pid(), pid);
    side.ping(&there, 2);
    let late = driver.stats_for(&[&survivor.name])[0].traffic();
    assert!(late.rx_packets >= early.rx_packets + 4, "{early:?}, {late:?}");
    eventually("the other one starts again", || engine.attempt(&["start", &victim.name]));
    side.ping(&address(&victim), 2);
    engine.docker(&["system", "prune", "--force"]);
    assert_eq!(driver.stats().len(), 2);
    drop((survivor, victim));
    vfs.assert_as_before();
    // Docker says once that a network goes, and does not mind if nobody hears.
    driver.kill();
    network.remove();
    driver.serve();
    eventually("Docker has it no more", || {
        let ls = command::finish("ls", driver.command("ls").arg("--json"))?;
        if ls.trim() == "[]" { Ok(()) } else { Err(ls) }
    });
    driver.finish();
    vfs.assert_as_before();
}

/// Its PF is elsewhere while a VF comes home: it has its tenant's VLAN still, and stays reserved until that is undone.
fn what_can_not_be_read_is_not_forgotten() {
    let bench = bench();
    let mut vfs = bench.with_vfs();
    // So that nothing else of the VF is to be put back.
    vfs.pf.give_mac(0, "02:5e:00:00:00:90");
    vfs.settle();
    let driver = Driver::without_engine();
    driver.serve_with(&["--look", "1", "--call-timeout", "60"]);
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let tenant = network.start(&Wish::vf(0));
    let aside = Netns::new("aside".into());
    command::ip(&format!("link set {} netns {}", vfs.pf.name, aside.name()));
    // Not under the name of the PF, which is to come back.
    tenant.netns.ip(&format!("link set {INSIDE} down"));
    tenant.netns.ip(&format!("link set {INSIDE} name inside0"));
    drop(tenant);
    eventually("it can't be given back", || {
        let log = driver.log();
        if log.contains("the PF is no longer there") { Ok(()) } else { Err(log) }
    });
    assert_eq!(driver.stats().len(), 1, "{}", driver.log());
    aside.ip(&format!("link set {} netns 1", vfs.pf.name));
    vfs.pf.raise();
    eventually("it is given back", || if driver.stats().is_empty() { Ok(()) } else { Err(driver.log()) });
    network.remove();
    driver.finish();
    vfs.assert_as_before();
    vfs.pf.set_count(0);
}
