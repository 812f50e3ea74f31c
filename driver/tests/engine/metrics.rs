//! Metrics beside a real engine, scraped by a real Prometheus.
use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::support::{
    container::Network,
    docker::Engine,
    driver::Driver,
    eventually,
    nic::{Nic, Traffic},
    prometheus::Prometheus,
    scrape,
    scrape::Scrape,
    trials,
};

trials![names_are_the_engines_own, prometheus_stores_what_stats_says_across_a_restart];

/// The families that are a contract, and what `stats --json` calls their figures.
const FAMILIES: [(&str, &str); 5] = [
    ("docker_passthrough_receive_packets_total", "/rx/packets"),
    ("docker_passthrough_receive_bytes_total", "/rx/bytes"),
    ("docker_passthrough_transmit_packets_total", "/tx/packets"),
    ("docker_passthrough_transmit_bytes_total", "/tx/bytes"),
    ("docker_passthrough_transmit_spoofed_packets_total", "/tx/spoofed"),
];

fn names_are_the_engines_own() {
    let engine = Engine::start(&["--live-restore"]);
    let (driver, nic) = (Driver::stopped(&engine.host()), Nic::new());
    scrape::serve(&driver);
    let network = Network::create(&engine, &driver, &nic, &[]);
    let container = network.run("named", &[]);
    let id = container.docker(&["inspect", "-f", "{{.Id}}"]);
    let network_id = engine.docker(&["network", "inspect", "-f", "{{.Id}}", &network.name]);
    let endpoint = container.endpoint();
    let named = |name: &str| {
        let labels = [
            ("container", name),
            ("container_id", &id),
            ("network", &network.name),
            ("endpoint", &endpoint),
            ("netdevice", &nic.name),
        ];
        eventually("the engine's names are in the metrics", || {
            let scrape = Scrape::of(&driver);
            let found = scrape.all("receive_packets_total", &labels).len();
            if found == 1 { Ok(()) } else { Err(format!("{scrape:?}")) }
        });
    };
    named(&container.name);
    Scrape::of(&driver).one("network_info", &[("network", &network.name), ("network_id", &network_id)]);
    let renamed = format!("{}-renamed", container.name);
    engine.docker(&["rename", &container.name, &renamed]);
    named(&renamed);
    engine.docker(&["rename", &renamed, &container.name]);
    named(&container.name);
    // Neither an engine that is away nor a driver that starts anew takes them away.
    engine.terminate();
    driver.kill();
    scrape::serve(&driver);
    let labels = [("container", container.name.as_str()), ("container_id", &id), ("network", &network.name)];
    Scrape::of(&driver).one("receive_packets_total", &labels);
    engine.serve();
    drop(container);
    network.remove();
    driver.finish();
}

/// The figures of the one endpoint, in the families' order.
#[track_caller]
fn figures(driver: &Driver) -> [u64; FAMILIES.len()] {
    let stats = driver.stats_json();
    assert_eq!(stats.len(), 1, "{stats:?}");
    FAMILIES.map(|(_, at)| stats[0].pointer(at).and_then(Value::as_u64).expect("a figure"))
}

fn prometheus_stores_what_stats_says_across_a_restart() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::stopped(&engine.host()), Nic::new());
    let target = format!("127.0.0.1:{}", 9700 + crate::support::unique());
    driver.serve_with(&["--metrics", &target]);
    let prometheus = Prometheus::start(&target);
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("scraped", &[]);
    let name = container.name.clone();
    let of = format!("{{container=\"{name}\",network=\"{}\"}}", network.name);

    let mut totals = BTreeMap::new();
    let mut far = Traffic::default();
    for pings in [20, 35] {
        let endpoint = container.endpoint();
        // Prometheus sees what becomes more only if it has seen less.
        eventually("Prometheus has seen it", || {
            let first = format!("{}{{endpoint=\"{endpoint}\",container=\"{name}\"}}", FAMILIES[0].0);
            if prometheus.query(&first).is_empty() { Err(first) } else { Ok(()) }
        });
        nic.ping(&nic.near4(2), pings);
        driver.agrees_with(&nic, far);
        let expected = eventually("Prometheus has stored what stats says", || {
            let expected = figures(&driver);
            // Those of the endpoint that ended are no part of now.
            let stored = FAMILIES.map(|(family, _)| prometheus.value(&format!("{family}{of}")));
            #[expect(clippy::cast_precision_loss, reason = "they are small")]
            let same = stored.iter().zip(expected).all(|(stored, expected)| *stored == Some(expected as f64));
            let now = prometheus.query(&format!("{}{of}", FAMILIES[0].0));
            let current = now.iter().all(|series| series["metric"]["endpoint"] == endpoint.as_str());
            if same && current { Ok(expected) } else { Err(format!("{stored:?}, {expected:?}, {now:?}")) }
        });
        assert!(expected[0] >= u64::from(pings) && expected[2] >= u64::from(pings), "{expected:?}");
        assert!(totals.insert(endpoint, expected).is_none(), "the endpoint is the same");
        if totals.len() == 1 {
            container.stop();
            // Only now is it no endpoint's: the far end solicits routers whenever it likes.
            far = nic.far_counters();
            container.docker(&["start"]);
        }
    }

    // Each endpoint is a series of its own, and none ever jumps back.
    for (index, (family, _)) in FAMILIES.into_iter().enumerate() {
        let last = prometheus.query(&format!("last_over_time({family}{of}[5m])"));
        let stored: BTreeMap<&str, f64> = last
            .iter()
            .map(|series| {
                let value = series["value"][1].as_str().expect("a value").parse().expect("a number");
                (series["metric"]["endpoint"].as_str().expect("an endpoint"), value)
            })
            .collect();
        assert_eq!(stored.len(), 2, "{family}: {last:?}");
        for (endpoint, expected) in &totals {
            #[expect(clippy::cast_precision_loss, reason = "they are small")]
            let expected = expected[index] as f64;
            let value = stored[endpoint.as_str()];
            // The first one may have had a frame more between its last scrape and its end.
            assert!((expected..expected + 1000.0).contains(&value), "{family}: {value}, {expected}");
        }
        assert_eq!(prometheus.value(&format!("max(resets({family}{of}[5m]))")), Some(0.0), "{family}");
    }
    // So what a container received adds up over its endpoints. Prometheus extrapolates to the ends of the range.
    let all: u64 = totals.values().map(|figures| figures[0]).sum();
    let increase = format!("sum by (container) (increase({}{of}[5m]))", FAMILIES[0].0);
    let increase = prometheus.value(&increase).expect("an increase");
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let most = 1.5 * all as f64 + 10.0;
    assert!((10.0..most).contains(&increase), "{increase}, {totals:?}");
    // A scrape may have been late.
    eventually("Prometheus reaches it", || match prometheus.value("up") {
        Some(1.0) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // Whatever the dashboard asks, it understands.
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(dashboard).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let filled = expression
            .replace("$__rate_interval", "30s")
            .replace("$network", ".*")
            .replace("$container", ".*");
        let of_ours =
            expression.contains("receive_packets_total") || expression.contains("transmit_bytes_total");
        eventually("what the dashboard asks for is there", || {
            let found = prometheus.query(&filled);
            if !of_ours || !found.is_empty() { Ok(()) } else { Err(expression.to_owned()) }
        });
    }
    drop(container);
    network.remove();
    driver.finish();
}
