//! `doctor` on a host with real faults.
use std::{fs, os::unix::net::UnixListener};

use serde_json::{Value, json};

use crate::support::{
    assert_names, command, docker_id,
    driver::{BINARY, Driver},
    eventually,
    nic::Nic,
    simulated::{self, Container},
    terminal::Terminal,
    trials,
};

trials![
    a_driver_that_runs,
    no_driver_and_a_stale_socket,
    another_drivers_lock,
    pins_that_nobody_remembers,
    device_in_limbo,
    a_default_that_the_hardware_refused,
    a_network_whose_netdevice_is_gone,
    damaged_state,
    a_page_for_people,
    nothing_is_changed,
];

/// The exit status and what was found.
#[track_caller]
fn doctor(driver: &Driver, options: &[&str]) -> (i32, Vec<Value>) {
    let mut command = driver.command("doctor");
    let output = command.arg("--json").args(options).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let findings = serde_json::from_str(&text).unwrap_or_else(|e| panic!("doctor --json: {e}: {text}"));
    (output.status.code().unwrap(), findings)
}

/// The one finding of a check: its status, what was found, and the mend.
#[track_caller]
fn finding(findings: &[Value], check: &str) -> (String, String, String) {
    let found: Vec<_> = findings.iter().filter(|finding| finding["check"] == check).collect();
    let [one] = found[..] else { panic!("{} findings of {check} in {findings:#?}", found.len()) };
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("found"), text("mend"))
}

#[track_caller]
fn assert_finding(findings: &[Value], check: &str, status: &str, found: &[&str], mend: &[&str]) {
    let (its, what, cure) = finding(findings, check);
    assert_eq!(its, status, "{check}: {what}: {cure}");
    assert_names(&what, found);
    assert_names(&cure, mend);
}

fn a_driver_that_runs() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::create(&driver, &nic, &network);
    let (code, findings) = doctor(&driver, &[]);
    let bpffs = driver.bpffs.display().to_string();
    for (check, words) in [
        ("kernel", "Linux"),
        ("btf", "present"),
        ("tcx", "present"),
        ("bpffs", bpffs.as_str()),
        ("capabilities", "has all it needs"),
        ("namespaces", "beside this one"),
        ("driver", "answers at"),
        ("leftovers", "none"),
    ] {
        assert_finding(&findings, check, "ok", &[words], &[]);
    }
    assert_finding(&findings, &format!("xdp {}", nic.name), "ok", &["native", "veth"], &[]);
    let pid = format!("process {}", driver.pid());
    assert_finding(&findings, "state", "ok", &["1 networks, 1 endpoints", &pid], &[]);
    // The one thing that this machine lacks.
    assert_finding(&findings, "engine", "error", &["no-engine.sock"], &["--docker-host"]);
    assert_eq!(code, 2);
    driver.done("DeleteEndpoint", &container.ids());
    driver.finish();
}

fn no_driver_and_a_stale_socket() {
    let driver = Driver::without_engine();
    let (code, findings) = doctor(&driver, &[]);
    assert_eq!(code, 2);
    assert_finding(&findings, "driver", "error", &["there is no socket"], &["docker-passthrough serve"]);
    assert_finding(&findings, "state", "ok", &["0 networks", "not locked"], &[]);
    driver.serve();
    driver.kill();
    let (code, findings) = doctor(&driver, &[]);
    assert_eq!(code, 2);
    let socket = driver.socket.display().to_string();
    assert_finding(&findings, "driver", "error", &[&socket, "nobody listens"], &["serve"]);
    // To another driver it is a stale socket of somebody.
    let other = Driver::start();
    let (_, findings) = doctor(&other, &[]);
    let stale = findings.iter().filter(|finding| finding["check"] == "stale socket");
    let stale: Vec<_> =
        stale.filter(|finding| finding["found"].as_str().unwrap().contains(&socket)).collect();
    assert_eq!(stale.len(), 1, "{findings:#?}");
    assert_eq!(stale[0]["mend"], format!("rm {socket}"));
    other.finish();
    // Something that listens, and never answers.
    fs::remove_file(&driver.socket).unwrap();
    let deaf = UnixListener::bind(&driver.socket).unwrap();
    let (code, findings) = doctor(&driver, &[]);
    assert_eq!(code, 2);
    assert_finding(&findings, "driver", "error", &["no answer within"], &["log"]);
    drop(deaf);
    fs::remove_file(&driver.socket).unwrap();
}

