//! The ways a container starts and ends.
use std::{collections::BTreeSet, thread};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::support::{
    assert_names, command,
    container::Network,
    docker::{self, Engine},
    driver::{Driver, Stats},
    eventually,
    look::text,
    nic::{Nic, Traffic},
    trials,
};

trials![
    engine_is_the_one_that_was_chosen,
    stopped_and_started,
    restarted,
    killed_by_docker,
    process_killed_behind_dockers_back,
    removed_while_it_runs,
    connected_and_disconnected,
    one_after_the_other,
    started_at_once,
    failed_start_gives_the_device_back,
    device_that_was_up_is_up_again,
    names_of_many_networks,
];

fn engine_is_the_one_that_was_chosen() {
    let said = command::run(&docker::dockerd(), &["--version"]);
    let chosen = said.strip_prefix("Docker version ").and_then(|rest| rest.split(',').next()).unwrap();
    let runs = Engine::shared().api("GET", "/version").unwrap();
    assert_eq!(text(&runs["Version"]), chosen);
}

fn stopped_and_started() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("again", &[]);
    let first = container.endpoint();
    assert_eq!(driver.pins(&first), ["counters", "rx", "tx"]);
    nic.ping(&nic.near4(2), 5);
    container.stop();
    network.assert_home();
    assert_eq!(driver.pins(&first), [""; 0]);
    let since = nic.far_counters();
    container.docker(&["start"]);
    nic.ping(&nic.near4(2), 5);
    let stats = driver.agrees_with(&nic, since);
    assert_ne!(stats.endpoint_id, first, "an endpoint is one start of one container");
    assert_eq!(stats.endpoint_id, container.endpoint());
    container.stop();
    network.assert_home();
    drop(container);
    network.remove();
    driver.finish();
}

fn restarted() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("restarted", &[]);
    for _ in 0..3 {
        container.docker(&["restart", "-t", "0"]);
        nic.ping(&nic.near4(2), 2);
        assert_eq!(container.netdevs(), ["eth0"]);
        let stats = driver.stats();
        assert!(
            matches!(&stats[..], [Stats { endpoint_id, .. }] if *endpoint_id == container.endpoint()),
            "{stats:?}"
        );
    }
    drop(container);
    network.remove();
    driver.finish();
}

fn killed_by_docker() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("killed", &[]);
    nic.ping(&nic.near4(2), 2);
    container.docker(&["kill", "-s", "KILL"]);
    network.wait_home();
    eventually("no endpoint is left", || {
        if driver.stats().is_empty() { Ok(()) } else { Err(format!("{:?}", driver.stats())) }
    });
    drop(container);
    network.remove();
    driver.finish();
}

fn process_killed_behind_dockers_back() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("shot", &[]);
    nic.ping(&nic.near4(2), 2);
    kill(Pid::from_raw(container.pid()), Signal::SIGKILL).unwrap();
    network.wait_home();
    let state = || container.docker(&["inspect", "-f", "{{.State.Running}}"]);
    eventually("Docker has noticed", || if state() == "false" { Ok(()) } else { Err(state()) });
    container.docker(&["start"]);
    nic.ping(&nic.near4(2), 2);
    drop(container);
    network.remove();
    driver.finish();
}

fn removed_while_it_runs() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("removed", &[]);
    nic.ping(&nic.near4(2), 2);
    container.docker(&["rm", "-f"]);
    network.assert_home();
    assert!(driver.stats().is_empty());
    network.remove();
    driver.finish();
}

fn connected_and_disconnected() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    let (base, extra) = (Nic::new(), Nic::new());
    let network = Network::create(engine, &driver, &base, &[]);
    let later = Network::create(engine, &driver, &extra, &[]);
    let container = network.run("visited", &[]);
    for _ in 0..3 {
        let since = extra.far_counters();
        engine.docker(&["network", "connect", "--ip", &extra.near4(77), &later.name, &container.name]);
        // Docker gives each interface of a container a number of its own.
        let netdevs = container.netdevs();
        assert!(
            matches!(&netdevs[..], [first, second] if first == "eth0" && second.starts_with("eth")),
            "{netdevs:?}"
        );
        extra.ping(&extra.near4(77), 5);
        driver.agrees_with(&extra, since);
        engine.docker(&["network", "disconnect", &later.name, &container.name]);
        later.assert_home();
        assert_eq!(container.netdevs(), ["eth0"]);
        base.ping(&base.near4(2), 1);
    }
    // Connected while it is stopped, and by force while it runs.
    container.stop();
    engine.docker(&["network", "connect", &later.name, &container.name]);
    container.docker(&["start"]);
    extra.ping(&extra.near4(2), 1);
    base.ping(&base.near4(2), 1);
    engine.docker(&["network", "disconnect", "-f", &later.name, &container.name]);
    later.assert_home();
    drop(container);
    network.remove();
    later.remove();
    driver.finish();
}

