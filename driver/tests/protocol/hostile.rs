//! A container that sends what and how it likes.
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    eventually,
    nic::Nic,
    packet::{self, PacketSocket},
    simulated::{self, Container},
    tcx, trials,
};

trials![
    frames_past_the_qdisc_are_shown,
    flooding_until_the_end,
    xdp_by_a_link_that_a_container_holds_is_taken_off,
    xdp_of_the_host_is_not_taken
];

/// The one element of `stats --json`, as it is.
fn stats(driver: &Driver) -> Value {
    let said = command::finish("stats", driver.command("stats").arg("--json")).unwrap();
    serde_json::from_str::<Vec<Value>>(&said).unwrap().remove(0)
}

fn frames_past_the_qdisc_are_shown() {
    const COUNTED: u64 = 20;
    const PAST: u64 = 137;
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let table = || command::finish("stats", &mut driver.command("stats")).unwrap();
    let frame = packet::frame(&nic.mac());
    let open = || PacketSocket::open(&container.netns.path(), Container::INSIDE);
    let honest = open();
    for _ in 0..COUNTED {
        honest.send(&frame).unwrap();
    }
    assert_eq!(stats(&driver)["bypass"]["tx_packets"], 0);
    assert_eq!(table().lines().count(), 2, "{}", table());
    let past = open().bypassing();
    for _ in 0..PAST {
        past.send(&frame).unwrap();
    }
    let shown = stats(&driver);
    assert_eq!(shown["tx"]["packets"], COUNTED, "{shown}");
    assert_eq!(shown["netdev"]["tx_packets"], COUNTED + PAST, "{shown}");
    assert_eq!(shown["bypass"]["tx_packets"], PAST, "{shown}");
    let holder = &container.endpoint[..12];
    assert_names(&table(), &[&format!("\n{holder}: {PAST} more frames were sent past the counters")]);

    // Nothing of it is told of the next one.
    container.stop();
    let next = Container::start(&driver, &nic, &network);
    assert_eq!(stats(&driver)["bypass"]["tx_packets"], 0);
    next.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn flooding_until_the_end() {
    let driver = Driver::start();
    let nic = Nic::new();
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    for engine_moves in [true, false] {
        let container = Container::start(&driver, &nic, &network);
        let frame = packet::frame(&nic.mac());
        let open = || PacketSocket::open(&container.netns.path(), Container::INSIDE);
        let sockets = [open(), open().bypassing()];
        let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for socket in &sockets {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        sent.fetch_add(u64::from(socket.send(&frame).is_ok()), Ordering::Relaxed);
                    }
                });
            }
            eventually("the flood", || {
                if sent.load(Ordering::Relaxed) > 1000 { Ok(()) } else { Err("a trickle".into()) }
            });
            container.leave();
            if engine_moves {
                container.move_out();
            }
            driver.done("DeleteEndpoint", &container.ids());
            assert_eq!(nic.look(), before);
            // Its sockets are of its namespace, and the netdev is not.
            let next = Container::start(&driver, &nic, &network);
            nic.ping(&nic.near4(2), 3);
            let shown = stats(&driver);
            assert!(shown["netdev"]["tx_packets"].as_u64().unwrap() < 100, "{shown}");
            assert_eq!(shown["bypass"]["tx_packets"], 0, "{shown}");
            assert!(sockets.iter().all(|socket| socket.send(&frame).is_err()));
            next.stop();
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(driver.pins(&container.endpoint), [""; 0]);
    }
    assert_eq!(nic.look(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn xdp_by_a_link_that_a_container_holds_is_taken_off() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let before = nic.look();
    let options = json!({"netdevice": nic.name, "rx_hook": "tcx"});
    let network = simulated::create_network_with(&driver, &options);
    let container = Container::start(&driver, &nic, &network);
    let held = tcx::within(&container.netns.path(), || tcx::link_xdp(Container::INSIDE));
    container.stop();
    assert_eq!(nic.look(), before);
    // The next one has nothing of it.
    let next = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 1);
    next.stop();
    drop(held);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn xdp_of_the_host_is_not_taken() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let options = json!({"netdevice": nic.name});
    let held = tcx::link_xdp(&nic.name);
    let before = nic.look();
    let refused = driver.refused("CreateNetwork", &simulated::network(&docker_id(), &options));
    assert_names(&refused, &[&nic.name, "XDP program", "take it off first"]);
    assert_eq!(nic.look(), before);
    drop(held);
    // It came since the network was made.
    let network = simulated::create_network(&driver, &nic);
    let held = tcx::link_xdp(&nic.name);
    let refused = driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), ""));
    assert_names(&refused, &[&nic.name, "XDP program", "take it off first"]);
    assert_eq!(nic.look(), before);
    drop(held);
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
