//! `counters=detailed`, from the network's option to what the user reads.
use serde_json::{Value, json};

use crate::support::{
    command,
    driver::Driver,
    eventually,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    trials,
};

trials![classes_are_shown_and_outlive_the_driver, basic_networks_have_none];

const PINGS: u32 = 20;

/// What `stats` prints.
#[track_caller]
fn printed(driver: &Driver, arguments: &[&str]) -> String {
    command::finish("stats", driver.command("stats").args(arguments)).expect("stats")
}

/// `rx` and `tx` of the only endpoint in `stats --json`.
#[track_caller]
fn directions(driver: &Driver) -> [Value; 2] {
    let all: Value = serde_json::from_str(&printed(driver, &["--json"])).unwrap();
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    ["rx", "tx"].map(|side| all[0][side].clone())
}

/// The classes of each sum: every frame is in one of them.
const SUMS: [&[&str]; 3] = [
    &["unicast", "multicast", "broadcast"],
    &["ipv4", "ipv6", "arp", "other_ethertype"],
    &[
        "pkts_64_octets",
        "pkts_65_to_127_octets",
        "pkts_128_to_255_octets",
        "pkts_256_to_511_octets",
        "pkts_512_to_1023_octets",
        "pkts_1024_to_1518_octets",
        "pkts_1519_to_max_octets",
    ],
];

#[track_caller]
fn number(side: &Value, class: &str) -> u64 {
    side["detailed"][class].as_u64().unwrap_or_else(|| panic!("no {class} in {side}"))
}

/// Pings so often were all that was said, but for ARP and what a stack says by itself.
#[track_caller]
fn assert_pinged(driver: &Driver, nic: &Nic, pings: u32) {
    driver.agrees_with(nic, Traffic::default());
    for side in directions(driver) {
        for sum in SUMS {
            let total: u64 = sum.iter().map(|class| number(&side, class)).sum();
            assert_eq!(Some(total), side["packets"].as_u64(), "{sum:?} of {side}");
        }
        let pings = u64::from(pings);
        assert!(number(&side, "icmp") >= pings && number(&side, "ipv4") >= pings, "{side}");
        // 98 bytes and an FCS.
        assert!(number(&side, "pkts_65_to_127_octets") >= pings, "{side}");
        for none in ["tcp", "vlan_tagged", "pkts_1519_to_max_octets"] {
            assert_eq!(number(&side, none), 0, "{none} of {side}");
        }
    }
}

fn classes_are_shown_and_outlive_the_driver() {
    for hook in ["xdp", "tcx"] {
        let driver = Driver::start();
        let nic = Nic::new();
        let options = json!({"netdevice": nic.name, "counters": "detailed", "rx_hook": hook});
        let network = simulated::create_network_with(&driver, &options);
        let container = Container::start(&driver, &nic, &network);
        nic.ping(&nic.near4(2), PINGS);
        assert_pinged(&driver, &nic, PINGS);
        driver.kill();
        nic.ping(&nic.near4(2), PINGS);
        assert_pinged(&driver, &nic, 2 * PINGS);
        driver.serve();
        nic.ping(&nic.near4(2), PINGS);
        assert_pinged(&driver, &nic, 3 * PINGS);
        assert!(!driver.log().contains("their layout is another's"), "{}", driver.log());
        // The far end's stack speaks by itself: only a table between two equal readings has their figures.
        let (rx, table) = eventually("a moment without a frame", || {
            let [before, _] = directions(&driver);
            let table = printed(&driver, &["--detailed"]);
            let [after, _] = directions(&driver);
            if before == after { Ok((after, table)) } else { Err(format!("{before} before, {after} after")) }
        });
        for part in [&container.endpoint[..12], "broadcast", "ICMP", "65-127", "1519 and more"] {
            assert!(table.contains(part), "no {part:?} in\n{table}");
        }
        let icmp = table.lines().find_map(|line| line.split("ICMP").nth(1)).unwrap().trim_start();
        assert!(icmp.starts_with(&number(&rx, "icmp").to_string()), "{rx}\n{table}");
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(!printed(&driver, &[]).contains("ICMP"));
        container.stop();
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
        driver.finish();
    }
}

fn basic_networks_have_none() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 1);
    for side in directions(&driver) {
        assert!(side["packets"].as_u64() > Some(0) && side.get("detailed").is_none(), "{side}");
    }
    let table = printed(&driver, &["--detailed"]);
    assert!(table.contains("counters=detailed") && !table.contains("ICMP"), "{table}");
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