fn one_after_the_other() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let mut endpoints = Vec::new();
    for n in 0..4 {
        let since = nic.far_counters();
        let container = network.run(&format!("guest{n}"), &[]);
        nic.ping(&nic.near4(2), 3);
        let stats = driver.agrees_with(&nic, since);
        driver.names(&nic.name, &container.name);
        endpoints.push(stats.endpoint_id);
        drop(container);
        network.assert_home();
    }
    endpoints.dedup();
    assert_eq!(endpoints.len(), 4);
    network.remove();
    driver.finish();
}

fn started_at_once() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    let nics: Vec<Nic> = (0..6).map(|_| Nic::new()).collect();
    let networks: Vec<Network> = nics.iter().map(|nic| Network::create(engine, &driver, nic, &[])).collect();
    thread::scope(|scope| {
        for (nic, network) in nics.iter().zip(&networks) {
            let driver = &driver;
            scope.spawn(move || {
                let container = network.run("crowd", &[]);
                nic.ping(&nic.near4(2), 5);
                driver.agrees_with(nic, Traffic::default());
                driver.names(&nic.name, &container.name);
            });
        }
    });
    for network in networks {
        network.remove();
    }
    assert!(driver.stats().is_empty());
    driver.finish();
}

fn failed_start_gives_the_device_back() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    // Docker asks for everything, and then there is nothing to run.
    let complaint = engine
        .attempt(&[
            "run",
            "--rm",
            "--network",
            &network.name,
            crate::support::docker::IMAGE,
            "/no/such/program",
        ])
        .unwrap_err();
    assert_names(&complaint, &["/no/such/program"]);
    network.wait_home();
    assert!(driver.stats().is_empty());
    let container = network.run("after", &[]);
    nic.ping(&nic.near4(2), 1);
    drop(container);
    network.remove();
    driver.finish();
}

fn device_that_was_up_is_up_again() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    command::ip(&format!("link set {} up alias uplink mtu 1400", nic.name));
    command::ip(&format!("addr add {}/24 dev {}", nic.near4(200), nic.name));
    let network = Network::create(engine, &driver, &nic, &["-o", "force=1"]);
    let container = network.run("guest", &["--mac-address", "02:42:0a:40:00:99"]);
    nic.ping(&nic.near4(2), 2);
    assert!(nic.far.place().attempt(&format!("busybox ping -c 1 -W 1 {}", nic.near4(200))).is_err());
    container.stop();
    network.assert_home();
    nic.ping(&nic.near4(200), 2);
    drop(container);
    network.remove();
    driver.finish();
}

/// So many that the engine is asked for all of them at once.
fn names_of_many_networks() {
    let engine = Engine::shared();
    let (driver, nics) = (Driver::start_beside(&engine.host()), [(); 18].map(|()| Nic::new()));
    let networks: Vec<_> = nics.iter().map(|nic| Network::create(engine, &driver, nic, &[])).collect();
    let (first, last) = (&networks[0], &networks[17]);
    let container = first.run("busy", &[]);
    engine.docker(&["network", "connect", &last.name, &container.name]);
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", &container.name]);
    let mut found: Vec<_> = driver.stats_json();
    found.retain(|one| one["container"] == container.name.as_str() && one["container_id"] == id.as_str());
    let of: BTreeSet<_> = found.iter().map(|one| text(&one["network"])).collect();
    assert_eq!(of, BTreeSet::from([first.name.clone(), last.name.clone()]), "{found:#?}");
    let listed = command::finish("ls", driver.command("ls").arg("--json")).unwrap();
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let listed: BTreeSet<_> = listed.iter().map(|one| text(&one["network"])).collect();
    assert_eq!(listed, networks.iter().map(|network| network.name.clone()).collect());
    drop(container);
    networks.into_iter().for_each(Network::remove);
    driver.finish();
}
