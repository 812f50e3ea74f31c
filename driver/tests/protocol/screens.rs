//! What `stats` and `ls` show, to people and to programs.
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    assert_names, command,
    driver::{BINARY, Driver},
    eventually,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    terminal::Terminal,
    trials,
};

trials![
    fields_of_ls_are_documented,
    units_and_exact_numbers,
    filters_by_container_network_and_netdevice,
    rates_are_differences_over_time,
    watching_a_terminal_and_a_file,
    eighty_columns_and_no_colour,
];

/// What a command says, and panics if it fails.
#[track_caller]
fn said(driver: &Driver, line: &str) -> String {
    attempt(driver, line).unwrap_or_else(|complaint| panic!("{line}: {complaint}"))
}

fn attempt(driver: &Driver, line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let mut command = driver.command(words.next().unwrap());
    command::finish(BINARY, command.args(words))
}

#[track_caller]
fn json_of(driver: &Driver, line: &str) -> Value {
    serde_json::from_str(&said(driver, line)).unwrap()
}

/// A row's cells, by the beginning of the row.
#[track_caller]
fn row(table: &str, begins: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.starts_with(begins));
    let line = line.unwrap_or_else(|| panic!("no {begins} in:\n{table}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

fn units_and_exact_numbers() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.far.run(&format!("busybox ping -c 8 -i 0.02 -s 1400 -W 5 {}", nic.near4(2)));
    driver.agrees_with(&nic, Traffic::default());
    let short = &container.endpoint[..12];
    // The far end sends now and then what nobody asked for.
    let (stats, exact, human) = eventually("nothing is counted meanwhile", || {
        let before = driver.stats_of(&nic.name).traffic();
        let rows = ["stats --bytes", "stats"].map(|line| row(&said(&driver, line), short));
        let [exact, human] = rows;
        let after = driver.stats_of(&nic.name).traffic();
        if before == after { Ok((after, exact, human)) } else { Err(format!("{before:?}, {after:?}")) }
    });
    let (rx, tx) = (stats.rx_bytes, stats.tx_bytes);
    let numbers = [stats.rx_packets, rx, stats.tx_packets, tx, 0].map(|number| number.to_string());
    assert_eq!(exact[2..7], numbers);
    #[expect(clippy::cast_precision_loss, reason = "some kilobytes")]
    let kib = |bytes: u64| format!("{:.1} KiB", bytes as f64 / 1024.0);
    assert_eq!(human[2..7], [numbers[0].clone(), kib(rx), numbers[2].clone(), kib(tx), "0".into()]);
    container.stop();
    driver.finish();
}

fn filters_by_container_network_and_netdevice() {
    let driver = Driver::start();
    let nics = [Nic::new(), Nic::new()];
    let networks = [0, 1].map(|n| simulated::create_network(&driver, &nics[n]));
    let containers = [0, 1].map(|n| Container::start(&driver, &nics[n], &networks[n]));
    let (first, second) = (&containers[0].endpoint, &containers[1].endpoint);
    let idle = Nic::new();
    let without_container = simulated::create_network(&driver, &idle);
    let endpoints = |line: &str| -> Vec<String> {
        let found = json_of(&driver, line);
        let found = found.as_array().unwrap().iter();
        let mut ids: Vec<String> = found
            .flat_map(|one| match one.get("endpoints") {
                Some(held) => held.as_array().unwrap().clone(),
                None => vec![one.clone()],
            })
            .map(|one| one["endpoint_id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    for command in ["stats", "ls"] {
        assert_eq!(endpoints(&format!("{command} --json")), [first.clone(), second.clone()]);
        for filter in [
            first.clone(),
            first[..10].to_owned(),
            format!("--network {}", networks[0]),
            format!("--network {}", &networks[0][..9]),
            format!("--netdevice {}", nics[0].name),
            format!("{} {} --netdevice {}", &first[..10], &second[..10], nics[0].name),
        ] {
            assert_eq!(
                endpoints(&format!("{command} --json {filter}")),
                std::slice::from_ref(first),
                "{command} {filter}"
            );
        }
        let both = format!("{command} --json --netdevice {} --netdevice {}", nics[0].name, nics[1].name);
        assert_eq!(endpoints(&both), [first.clone(), second.clone()]);
        for filter in [format!("--network {without_container}"), format!("--netdevice {}", idle.name)] {
            assert_eq!(endpoints(&format!("{command} --json {filter}")), [""; 0]);
        }
        for (filter, there) in [
            ("nobody", &first[..12]),
            ("--network nobody", &networks[1][..12]),
            ("--netdevice nobody", nics[1].name.as_str()),
        ] {
            let complaint = attempt(&driver, &format!("{command} {filter}")).unwrap_err();
            assert_names(&complaint, &["exit status: 1", "nobody: no such", there]);
        }
        let complaint = attempt(&driver, &format!("{command} --watch 0")).unwrap_err();
        assert_names(&complaint, &["exit status: 2", "0.1 to 3600"]);
    }
    containers.into_iter().for_each(Container::stop);
    driver.finish();
}

fn rates_are_differences_over_time() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let mut watch = driver.command("stats");
    let short = &container.endpoint[..12];
    let mut watch = watch.args(["--json", "--watch", "0.2", short]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let mut before = next();
    assert_eq!(before[0]["rates"], Value::Null);
    let mut moved = 0;
    for _ in 0..5 {
        nic.ping(&nic.near4(2), 3);
        let now = next();
        let rates = &now[0]["rates"];
        let seconds = rates["seconds"].as_f64().unwrap();
        assert!(seconds > 0.0, "{rates}");
        for (counter, rate, factor) in [
            ("/0/rx/packets", "rx_packets_per_second", 1),
            ("/0/rx/bytes", "rx_bits_per_second", 8),
            ("/0/tx/packets", "tx_packets_per_second", 1),
            ("/0/tx/bytes", "tx_bits_per_second", 8),
        ] {
            let number = |look: &Value| look.pointer(counter).unwrap().as_u64().unwrap();
            let difference = (number(&now) - number(&before)) * factor;
            moved += difference;
            #[expect(clippy::cast_precision_loss, reason = "some frames")]
            let off = rates[rate].as_f64().unwrap() * seconds - difference as f64;
            assert!(off.abs() < 1e-3, "{rate}: {difference} in {seconds} s: {rates}");
        }
        before = now;
    }
    assert!(moved > 0, "nothing moved");
    watch.kill().unwrap();
    watch.wait().unwrap();
    container.stop();
    driver.finish();
}

fn watching_a_terminal_and_a_file() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let short = &container.endpoint[..12];
    let mut command = driver.command("stats");
    // The name follows --watch, which takes a number or none.
    command.args(["--watch", short]);
    let mut terminal = Terminal::run(&command, 24, 80);
    terminal.shows("rates", |text| {
        let cells = text.lines().find(|line| line.starts_with(short))?.split_whitespace().nth(2)?.to_owned();
        (cells != "-").then_some(())
    });
    assert_names(&terminal.text(), &["RX PPS", "TX BIT/S"]);
    terminal.signal(Signal::SIGINT);
    assert!(terminal.end().success());
    terminal.assert_restored();
    let mut terminal = Terminal::of_unknown_size(&command);
    terminal.shows("the same", |text| text.lines().any(|line| line.starts_with(short)).then_some(()));
    terminal.signal(Signal::SIGINT);
    assert!(terminal.end().success());
    for options in [&["--watch", "0.1"][..], &["--watch=0.1", "--json"]] {
        let file = tempfile::NamedTempFile::new_in("/run").unwrap();
        let read = || std::fs::read_to_string(file.path()).unwrap();
        let mut watch = driver.command("stats");
        let mut watch = watch.args(options).stdout(file.reopen().unwrap()).spawn().unwrap();
        eventually("three looks", || match read().matches(short).count() {
            3.. => Ok(()),
            _ => Err(read()),
        });
        watch.kill().unwrap();
        watch.wait().unwrap();
        assert!(!read().contains('\x1b'), "{:?}", read());
    }
    container.stop();
    driver.finish();
}

fn eighty_columns_and_no_colour() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let long = "enp129s0f1np1v9";
    command::ip(&format!("link set {} name {long}", nic.name));
    let network = simulated::create_network_with(&driver, &json!({"netdevice": long}));
    let id = crate::support::docker_id();
    driver.done("CreateEndpoint", &simulated::endpoint(&network, &id, ""));
    for colour in [true, false] {
        let mut command = driver.command("ls");
        if !colour {
            command.env("NO_COLOR", "1");
        }
        let mut terminal = Terminal::run(&command, 24, 80);
        assert!(terminal.end().success());
        let row = terminal.shows("the endpoint", |text| {
            text.lines().find(|line| line.contains(&id[..12])).map(str::to_owned)
        });
        assert!(row.contains(&nic.mac()), "a row of its own: {row}");
        assert!(row.contains('…'), "{row}");
        assert!(!terminal.written().contains('\x1b'), "{}", terminal.written());
    }
    // Redirected, nothing is cut.
    assert_names(&said(&driver, "ls"), &[long]);
    driver.done("DeleteEndpoint", &simulated::ids(&network, &id));
    driver.finish();
}

fn fields_of_ls_are_documented() {
    /// All names in it, at any depth.
    fn fields(of: &Value, all: &mut Vec<String>) {
        match of {
            Value::Object(object) => object.iter().for_each(|(name, value)| {
                all.push(name.clone());
                fields(value, all);
            }),
            Value::Array(elements) => elements.iter().for_each(|element| fields(element, all)),
            _ => {}
        }
    }
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let mut all = Vec::new();
    fields(&json_of(&driver, "ls --json"), &mut all);
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/numbers.md")).unwrap();
    let documented = documented.split_once("Each network of `ls --json`").expect("its fields").1;
    assert!(all.len() > 15, "{all:?}");
    for field in all {
        assert!(documented.contains(&format!("`{field}`")), "{field} is not in docs/numbers.md");
    }
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
