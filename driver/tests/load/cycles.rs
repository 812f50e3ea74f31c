//! What Docker does all day, by the thousand: nothing may be left of it.
use std::{collections::BTreeSet, thread, time::Instant};

use serde_json::json;

use crate::{
    number,
    support::{command, docker_id, driver::Driver, look::Place, netns::Netns, simulated, trials, unique},
};

trials![cycles_by_the_thousand_leave_nothing];

/// Networks at the same time, each with a netdev of its own.
const WORKERS: u32 = 32;
/// One in so many goes into its container and is brought home by the driver.
const MOVED: u32 = 25;
/// What a machine that is busy with others leads to.
const LATE: [&str; 3] =
    ["not done within", "no answer from the kernel within", "has not taken the request within"];

fn cycles_by_the_thousand_leave_nothing() {
    let cycles = number("DOCKER_PASSTHROUGH_TEST_CYCLES", 1000);
    let driver = Driver::start();
    let prefix = format!("load{}x", unique());
    let names: Vec<String> = (0..WORKERS).map(|n| format!("{prefix}{n}")).collect();
    let add = |name: &String| format!("link add {name} type veth peer name {name}p");
    command::ip_batch(None, &names.iter().map(add).collect::<Vec<_>>()).unwrap();
    let container = Netns::new(prefix.clone());
    let networks: Vec<String> = names
        .iter()
        .map(|name| simulated::create_network_with(&driver, &json!({ "netdevice": name })))
        .collect();
    let round = |cycles: u32| {
        thread::scope(|scope| {
            for (name, network) in names.iter().zip(&networks) {
                let (driver, container) = (&driver, &container);
                scope.spawn(move || {
                    for n in 0..cycles.div_ceil(WORKERS) {
                        cycle(driver, network, container, (n % MOVED == 1).then_some(name));
                    }
                });
            }
        });
    };
    // Other tests' netdevs come and go beside them, and may have taken the number of one that was away.
    let links = || {
        let all = Place::Host.run("ip -o link show");
        let ours = all.lines().filter_map(|line| line.split_once(": ")).map(|(_, link)| link.to_owned());
        ours.filter(|link| link.starts_with(&prefix)).collect::<BTreeSet<_>>()
    };
    // What grows once grows now: pools of threads, caches, the allocator's arenas.
    let (begun, seen) = (Instant::now(), links());
    assert_eq!(seen.len(), 2 * names.len());
    round(cycles / 4);
    let before = driver.footprint();
    for _ in 1..4 {
        round(cycles / 4);
        println!("{:.0} s: {:?}", begun.elapsed().as_secs_f32(), driver.footprint());
    }
    let after = driver.settles_at(before);
    println!("{cycles} cycles in {:.0} s: {before:?}, then {after:?}", begun.elapsed().as_secs_f32());
    assert_eq!(links(), seen);
    assert_eq!(crate::support::driver::entries(&driver.bpffs), [""; 0]);
    for network in &networks {
        driver.done("DeleteNetwork", &json!({ "NetworkID": network }));
    }
    driver.finish();
    command::ip_batch(None, &names.iter().map(|name| format!("link del {name}")).collect::<Vec<_>>())
        .unwrap();
}

fn cycle(driver: &Driver, network: &str, container: &Netns, moved: Option<&String>) {
    let endpoint = created(driver, network);
    let ids = simulated::ids(network, &endpoint);
    let mut join = ids.clone();
    join["SandboxKey"] = json!(container.path());
    driver.done("Join", &join);
    if let Some(name) = moved {
        command::ip(&format!("link set {name} netns {}", container.name()));
    }
    driver.done("Leave", &ids);
    while let Err(complaint) = driver.call("DeleteEndpoint", &ids) {
        assert!(is_late(&complaint), "{complaint}");
    }
}

/// When the driver was late it says so, has undone it or is about to, and Docker's user tries again.
fn created(driver: &Driver, network: &str) -> String {
    loop {
        let endpoint = docker_id();
        match driver.call("CreateEndpoint", &simulated::endpoint(network, &endpoint, "")) {
            Ok(_) => return endpoint,
            Err(complaint) => assert!(is_late(&complaint) || complaint.contains("in use by"), "{complaint}"),
        }
    }
}

fn is_late(complaint: &str) -> bool {
    LATE.iter().any(|late| complaint.contains(late))
}
