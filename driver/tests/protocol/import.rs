//! `import` where there is no engine to ask.
use std::fs;

use serde_json::Value;

use crate::support::{assert_names, driver::Driver, trials};

trials![without_docker_nothing_is_taken_over, a_folder_that_is_not_there_is_named];

fn without_docker_nothing_is_taken_over() {
    let driver = Driver::without_engine();
    let folder = driver.state_dir.parent().unwrap().join("original");
    let config = r#"{"Version":0,"Netdevice":"lo","Mode":"sriov","Subnet":"","Gateway":"194.168.1.1/24","vlan":100,"Privileged":false}"#;
    fs::create_dir_all(folder.join("0a0b")).unwrap();
    fs::write(folder.join("0a0b/config.json"), config).unwrap();
    fs::create_dir_all(folder.join("0a0c")).unwrap();
    let output = driver.command("import").arg(&folder).args(["--json", "--apply"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(rows.len() == 2 && rows[0]["status"] == "refused" && rows[1]["status"] == "damaged", "{rows:?}");
    assert_names(rows[0]["reason"].as_str().unwrap(), &["Docker at unix:///run/no-engine.sock"]);
    assert_names(&String::from_utf8_lossy(&output.stderr), &["2 of 2 networks can't be taken over"]);
    assert!(!driver.state_dir.join("state.json").exists());
}

fn a_folder_that_is_not_there_is_named() {
    let driver = Driver::without_engine();
    let output = driver.command("import").arg("/run/no-original").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_names(&String::from_utf8_lossy(&output.stderr), &["/run/no-original", "No such file"]);
}
