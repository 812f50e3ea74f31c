//! What is scraped from a driver, against what is known otherwise.
use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    thread,
    time::Instant,
};

use serde_json::{Value, json};

use crate::support::{
    assert_names, command,
    driver::Driver,
    eventually, frames,
    http::Connection,
    nic::{Nic, Traffic},
    prometheus, scrape,
    scrape::{OPENMETRICS, Scrape},
    simulated::{self, Container},
    trials,
};

trials![
    an_endpoints_series_are_what_stats_has,
    what_goes_around_the_hooks_shows_as_bypass,
    detailed_ones_are_by_class,
    spoofed_frames_are_counted_and_dropped,
    series_end_with_their_endpoint,
    calls_and_upkeep_are_counted,
    a_netdev_that_cannot_be_given_back_is_in_limbo,
    promtool_finds_nothing,
    openmetrics_unless_asked_otherwise,
    only_metrics_and_only_read,
    hostile_scrapers_hold_up_nobody,
    addresses,
    hostile_names_stay_in_their_labels,
    dashboard_and_alerts_know_the_names,
    alerts_fire,
];

const LABELS: [&str; 8] =
    ["container", "container_id", "network", "endpoint", "netdevice", "pf", "vf", "pciAddr"];

/// A driver that serves metrics.
fn start() -> Driver {
    let driver = Driver::without_engine();
    scrape::serve(&driver);
    driver
}

/// Scrapes until `check` is content: a scrape may be the one before.
#[track_caller]
fn scraped<T>(driver: &Driver, mut check: impl FnMut(&Scrape) -> Option<T>) -> T {
    eventually("the metrics are as they should be", || {
        let scrape = Scrape::of(driver);
        check(&scrape).ok_or_else(|| format!("{scrape:?}"))
    })
}

/// A scrape, and the endpoint's element of `stats --json` of the same moment: nothing was counted meanwhile.
#[track_caller]
fn beside_stats(driver: &Driver, container: &Container) -> (Scrape, Value) {
    let endpoint = container.endpoint.as_str();
    let stats =
        || driver.stats_json().into_iter().find(|of| of["endpoint_id"] == endpoint).expect("its stats");
    eventually("a scrape is what stats has", || {
        let (before, scrape, after) = (stats(), Scrape::of(driver), stats());
        let of = [("endpoint", endpoint)];
        let same = ["receive", "transmit"].iter().zip(["rx", "tx"]).all(|(way, side)| {
            after[side]["packets"].as_u64() == Some(scrape.value(&format!("{way}_packets_total"), &of))
        });
        let netdev = ["receive", "transmit"].iter().zip(["rx", "tx"]).all(|(way, side)| {
            let expected = after["netdev"][format!("{side}_packets")].as_u64();
            expected == scrape.find(&format!("netdev_{way}_packets_total"), &of)
        });
        let complete = scrape.value("collect_complete", &[]) == 1;
        if same && netdev && complete && before == after {
            Ok((scrape, after))
        } else {
            Err(format!("{before}, {after}"))
        }
    })
}