fn another_drivers_lock() {
    let driver = Driver::start();
    let elsewhere = driver.socket.with_extension("elsewhere");
    let (code, findings) = doctor(&driver, &["--socket", &elsewhere.display().to_string()]);
    assert_eq!(code, 2);
    let pid = format!("process {}", driver.pid());
    assert_finding(&findings, "state", "error", &["locked by", &pid], &["--state-dir"]);
    let empty = tempfile::tempdir_in("/run").unwrap();
    let other = driver.command_with_state("doctor", empty.path());
    let findings = findings_of(other);
    assert_finding(
        &findings,
        "state",
        "warning",
        &["not locked by the driver that answers"],
        &["--state-dir"],
    );
    driver.finish();
}

fn findings_of(mut command: std::process::Command) -> Vec<Value> {
    serde_json::from_slice(&command.arg("--json").output().unwrap().stdout).unwrap()
}

fn pins_that_nobody_remembers() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::create(&driver, &nic, &network);
    driver.kill();
    let state = driver.state_dir.join("state.json");
    fs::remove_file(&state).unwrap();
    let (code, findings) = doctor(&driver, &[]);
    assert_eq!(code, 2);
    let folder = driver.bpffs.join(&container.endpoint).display().to_string();
    let words = [folder.as_str(), "nobody remembers", "its netdev exists"];
    assert_finding(&findings, "stale pins", "warning", &words, &["restart the driver", &folder]);
    let words = [nic.name.as_str(), &container.endpoint[..12]];
    assert_finding(&findings, "stray netdev", "warning", &words, &["restart the driver"]);
    // The mend mends.
    driver.serve();
    eventually("nothing is left", || {
        let (_, findings) = doctor(&driver, &[]);
        let none = |finding: &Value| finding["check"] == "leftovers" && finding["status"] == "ok";
        if findings.iter().any(none) { Ok(()) } else { Err(format!("{findings:#?}")) }
    });
    driver.finish();
}

fn device_in_limbo() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    driver.kill();
    let (_, findings) = doctor(&driver, &[]);
    assert_finding(&findings, "leftovers", "ok", &["none"], &[]);
    let (ids, id, name) = (container.ids(), container.endpoint.clone(), nic.name.clone());
    // The container's namespace ends, and takes the veth with it when the kernel gets to it.
    drop(container);
    let gone = "the netdev no longer exists";
    let words = [name.as_str(), &id[..12], gone];
    let (code, findings) = eventually("the veth is gone", || {
        let (code, findings) = doctor(&driver, &[]);
        let (_, found, _) = finding(&findings, "limbo");
        if found.contains(gone) { Ok((code, findings)) } else { Err(found) }
    });
    assert_eq!(code, 2);
    assert_finding(&findings, "limbo", "error", &words, &["start the driver"]);
    // What it counted is shown until Docker is done with the endpoint.
    driver.serve();
    let (code, findings) = doctor(&driver, &[]);
    assert_eq!(code, 2);
    assert_finding(&findings, "limbo", "error", &words, &["docker rm"]);
    driver.done("DeleteEndpoint", &ids);
    let (_, findings) = doctor(&driver, &[]);
    assert_finding(&findings, "leftovers", "ok", &["none"], &[]);
    driver.finish();
}

