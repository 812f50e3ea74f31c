//! The engine ends, in good order or not, and starts again.
use crate::support::{
    container::Network,
    docker::Engine,
    driver::Driver,
    eventually,
    nic::{Nic, Traffic},
    trials,
};

trials![
    ended_and_started,
    ended_with_live_restore,
    killed_with_live_restore,
    killed_and_started,
    container_ends_while_nobody_looks,
    engine_and_driver_start_in_either_order,
    host_is_started_again,
    prune_takes_what_nobody_uses,
];

fn ended_and_started() {
    let engine = Engine::start(&[]);
    let driver = Driver::start_beside(&engine.host());
    let (nic, other) = (Nic::new(), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let always = Network::create(&engine, &driver, &other, &[]);
    let container = network.run("once", &[]);
    let faithful = always.run("always", &["--restart", "always"]);
    nic.ping(&nic.near4(2), 2);
    engine.terminate();
    network.wait_home();
    always.wait_home();
    engine.serve();
    eventually("the one that always restarts", || {
        other.far.place().attempt(&format!("busybox ping -c 1 -W 1 {}", other.near4(2)))
    });
    assert_eq!(faithful.netdevs(), ["eth0"]);
    container.docker(&["start"]);
    nic.ping(&nic.near4(2), 2);
    assert_eq!(driver.stats().len(), 2);
    drop((container, faithful));
    network.remove();
    always.remove();
    driver.finish();
}

fn ended_with_live_restore() {
    let engine = Engine::start(&["--live-restore"]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("alive", &[]);
    let pid = container.pid();
    nic.ping(&nic.near4(2), 5);
    engine.terminate();
    nic.ping(&nic.near4(2), 5);
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.container.as_ref().is_none_or(|name| *name == container.name), "{stats:?}");
    // Both away: the counters and the traffic need neither.
    driver.kill();
    nic.ping(&nic.near4(2), 5);
    driver.serve();
    engine.serve();
    assert_eq!(container.pid(), pid);
    nic.ping(&nic.near4(2), 5);
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().rx_packets >= 20, "{stats:?}");
    driver.names(&nic.name, &container.name);
    container.stop();
    network.wait_home();
    assert!(driver.stats().is_empty());
    container.docker(&["start"]);
    nic.ping(&nic.near4(2), 1);
    drop(container);
    network.remove();
    driver.finish();
}

/// Waits for the device to come home; a virtual one may have ended with its namespace instead.
fn wait_home_or_plug(network: &Network, nic: &Nic) {
    eventually("the container's network is gone", || {
        if nic.name_now().is_some() {
            return Ok(());
        }
        if nic.far.place().attempt("ip link show dev far").is_ok() {
            return Err("it is in the container still".to_owned());
        }
        nic.plug();
        Ok(())
    });
    network.wait_home();
}

fn killed_and_started() {
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("orphan", &[]);
    nic.ping(&nic.near4(2), 2);
    engine.kill();
    engine.serve();
    // The engine ends the container, and tells nobody.
    wait_home_or_plug(&network, &nic);
    eventually("the container starts again", || engine.attempt(&["start", &container.name]));
    nic.ping(&nic.near4(2), 2);
    assert_eq!(driver.stats().len(), 1);
    drop(container);
    network.remove();
    driver.finish();
}

fn container_ends_while_nobody_looks() {
    let engine = Engine::start(&["--live-restore"]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("lonely", &[]);
    nic.ping(&nic.near4(2), 2);
    let pid = container.pid();
    engine.terminate();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    engine.serve();
    wait_home_or_plug(&network, &nic);
    eventually("the container starts again", || engine.attempt(&["start", &container.name]));
    nic.ping(&nic.near4(2), 2);
    drop(container);
    network.remove();
    driver.finish();
}

fn killed_with_live_restore() {
    let engine = Engine::start(&["--live-restore"]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("survivor", &[]);
    let pid = container.pid();
    nic.ping(&nic.near4(2), 2);
    engine.kill();
    nic.ping(&nic.near4(2), 2);
    engine.serve();
    assert_eq!(container.pid(), pid);
    nic.ping(&nic.near4(2), 2);
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().rx_packets >= 6, "{stats:?}");
    container.stop();
    network.wait_home();
    container.docker(&["start"]);
    nic.ping(&nic.near4(2), 1);
    drop(container);
    network.remove();
    driver.finish();
}

/// Waits for a container that the engine starts by itself.
fn wait_running(nic: &Nic) {
    eventually("the one that always restarts", || {
        nic.far.place().attempt(&format!("busybox ping -c 1 -W 1 {}", nic.near4(2)))
    });
}

fn engine_and_driver_start_in_either_order() {
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("always", &["--restart", "always"]);
    nic.ping(&nic.near4(2), 1);
    engine.terminate();
    driver.terminate();
    driver.serve();
    network.wait_home();
    engine.serve();
    wait_running(&nic);
    engine.terminate();
    driver.terminate();
    // The engine starts the container, or would: it asks for the driver, for a while.
    engine.serve();
    driver.serve();
    eventually("the container runs, or can be started", || {
        let running = nic.far.place().attempt(&format!("busybox ping -c 1 -W 1 {}", nic.near4(2)));
        running.or_else(|_| engine.attempt(&["start", &container.name]))
    });
    wait_running(&nic);
    assert_eq!(driver.stats().len(), 1);
    container.stop();
    network.wait_home();
    drop(container);
    network.remove();
    driver.finish();
}

/// What is on the disk stays. Netdevs are fresh, and the BPF file system is empty.
fn host_is_started_again() {
    let engine = Engine::start(&[]);
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("always", &["--restart", "always"]);
    nic.ping(&nic.near4(2), 5);
    let pid = container.pid();
    driver.kill();
    engine.kill();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    std::fs::remove_dir_all(&driver.bpffs).unwrap();
    eventually("nothing of the netdev is left", || {
        let _ = crate::support::command::attempt("ip", &["-n", nic.far.name(), "link", "del", "far"]);
        nic.far.place().attempt("ip link show dev far").map_or(Ok(()), Err)
    });
    nic.plug();
    driver.serve();
    engine.serve();
    eventually("the container starts again", || {
        let running = nic.far.place().attempt(&format!("busybox ping -c 1 -W 1 {}", nic.near4(2)));
        running.or_else(|_| engine.attempt(&["start", &container.name]))
    });
    nic.ping(&nic.near4(2), 1);
    driver.agrees_with(&nic, Traffic::default());
    container.stop();
    network.wait_home();
    drop(container);
    network.remove();
    driver.finish();
}

fn prune_takes_what_nobody_uses() {
    let engine = Engine::start(&[]);
    let driver = Driver::start_beside(&engine.host());
    let (nic, other) = (Nic::new(), Nic::new());
    let (used, unused) =
        (Network::create(&engine, &driver, &nic, &[]), Network::create(&engine, &driver, &other, &[]));
    let before = other.look();
    let (container, stopped) = (used.run("used", &[]), unused.run("stopped", &[]));
    stopped.stop();
    engine.docker(&["system", "prune", "--force"]);
    nic.ping(&nic.near4(2), 2);
    assert_eq!(driver.stats().len(), 1);
    assert_eq!(other.look(), before);
    // The netdevice is free for another network.
    let again = Network::create(&engine, &driver, &other, &["--label", "again"]);
    again.remove();
    drop((container, stopped));
    used.remove();
    driver.finish();
}
