//! The driver is away at the wrong moment.
use std::{thread, time::Duration};

use crate::support::{
    container::Network,
    docker::Engine,
    driver::Driver,
    eventually, eventually_within,
    nic::{Nic, Traffic},
    trials,
};

trials![
    container_stops_while_the_driver_is_down,
    network_is_removed_while_the_driver_is_down,
    driver_returns_while_the_engine_still_asks,
    killed_and_started_under_a_running_container,
    container_without_a_driver_gets_a_clear_error,
];

/// Waits until nothing is counted any more, here or in the file system.
fn wait_without_endpoints(driver: &Driver) {
    eventually("no endpoint is left", || {
        let pins = crate::support::driver::entries(&driver.bpffs);
        if driver.stats().is_empty() && pins.is_empty() { Ok(()) } else { Err(format!("{pins:?}")) }
    });
}

fn container_stops_while_the_driver_is_down() {
    // The engine waits 15 seconds for each of its calls, and holds up others meanwhile.
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("left", &["--mac-address", "02:42:0a:40:00:66"]);
    nic.ping(&nic.near4(2), 2);
    driver.terminate();
    // The engine takes the device back without us, and no call of this is ever made up for.
    container.stop();
    assert_ne!(nic.name_now(), None, "lost to the host");
    driver.serve();
    network.wait_home();
    wait_without_endpoints(&driver);
    container.docker(&["start"]);
    nic.ping(&nic.near4(2), 2);
    drop(container);
    network.remove();
    driver.finish();
}

fn network_is_removed_while_the_driver_is_down() {
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    driver.kill();
    network.remove();
    driver.serve();
    // Docker never says that the network is gone, so a new one must not be refused for its sake. The
    // driver waits a minute before it believes that Docker has no such network.
    let limit = Duration::from_mins(3);
    let network = eventually_within(limit, "a new network on the same device", || {
        let netdevice = format!("netdevice={}", nic.name);
        engine.attempt(&["network", "create", "-d", &driver.name, "-o", &netdevice, "probe"]).map(|_| ())?;
        engine.docker(&["network", "rm", "probe"]);
        Ok(Network::create(&engine, &driver, &nic, &[]))
    });
    let container = network.run("new", &[]);
    nic.ping(&nic.near4(2), 2);
    drop(container);
    network.remove();
    driver.finish();
}

fn driver_returns_while_the_engine_still_asks() {
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("patient", &[]);
    nic.ping(&nic.near4(2), 2);
    driver.kill();
    thread::scope(|scope| {
        let stopping = scope.spawn(|| container.stop());
        eventually("the engine misses the driver", || {
            let log = engine.log();
            if log.contains("Unable to connect to plugin") { Ok(()) } else { Err(log) }
        });
        driver.serve();
        stopping.join().unwrap();
    });
    network.wait_home();
    wait_without_endpoints(&driver);
    drop(container);
    network.remove();
    driver.finish();
}

fn killed_and_started_under_a_running_container() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("undisturbed", &[]);
    nic.ping(&nic.near4(2), 1);
    thread::scope(|scope| {
        let pinging = scope.spawn(|| container.sh(&format!("ping -c 100 -i 0.02 -W 5 {}", nic.far4())));
        for _ in 0..3 {
            driver.kill();
            assert_eq!(driver.stats().len(), 1);
            driver.serve();
        }
        assert!(pinging.join().unwrap().contains("100 packets received, 0% packet loss"));
    });
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().tx_packets >= 100, "{stats:?}");
    driver.names(&nic.name, &container.name);
    // What it knows of the container it knows again.
    container.docker(&["restart", "-t", "0"]);
    nic.ping(&nic.near4(2), 1);
    container.stop();
    network.assert_home();
    drop(container);
    network.remove();
    driver.finish();
}

fn container_without_a_driver_gets_a_clear_error() {
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    driver.terminate();
    let complaint = network.attempt("early", &[]).err().expect("there is no driver");
    assert!(complaint.contains(&driver.name), "{complaint}");
    network.assert_home();
    driver.serve();
    let container = network.run("late", &[]);
    nic.ping(&nic.near4(2), 1);
    drop(container);
    network.remove();
    driver.finish();
}