fn a_network_whose_netdevice_is_gone() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let check = format!("network {}", &network[..12]);
    let is_told = || doctor(&driver, &[]).1.iter().any(|finding| finding["check"] == check.as_str());
    // A container has it.
    let container = Container::start(&driver, &nic, &network);
    assert!(!is_told());
    container.stop();
    assert!(!is_told());
    command::ip(&format!("link del {}", nic.name));
    let (code, findings) = doctor(&driver, &[]);
    let netdevice = format!("netdevice={}: no such netdev", nic.name);
    assert_finding(&findings, &check, "error", &[&netdevice], &["plug it in"]);
    assert_eq!(code, 2);
    nic.plug();
    assert!(!is_told());
    driver.finish();
}

/// No NIC here refuses any. What `serve` would have remembered of one is written for it.
fn a_default_that_the_hardware_refused() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::create(&driver, &nic, &network);
    driver.kill();
    let file = driver.state_dir.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let refusal = "setting VF 3 trust off: Operation not supported";
    state["networks"][&network]["endpoints"][&container.endpoint]["warnings"] = json!([refusal]);
    fs::write(&file, state.to_string()).unwrap();
    driver.serve();
    let (_, findings) = doctor(&driver, &[]);
    let who = format!("endpoint {}", &container.endpoint[..12]);
    assert_finding(&findings, "refused default", "warning", &[&who, refusal], &["trust=off"]);
    let ls = command::finish("ls", &mut driver.command("ls")).unwrap();
    assert_names(&ls, &[&format!("{who}: {refusal}")]);
    let ls = command::finish("ls", driver.command("ls").arg("--json")).unwrap();
    let ls: Value = serde_json::from_str(&ls).unwrap();
    assert_eq!(ls[0]["endpoints"][0]["warnings"], json!([refusal]));
    driver.done("DeleteEndpoint", &container.ids());
    driver.finish();
}

fn damaged_state() {
    let driver = Driver::start();
    driver.kill();
    fs::write(driver.state_dir.join("state.json"), "{").unwrap();
    let (code, findings) = doctor(&driver, &[]);
    assert_eq!(code, 2);
    assert_finding(&findings, "state", "error", &["state.json", "EOF"], &["copy"]);
    // Nobody could say whose pins there are.
    assert_finding(&findings, "leftovers", "warning", &["not looked at", "state.json"], &["mend that first"]);
}

fn a_page_for_people() {
    let driver = Driver::start();
    for (locale, colour, sign) in [("C.UTF-8", true, "✗ "), ("C.UTF-8", false, "✗ "), ("C", false, "XX ")]
    {
        let mut command = driver.command("doctor");
        command.env("LC_ALL", locale);
        if !colour {
            command.env("NO_COLOR", "1");
        }
        let mut terminal = Terminal::run(&command, 60, 200);
        assert_eq!(terminal.end().code(), Some(2));
        let line = terminal.shows("the engine's row", |text| {
            text.lines().find(|line| line.contains("engine ")).map(str::to_owned)
        });
        assert!(line.starts_with(sign), "{line}");
        assert_eq!(terminal.written().contains('\x1b'), colour, "{:?}", terminal.written());
        if locale == "C" {
            assert!(terminal.written().is_ascii(), "{}", terminal.written());
        }
    }
    // Redirected, there is no colour.
    let complaint = command::finish(BINARY, &mut driver.command("doctor")).unwrap_err();
    assert_names(&complaint, &["exit status: 2", " error"]);
    assert!(!complaint.contains('\x1b'));
    driver.finish();
}

fn nothing_is_changed() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    driver.terminate();
    let id = docker_id();
    // Other tests change things of their own meanwhile.
    let look = || {
        let ours = |text: &str, word: &str| -> Vec<String> {
            text.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
        };
        let (state, pins) = (driver.state_dir.display().to_string(), driver.bpffs.display().to_string());
        let files = command::run("find", &[state.as_str(), &pins, "-ls"]);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let netdev = command::ip(&format!("-d addr show dev {}", nic.name));
        (netdev, ours(&mounts, "/sys/fs/bpf"), files)
    };
    let before = look();
    doctor(&driver, &[]);
    doctor(&driver, &["--socket", &format!("/run/docker/plugins/{id}.sock")]);
    assert_eq!(look(), before);
    driver.serve();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
