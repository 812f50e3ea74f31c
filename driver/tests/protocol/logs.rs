//! What the driver logs: a line an operation, whatever names are in it.
use std::{fs::File, io, process::Stdio};

use serde_json::{Value, json};

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    nic::Nic,
    simulated::{self, Container},
    trials,
};

trials![
    an_operation_is_a_line,
    json_has_an_object_a_line,
    nobody_adds_lines_or_colours,
    the_journal_gets_levels_and_no_times,
    nobody_takes_the_log,
    filters,
];

/// A network and a container come and go, and one call fails.
fn a_days_work(driver: &Driver) -> (String, String) {
    let nic = Nic::new();
    let network = simulated::create_network(driver, &nic);
    let container = Container::start(driver, &nic, &network);
    driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), ""));
    driver.refused("Join", &json!({"NetworkID": "../x"}));
    let endpoint = container.endpoint.clone();
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    (network, endpoint)
}

fn an_operation_is_a_line() {
    let driver = Driver::start();
    let (network, endpoint) = a_days_work(&driver);
    let log = driver.log();
    for call in ["CreateNetwork", "CreateEndpoint", "Join", "Leave", "DeleteEndpoint", "DeleteNetwork"] {
        let is_of_network = |line: &&str| line.contains(&format!("network=\"{}\"", &network[..12]));
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(&format!("call=\"{call}\"")) && line.contains("millis="))
            .filter(is_of_network)
            .collect();
        let of_endpoint = !call.ends_with("Network");
        let done: Vec<&&str> = lines
            .iter()
            .filter(|line| !of_endpoint || line.contains(&format!("endpoint=\"{}\"", &endpoint[..12])))
            .collect();
        assert_eq!(done.len(), 1, "{call}: {lines:?}\n{log}");
        assert_names(done[0], &[" INFO ", "done"]);
    }
    let failed: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert_names(failed[0], &["call=\"CreateEndpoint\"", "failed", "millis=", "is in use by"]);
    assert_names(failed[1], &["refused", "call=\"Join\"", "../x"]);
    driver.finish();
}

fn json_has_an_object_a_line() {
    let driver = Driver::without_engine();
    driver.serve_with(&["--log-format", "json"]);
    let (network, endpoint) = a_days_work(&driver);
    let log = driver.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let join = lines.iter().find(|line| line["span"]["call"] == "Join").unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&join["level"], &join["fields"]["message"]), (&json!("INFO"), &json!("done")));
    assert!(join["fields"]["millis"].is_u64() && join["timestamp"].is_string(), "{join}");
    assert_eq!(
        (&join["span"]["network"], &join["span"]["endpoint"]),
        (&json!(network[..12]), &json!(endpoint[..12]))
    );
    driver.finish();
}

fn nobody_adds_lines_or_colours() {
    let driver = Driver::start();
    let forged = "2026-01-01T00:00:00Z  INFO forged";
    let before = driver.log().lines().count();
    let evil = format!("x\n{forged}\r\u{1b}[2J\u{202e}");
    for body in [
        simulated::network(&docker_id(), &json!({"netdevice": evil})),
        simulated::network(&docker_id(), &json!({"netdevice": "lo", "mode": evil})),
        simulated::network(&docker_id(), &json!({"netdevice": "lo", evil.clone(): "1"})),
        json!({"NetworkID": evil}),
    ] {
        driver.refused("CreateNetwork", &body);
    }
    let log = driver.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in lines {
        assert!(line.contains("\\n2026") && !line.starts_with("2026-01-01"), "{line:?}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }

    // What a container can call its netdev, and give it as an alias.
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let inside = Container::INSIDE;
    container.netns.ip(&format!("link set {inside} down"));
    let alias = format!("y\n{forged}");
    let renamed =
        ["-n", container.netns.name(), "link", "set", inside, "name", "\u{1b}[31mz", "alias", &alias];
    command::run("ip", &renamed);
    container.leave();
    driver.done("DeleteEndpoint", &container.ids());
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    let log = driver.log();
    assert!(!log.contains('\u{1b}'), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
    driver.finish();
}

fn the_journal_gets_levels_and_no_times() {
    let driver = Driver::without_engine();
    driver.serve_as_unit();
    driver.refused("Join", &json!({"NetworkID": "../x"}));
    let log = driver.log();
    let starts = log.lines().map(|line| line.split(' ').next().unwrap_or_default());
    assert!(
        starts.clone().count() >= 2 && starts.clone().all(|start| ["<3>ERROR", "<6>"].contains(&start)),
        "{log}"
    );
    assert!(starts.clone().any(|start| start == "<3>ERROR"), "{log}");
    driver.finish();
}

fn nobody_takes_the_log() {
    let full = || File::options().write(true).open("/dev/full").expect("a disk that is full");
    // Whoever read it has ended.
    let unread = || io::pipe().expect("a pipe").1;
    for log in [Stdio::from(full()), Stdio::from(unread())] {
        let driver = Driver::without_engine();
        driver.serve_logging_to(log);
        a_days_work(&driver);
        driver.finish();
    }
}

fn filters() {
    let usual = "ready for Docker's calls";
    for (filter, expected) in
        [("", true), ("info", true), ("warn,docker_passthrough=info", true), ("error", false)]
    {
        let driver = Driver::without_engine();
        driver.serve_in(&[("DOCKER_PASSTHROUGH_LOG", filter)]);
        let log = driver.log();
        assert_eq!(log.contains(usual), expected, "{filter}: {log}");
        driver.finish();
    }
    for bad in ["inof", "docker_passthrough=loud"] {
        let mut command = Driver::without_engine().command("serve");
        let ended = command.env("DOCKER_PASSTHROUGH_LOG", bad).output().expect("its end");
        assert_eq!(ended.status.code(), Some(2), "{bad}: {ended:?}");
        assert_names(&String::from_utf8_lossy(&ended.stderr), &[bad, "--log", "must be error, warn, info"]);
    }
}
