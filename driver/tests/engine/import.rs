//! Networks of the original driver are taken over: made by a real engine, its `config.json` as it wrote it.
use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    assert_names, command, container::Network, docker::Engine, driver::Driver, nic::Nic, trials,
};

trials![networks_of_the_original_are_taken_over, what_can_not_be_taken_over_is_named];

/// The original's folder: a folder a network, with a file in it.
struct Original(PathBuf);

impl Original {
    fn new(driver: &Driver) -> Self {
        let folder = driver.state_dir.parent().unwrap().join("docker-passthrough-plugin");
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// What Go's encoder made of the original's struct.
    fn writes(&self, id: &str, netdevice: &str, mode: &str, gateway: &str) {
        let config = format!(
            r#"{{"Version":0,"Netdevice":"{netdevice}","Mode":"{mode}","Subnet":"","Gateway":"{gateway}","vlan":0,"Privileged":true}}"#
        );
        self.writes_bytes(id, config.as_bytes());
    }

    fn writes_bytes(&self, id: &str, bytes: &[u8]) {
        fs::create_dir_all(self.0.join(id)).unwrap();
        fs::write(self.0.join(id).join("config.json"), bytes).unwrap();
    }

    /// `import … --json`: whether it ends well, and its rows.
    fn import(&self, driver: &Driver, options: &[&str]) -> (bool, Vec<Value>) {
        let output = driver.command("import").arg(&self.0).arg("--json").args(options).output().unwrap();
        let rows = serde_json::from_slice(&output.stdout);
        (output.status.success(), rows.unwrap_or_else(|e| panic!("{e}: {output:?}")))
    }
}

fn id(engine: &Engine, network: &Network) -> String {
    engine.docker(&["network", "inspect", "-f", "{{.Id}}", &network.name])
}

/// The networks are Docker's, and the driver knows nothing of them.
fn forget(driver: &Driver) {
    driver.terminate();
    fs::remove_file(driver.state_dir.join("state.json")).unwrap();
}

fn networks_of_the_original_are_taken_over() {
    let engine = Engine::shared();
    let (driver, nic) = (Driver::start_beside(&engine.host()), Nic::new());
    // All that the original and its successor knew.
    let options = ["-o", "mode=passthrough", "-o", "privileged=1", "-o", "vlan=0", "-o", "prefix=net"];
    let subnet = ["--subnet", &nic.net4()];
    let network = Network::create_bare(engine, &driver, &nic, &[&options[..], &subnet].concat());
    let original = Original::new(&driver);
    original.writes(&id(engine, &network), &nic.name, "passthrough", &format!("{}/24", nic.far4()));
    forget(&driver);

    // Shown, and nothing else.
    let (well, rows) = original.import(&driver, &[]);
    assert!(well && rows.len() == 1, "{rows:?}");
    for (field, value) in [
        ("status", json!("ready")),
        ("network", json!(network.name)),
        ("netdevice", json!(nic.name)),
        ("mode", json!("passthrough")),
        ("gateways", json!([format!("{}/24", nic.far4())])),
        ("reason", json!(null)),
        ("notes", json!([])),
    ] {
        assert_eq!(rows[0][field], value, "{field}: {rows:?}");
    }
    assert!(!driver.state_dir.join("state.json").exists());
    let shown = command::finish("import", driver.command("import").arg(&original.0)).unwrap();
    assert_names(&shown, &[&network.name, "ready", "--apply"]);

    // Taken over, and a second time nothing.
    for status in ["imported", "known"] {
        let (well, rows) = original.import(&driver, &["--apply"]);
        assert!(well && rows[0]["status"] == status, "{status}: {rows:?}");
    }
    driver.serve();
    let container = network.run("tenant", &[]);
    assert_eq!(container.netdevs(), ["net0"]);
    nic.ping(&nic.near4(2), 3);
    assert_names(&container.sh("ip route"), &["default via", &nic.far4()]);
    driver.names(&nic.name, &container.name);
    // Not under a driver that lives.
    let complaint = command::finish("import", driver.command("import").arg(&original.0).arg("--apply"));
    assert_names(&complaint.unwrap_err(), &["the driver runs", "nothing was changed"]);
    drop(container);
    network.remove();
    driver.finish();
}

fn what_can_not_be_taken_over_is_named() {
    let engine = Engine::shared();
    let driver = Driver::start_beside(&engine.host());
    let (nic, busy, lost) = (Nic::new(), Nic::new(), Nic::new());
    let good = Network::create(engine, &driver, &nic, &["-o", "mode=passthrough"]);
    let used = Network::create(engine, &driver, &busy, &["-o", "mode=passthrough"]);
    let gone = Network::create(engine, &driver, &lost, &["-o", "mode=passthrough"]);
    let original = Original::new(&driver);
    for (network, nic) in [(&good, &nic), (&used, &busy), (&gone, &lost)] {
        original.writes(&id(engine, network), &nic.name, "passthrough", &format!("{}/24", nic.far4()));
    }
    original.writes_bytes("0123", b"{\"Version\":0,\"Netdev");
    original.writes_bytes("0124", b"");
    original.writes_bytes("0125..", b"{\"Netdevice\":\"x\"}");
    original.writes("0126", "nic0", "passthrough", "10.0.0.1/24");
    fs::write(original.0.join("version.json"), b"stray").unwrap();
    let container = used.run("tenant", &[]);
    driver.kill();
    let (state, kept) = (driver.state_dir.join("state.json"), driver.state_dir.join("kept.json"));
    fs::rename(&state, &kept).unwrap();
    command::ip(&format!("link set {} name {}x", lost.name, lost.name));
    let (well, rows) = original.import(&driver, &["--apply"]);
    command::ip(&format!("link set {0}x name {0}", lost.name));
    assert!(!well && rows.len() == 7, "{rows:?}");
    let of = |end: &str| {
        let file = |row: &&Value| row["file"].as_str().unwrap().ends_with(&format!("{end}/config.json"));
        rows.iter().find(file).unwrap_or_else(|| panic!("{end}: {rows:?}"))
    };
    for (end, status, reason) in [
        (id(engine, &good).as_str(), "imported", ""),
        (&id(engine, &used), "refused", &container.name),
        (&id(engine, &gone), "refused", "no such netdev"),
        ("0123", "damaged", "EOF"),
        ("0124", "damaged", "EOF"),
        ("0125..", "damaged", "an id is"),
        ("0126", "gone", "no such network"),
    ] {
        let row = of(end);
        assert_eq!(row["status"], status, "{row}");
        assert_names(row["reason"].as_str().unwrap_or_default(), &[reason]);
    }
    // Under another name Docker would not find us.
    let other = ["--docker-host", &engine.host(), "--name", "passthrough", "--state-dir", "/run/nobody"];
    let mut import = command::prepared(env!("CARGO_BIN_EXE_docker-passthrough"), &other);
    let output = import.arg("import").arg(&original.0).arg("--json").output().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let reasons =
        rows.iter().map(|row| row["reason"].as_str().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    assert_names(&reasons, &[&format!("with --name {}", driver.name)]);
    fs::rename(&kept, &state).unwrap();
    driver.serve();
    drop(container);
    for network in [good, used, gone] {
        network.remove();
    }
    driver.finish();
}
