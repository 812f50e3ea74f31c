//! `docker passthrough …`, called by the real client.
use std::{
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use crate::support::{
    assert_names, command,
    container::Network,
    docker::Engine,
    driver::{BINARY, Driver},
    nic::Nic,
    trials,
};

trials![client_knows_the_plugin, client_passes_on_what_the_plugin_says];

/// A client's configuration with the plugin in it.
struct Client(tempfile::TempDir);

impl Client {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/run").unwrap();
        std::fs::create_dir(folder.path().join("cli-plugins")).unwrap();
        symlink(BINARY, folder.path().join("cli-plugins/docker-passthrough")).unwrap();
        Self(folder)
    }

    fn docker(&self, driver: &Driver, host: &str, line: &str) -> Output {
        self.docker_words(driver, host, &line.split(' ').collect::<Vec<_>>())
    }

    fn docker_words(&self, driver: &Driver, host: &str, words: &[&str]) -> Output {
        let program = std::env::var("DOCKER_PASSTHROUGH_TEST_DOCKER").unwrap_or("/usr/bin/docker".into());
        let mut client = command::prepared(&program, words);
        let own = |path: &PathBuf| path.display().to_string();
        client.env("DOCKER_CONFIG", self.0.path()).env("DOCKER_HOST", host);
        client.env("DOCKER_PASSTHROUGH_NAME", &driver.name);
        client.env("DOCKER_PASSTHROUGH_STATE_DIR", own(&driver.state_dir));
        client.env("DOCKER_PASSTHROUGH_BPFFS", own(&driver.bpffs));
        client.output().expect("docker")
    }
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn client_knows_the_plugin() {
    let engine = Engine::shared();
    let (client, driver) = (Client::new(), Driver::start_beside(&engine.host()));
    let metadata = Command::new(BINARY).arg("docker-cli-plugin-metadata").output().unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
    let (code, help, _) = said(&client.docker(&driver, &engine.host(), "--help"));
    assert_eq!(code, Some(0));
    let line = help.lines().find(|line| line.contains(" passthrough"));
    let line = line.unwrap_or_else(|| panic!("no passthrough in {help}"));
    assert!(line.contains(metadata["ShortDescription"].as_str().unwrap()), "{line}");
    assert!(!help.contains("Invalid Plugins"), "{help}");
    let (_, info, _) = said(&client.docker_words(
        &driver,
        &engine.host(),
        &["info", "--format", "{{json .ClientInfo.Plugins}}"],
    ));
    let plugins: Value = serde_json::from_str(&info).unwrap();
    let ours = plugins.as_array().unwrap().iter().find(|plugin| plugin["Name"] == "passthrough").unwrap();
    assert_eq!((&ours["Version"], &ours["Err"]), (&metadata["Version"], &Value::Null), "{ours}");
    for line in ["passthrough --help", "help passthrough", "--help passthrough"] {
        let (code, help, complaint) = said(&client.docker(&driver, &engine.host(), line));
        assert_eq!(code, Some(0), "{line}: {complaint}");
        assert_names(&help, &["Usage: docker passthrough", "stats", "docker passthrough stats", "doctor"]);
    }
    let (_, help, _) = said(&client.docker(&driver, &engine.host(), "passthrough stats --help"));
    assert_names(&help, &["Usage: docker passthrough stats", "docker passthrough stats web --json"]);
    driver.finish();
}

fn client_passes_on_what_the_plugin_says() {
    let engine = Engine::shared();
    let (client, driver, nic) = (Client::new(), Driver::start_beside(&engine.host()), Nic::new());
    let network = Network::create(engine, &driver, &nic, &[]);
    let container = network.run("plugged", &[]);
    nic.ping(&nic.near4(2), 3);
    let near = engine.host();
    let away = "unix:///run/no-engine.sock";
    for (host, line) in [
        (near.as_str(), "passthrough stats --json".to_owned()),
        (away, format!("-H {near} passthrough stats --json")),
        (away, format!("--host={near} --log-level error passthrough stats --json")),
        (away, format!("passthrough --docker-host {near} stats --json")),
    ] {
        let (code, stats, complaint) = said(&client.docker(&driver, host, &line));
        assert_eq!(code, Some(0), "{line}: {complaint}");
        let stats: Value = serde_json::from_str(&stats).unwrap();
        assert_eq!(stats[0]["container"], container.name.as_str(), "{line}: {stats}");
        assert_eq!(stats[0]["network"], network.name.as_str());
    }
    // Without an engine there are numbers all the same, and no names.
    let (code, stats, _) = said(&client.docker(&driver, away, "passthrough stats --json"));
    assert_eq!(code, Some(0));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats[0]["endpoint_id"], container.endpoint().as_str());
    for (host, line, code, words) in [
        (near.as_str(), "passthrough stats nobody", 1, &["nobody", container.name.as_str()][..]),
        (&near, "passthrough stats --nonsense", 2, &["--nonsense", "Usage: docker passthrough stats"]),
        (&near, "passthrough nonsense", 2, &["nonsense"]),
        ("tcp://127.0.0.1:1", "passthrough ls", 1, &["tcp://127.0.0.1:1", "--docker-host unix://"]),
    ] {
        let (got, _, complaint) = said(&client.docker(&driver, host, line));
        assert_eq!(got, Some(code), "{line}: {complaint}");
        assert_names(&complaint, words);
    }
    drop(container);
    network.remove();
    driver.finish();
}