fn an_endpoints_series_are_what_stats_has() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 17);
    driver.agrees_with(&nic, Traffic::default());
    let of = [("endpoint", container.endpoint.as_str())];
    let (scrape, json) = beside_stats(&driver, &container);
    let figure = |at: &str| json.pointer(at).and_then(Value::as_u64).expect("a figure");
    assert!(figure("/rx/packets") >= 17 && figure("/tx/packets") >= 17, "{json}");
    for (name, expected) in [
        ("receive_packets_total", figure("/rx/packets")),
        ("receive_bytes_total", figure("/rx/bytes")),
        ("transmit_packets_total", figure("/tx/packets")),
        ("transmit_bytes_total", figure("/tx/bytes")),
        ("transmit_spoofed_packets_total", 0),
        ("transmit_spoofed_dropped_packets_total", 0),
        ("receive_bypass_packets", 0),
        ("transmit_bypass_packets", 0),
        ("netdev_in_limbo", 0),
    ] {
        assert_eq!(scrape.value(name, &of), expected, "{name}");
        let sample = scrape.one(name, &of);
        let labels: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
        assert_eq!(labels, BTreeSet::from(LABELS), "{name}");
        assert_eq!(sample.label("netdevice"), nic.name);
        for unknown in ["container", "container_id", "network", "pf", "vf", "pciAddr"] {
            assert_eq!(sample.label(unknown), "", "{name} {unknown}");
        }
    }
    // All figures of `stats --json`.
    for (way, side) in [("receive", "rx"), ("transmit", "tx")] {
        for unit in ["packets", "bytes"] {
            let stats = json["netdev"][format!("{side}_{unit}")].as_u64().unwrap();
            assert_eq!(scrape.value(&format!("netdev_{way}_{unit}_total"), &of), stats);
            assert!(stats > 0);
            // There is no VF: no series, not 0.
            assert!(scrape.all(&format!("vf_{way}_{unit}_total"), &[]).is_empty());
        }
        let dropped = json["netdev"][format!("{side}_dropped")].as_u64().unwrap();
        assert_eq!(scrape.value(&format!("netdev_{way}_dropped_packets_total"), &of), dropped);
    }
    let info = scrape.one("endpoint_info", &of);
    for (label, value) in
        [("mode", "passthrough"), ("rx_hook", "tcx"), ("tx_hook", "tcx"), ("spoof_check", "drop")]
    {
        assert_eq!(info.label(label), value);
    }
    let info = scrape.one("network_info", &[("network_id", &network)]);
    for (label, value) in
        [("netdevice", nic.name.as_str()), ("privileged", "0"), ("rx_hook", "auto"), ("vlan", "")]
    {
        assert_eq!(info.label(label), value, "{label}");
    }
    let build = scrape.one("build_info", &[]);
    assert_eq!(
        (build.label("driver"), build.label("version")),
        (driver.name.as_str(), env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(scrape.value("collect_complete", &[]), 1);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn what_goes_around_the_hooks_shows_as_bypass() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 5);
    let of = [("endpoint", container.endpoint.as_str())];
    frames::bypass_the_qdisc(&container.netns.place(), Container::INSIDE, 40);
    let (bypass, sent) = scraped(&driver, |scrape| {
        let bypass = scrape.find("transmit_bypass_packets", &of)?;
        (bypass > 0).then(|| (bypass, scrape.value("transmit_packets_total", &of)))
    });
    assert_eq!(bypass, 40);
    assert!((5..40).contains(&sent), "{sent}");
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn detailed_ones_are_by_class() {
    let driver = start();
    let (nic, basic) = (Nic::new(), Nic::new());
    let options = json!({"netdevice": nic.name, "counters": "detailed"});
    let networks =
        [simulated::create_network_with(&driver, &options), simulated::create_network(&driver, &basic)];
    let container = Container::start(&driver, &nic, &networks[0]);
    let other = Container::start(&driver, &basic, &networks[1]);
    nic.ping(&nic.near4(2), 9);
    basic.ping(&basic.near4(2), 1);
    driver.agrees_with(&nic, Traffic::default());
    let of = [("endpoint", container.endpoint.as_str())];
    let (scrape, json) = beside_stats(&driver, &container);
    assert!(scrape.value("receive_protocol_packets_total", &[of[0], ("protocol", "icmp")]) >= 9);
    let mut series = 0;
    for (way, side) in [("receive", "rx"), ("transmit", "tx")] {
        let count = |family: &str, label: &str, class: &str| {
            scrape.value(&format!("{way}_{family}_packets_total"), &[of[0], (label, class)])
        };
        let classes = json[side]["detailed"].as_object().unwrap();
        for (class, value) in classes {
            let octets = class.strip_prefix("pkts_").map(|class| class.strip_suffix("_octets").unwrap());
            let found = match (class.as_str(), octets) {
                (_, Some(octets)) => count("size", "octets", &octets.replace("_to_", "-")),
                ("unicast" | "multicast" | "broadcast", _) => count("cast", "cast", class),
                ("tcp" | "udp" | "icmp", _) => count("protocol", "protocol", class),
                ("vlan_tagged", _) => count("tagged", "tag", "vlan"),
                ("other_ethertype", _) => count("ethertype", "ethertype", "other"),
                _ => count("ethertype", "ethertype", class),
            };
            assert_eq!(Some(found), value.as_u64(), "{side} {class}");
            series += 1;
        }
        // Each frame is in one class of each kind.
        let all = scrape.value(&format!("{way}_packets_total"), &of);
        for family in ["cast", "ethertype", "size"] {
            let classes = scrape.all(&format!("{way}_{family}_packets_total"), &of);
            #[expect(clippy::cast_precision_loss, reason = "it is small")]
            let all = all as f64;
            assert_eq!(
                classes.iter().map(|sample| sample.value).sum::<f64>().total_cmp(&all),
                Ordering::Equal
            );
        }
    }
    assert_eq!(series, 36);
    // Where they are not counted there are none.
    let none = scrape.all("receive_size_packets_total", &[("endpoint", &other.endpoint)]);
    assert!(none.is_empty(), "{none:?}");
    prometheus::check_metrics(&scrape::text(&driver, "text/plain"));
    container.stop();
    other.stop();
    for network in networks {
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
    driver.finish();
}

fn spoofed_frames_are_counted_and_dropped() {
    let driver = start();
    for privileged in ["0", "1"] {
        let nic = Nic::new();
        let options = json!({"netdevice": nic.name, "privileged": privileged});
        let network = simulated::create_network_with(&driver, &options);
        let container = Container::start(&driver, &nic, &network);
        let inside = Container::INSIDE;
        container.netns.ip(&format!("link set {inside} address 02:ee:ee:ee:ee:02"));
        let far = nic.far4();
        container.netns.ip(&format!("neigh replace {far} lladdr 02:fa:00:00:00:ff dev {inside}"));
        let ping = format!("busybox ping -c 3 -i 0.01 -W 1 {far}");
        container.netns.place().attempt(&ping).expect_err("an answer");
        let of = [("endpoint", container.endpoint.as_str())];
        let (spoofed, dropped) = scraped(&driver, |scrape| {
            let spoofed = scrape.value("transmit_spoofed_packets_total", &of);
            let dropped = scrape.value("transmit_spoofed_dropped_packets_total", &of);
            (spoofed >= 3).then_some((spoofed, dropped))
        });
        assert_eq!(dropped, if privileged == "0" { spoofed } else { 0 });
        let info = Scrape::of(&driver);
        let info = info.one("endpoint_info", &of);
        assert_eq!(info.label("spoof_check"), if privileged == "0" { "drop" } else { "count" });
        container.stop();
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
    driver.finish();
}

fn series_end_with_their_endpoint() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let container = Container::start(&driver, &nic, &network);
        nic.ping(&nic.near4(2), 3);
        let endpoint = container.endpoint.clone();
        let all = scraped(&driver, |scrape| {
            let all = scrape.all("receive_packets_total", &[("netdevice", &nic.name)]);
            let all: Vec<_> = all.iter().map(|sample| sample.label("endpoint").to_owned()).collect();
            (all == [endpoint.as_str()]).then_some(all)
        });
        // No series ever begins anew: each endpoint has its own.
        assert!(seen.insert(all[0].clone()));
        container.stop();
        scraped(&driver, |scrape| {
            scrape.0.iter().all(|sample| sample.label("endpoint") != endpoint).then_some(())
        });
    }
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    scraped(&driver, |scrape| scrape.all("network_info", &[]).is_empty().then_some(()));
    driver.finish();
}

fn calls_and_upkeep_are_counted() {
    let (driver, nic) = (start(), Nic::new());
    let count = |scrape: &Scrape, call: &str| scrape.value("call_duration_seconds_count", &[("call", call)]);
    let first = Scrape::of(&driver);
    for call in ["CreateNetwork", "Join", "DeleteEndpoint"] {
        // There before the first one: the first is an increase.
        assert_eq!(count(&first, call), 0, "{call}");
        assert_eq!(first.value("call_errors_total", &[("call", call)]), 0, "{call}");
    }
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    driver.refused("CreateEndpoint", &simulated::endpoint(&network, &crate::support::docker_id(), ""));
    driver.refused("Join", &json!({"NetworkID": "../../x"}));
    let scrape = scraped(&driver, |scrape| (count(scrape, "Join") == 2).then(|| Scrape(scrape.0.clone())));
    for (call, all, failed) in
        [("CreateNetwork", 1, 0), ("CreateEndpoint", 2, 1), ("Join", 2, 1), ("Leave", 0, 0)]
    {
        assert_eq!(count(&scrape, call), all, "{call}");
        assert_eq!(scrape.value("call_errors_total", &[("call", call)]), failed, "{call}");
        let most = [("call", call), ("le", "+Inf")];
        assert_eq!(scrape.value("call_duration_seconds_bucket", &most), all, "{call}");
    }
    let action =
        |scrape: &Scrape, action: &str| scrape.value("reconcile_actions_total", &[("action", action)]);
    assert_eq!(action(&scrape, "take_back"), 0);
    // It ends, and nobody says so.
    container.move_out();
    scraped(&driver, |scrape| (action(scrape, "take_back") == 1).then_some(()));
    assert!(driver.stats().is_empty());
    let failures = Scrape::of(&driver);
    assert!(failures.all("reconcile_failures_total", &[]).iter().all(|sample| sample.value == 0.0));
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn a_netdev_that_cannot_be_given_back_is_in_limbo() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    // Its name is taken on the host meanwhile.
    container.leave();
    command::ip(&format!("link add {0} type veth peer name x{0}", nic.name));
    let complaint = driver.refused("DeleteEndpoint", &container.ids());
    assert_names(&complaint, &["stays reserved"]);
    let of = [("endpoint", container.endpoint.as_str())];
    scraped(&driver, |scrape| (scrape.value("netdev_in_limbo", &of) == 1).then_some(()));
    command::ip(&format!("link del {}", nic.name));
    driver.done("DeleteEndpoint", &container.ids());
    scraped(&driver, |scrape| scrape.all("netdev_in_limbo", &of).is_empty().then_some(()));
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn promtool_finds_nothing() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 1);
    let text = scrape::text(&driver, "text/plain");
    assert_names(&text, &["docker_passthrough_receive_packets_total{", &container.endpoint]);
    prometheus::check_metrics(&text);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn openmetrics_unless_asked_otherwise() {
    let driver = start();
    for (accept, kind) in [
        ("*/*", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let answer = scrape::request(&driver, "GET", "/metrics", accept);
        assert_eq!(answer.status, 200);
        assert_names(&answer.head.to_lowercase(), &[&format!("content-type: {kind}")]);
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(text.ends_with("# EOF\n"), kind.contains("openmetrics"));
        let counter = if kind.contains("openmetrics") { "call_errors" } else { "call_errors_total" };
        assert_names(&text, &[&format!("# TYPE docker_passthrough_{counter} counter\n")]);
    }
    // Both have the same in them, but for how long it took and what was called meanwhile.
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let (one, other) = (scrape::text(&driver, OPENMETRICS), scrape::text(&driver, "text/plain"));
    assert_eq!(series(&one), series(&other));
    driver.finish();
}

fn only_metrics_and_only_read() {
    let driver = start();
    for path in
        ["/", "/metric", "/metrics/", "/metrics/x", "/Plugin.Activate", "/NetworkDriver.CreateNetwork"]
    {
        assert_eq!(scrape::request(&driver, "GET", path, "*/*").status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let answer = scrape::request(&driver, method, "/metrics", "*/*");
        assert_eq!(answer.status, 405, "{method}");
        assert_names(&answer.head.to_lowercase(), &["allow: get, head"]);
    }
    assert_eq!(scrape::request(&driver, "GET", "/metrics?x=y", "*/*").status, 200);
    let head = scrape::request(&driver, "HEAD", "/metrics", "*/*");
    assert_eq!(head.status, 200);
    assert_names(&head.head.to_lowercase(), &["content-length: ", OPENMETRICS]);
    let mode = fs::metadata(scrape::socket(&driver)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "{mode:o}");
    let socket = scrape::socket(&driver);
    driver.finish();
    assert!(!socket.exists(), "the socket it made is still there");
}

fn hostile_scrapers_hold_up_nobody() {
    let (driver, nic) = (start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let socket = scrape::socket(&driver);
    // Twice as many as there may be: silent ones, and such that never end a head.
    let slow: Vec<Connection> = (0..128)
        .filter_map(|n| {
            let mut connection = Connection::open(&socket).ok()?;
            if n % 2 == 1 {
                connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Endless: ");
            }
            Some(connection)
        })
        .collect();
    // Docker's calls are none of theirs, and they end by themselves.
    driver.assert_alive();
    let container = Container::start(&driver, &nic, &network);
    drop(eventually("a scraper gets through", || {
        let mut connection = Connection::open(&socket).map_err(|e| e.to_string())?;
        connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        connection.read_answer().map_err(|e| e.to_string())
    }));
    drop(slow);
    // A head without end, and bodies that are promised.
    let mut endless = Connection::open(&socket).unwrap();
    endless.send(b"GET /metrics HTTP/1.1\r\n");
    for _ in 0..300 {
        endless.send(&[b"X: ".as_slice(), &[b'y'; 1000], b"\r\n"].concat());
    }
    endless.send(b"\r\n");
    assert!(endless.read_answer().is_ok_and(|answer| answer.status == 431) || endless.is_closed());
    let mut promise = Connection::open(&socket).unwrap();
    promise.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(promise.read_answer().unwrap().status, 200);
    // A storm of scrapes is a few scrapes' work.
    let collections = || Scrape::of(&driver).value("collections_total", &[]);
    let (before, began) = (collections(), Instant::now());
    let answers: Vec<u16> = thread::scope(|scope| {
        let storm: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| (0..10).map(|_| scrape::request(&driver, "GET", "/metrics", "*/*").status))
            })
            .map(|thread| thread.join().unwrap().collect::<Vec<_>>())
            .collect();
        storm.concat()
    });
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    let (more, most) = (collections() - before, began.elapsed().as_millis() / 500 + 2);
    assert!(u128::from(more) <= most, "gathered {more} times, not {most} at most");
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn addresses() {
    let driver = Driver::without_engine();
    // The machine is the suite's own: the port is free.
    let tcp = "127.0.0.1:9639";
    driver.serve_with(&["--metrics", tcp]);
    let mut stream = eventually("it listens", || TcpStream::connect(tcp).map_err(|e| e.to_string()));
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_names(&answer, &["HTTP/1.1 200 OK", "docker_passthrough_build_info{"]);
    // In use, and no addresses at all: it does not start, and says why.
    let other = Driver::without_engine();
    for (address, says) in [
        (tcp, "127.0.0.1:9639: "),
        ("9639", "9639: must be HOST:PORT"),
        ("unix:metrics.sock", "unix:metrics.sock: must be HOST:PORT"),
        ("localhost:http", "localhost:http: must be HOST:PORT"),
    ] {
        let failed = other.command("serve").args(["--metrics", address]).output().unwrap();
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(matches!(failed.status.code(), Some(1 | 2)), "{address}: {}: {said}", failed.status);
        assert_names(&said, &[says]);
        assert!(!other.socket.exists(), "{address}: the plugin's socket is there");
    }
    // Off unless asked for.
    driver.terminate();
    driver.serve();
    assert!(TcpStream::connect(tcp).is_err());
    driver.finish();
}

fn hostile_names_stay_in_their_labels() {
    let driver = start();
    // A host's netdev can be called so, and a network's option then, too.
    let nic = Nic::called("q\"\\{a=\"b\"}");
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let of = [("endpoint", container.endpoint.as_str())];
    scraped(&driver, |scrape| {
        let sample = *scrape.all("receive_packets_total", &of).first()?;
        (sample.label("netdevice") == nic.name).then_some(())
    });
    prometheus::check_metrics(&scrape::text(&driver, "text/plain"));
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

/// Where dashboard and alerts are.
fn contrib(name: &str) -> String {
    format!("{}/../contrib/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn dashboard_and_alerts_know_the_names() {
    let driver = start();
    let text = scrape::text(&driver, "text/plain");
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, _)| name)
        .collect();
    let suffixes = ["_bucket", "_count", "_sum"];
    for file in ["grafana-dashboard.json", "prometheus-alerts.yml"] {
        let content = fs::read_to_string(contrib(file)).unwrap();
        let words = content.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        let used: BTreeSet<&str> = words.filter(|word| word.starts_with("docker_passthrough_")).collect();
        assert!(used.len() >= 4, "{file}: {used:?}");
        for name in used {
            let family = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
            assert!(
                exported.contains(name) || exported.contains(family),
                "{file}: {name} is exported by nobody"
            );
        }
    }
    // The dashboard is one.
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(contrib("grafana-dashboard.json")).unwrap()).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 6);
    driver.finish();
}

fn alerts_fire() {
    prometheus::promtool(&["check", "rules", &contrib("prometheus-alerts.yml")]);
    prometheus::promtool(&["test", "rules", &contrib("prometheus-alerts.test.yml")]);
}
