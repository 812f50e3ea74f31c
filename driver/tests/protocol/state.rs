//! The state folder when the disk or an operator does something to it.
use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{
    assert_names, command,
    driver::Driver,
    eventually,
    nic::Nic,
    simulated::{self, Container},
    trials,
};

trials![
    read_only_disk_refuses_and_undoes,
    full_disk_refuses_and_undoes,
    read_only_disk_at_the_start_is_an_error,
    second_driver_on_one_folder_is_refused,
    folder_that_others_can_write_to_is_refused,
    folder_that_is_no_folder_is_refused,
    folder_behind_a_link_is_taken,
    file_that_is_a_link_is_refused,
    folder_that_is_missing_is_made_for_root_alone,
];

/// Something mounted on a folder, for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn on(folder: &Path, words: &[&str]) -> Self {
        let at = folder.to_str().expect("a path");
        command::run("mount", &[words, &[at]].concat());
        Self(folder.to_owned())
    }

    /// The folder itself, which can be made read-only.
    fn itself(folder: &Path) -> Self {
        Self::on(folder, &["--bind", folder.to_str().expect("a path")])
    }

    fn make(&self, how: &str) {
        command::run("mount", &["-o", &format!("remount,bind,{how}"), self.0.to_str().expect("a path")]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = command::attempt("umount", &["-l", self.0.to_str().unwrap_or_default()]);
    }
}

/// `serve` must not start: what it says.
#[track_caller]
fn assert_refused(driver: &Driver, words: &[&str]) {
    let ended = driver.command("serve").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(matches!(ended.status.code(), Some(1..=100)), "{}: {said}", ended.status);
    assert_names(&said, words);
    assert!(!driver.socket.exists(), "Docker would wait for a driver that isn't there");
}

/// While nothing can be saved: what is new is refused, and what ends comes home.
#[track_caller]
fn assert_undone(driver: &Driver, reason: &str, save: impl FnOnce()) {
    let (nic, other, third) = (Nic::new(), Nic::new(), Nic::new());
    let looks = || (nic.look(), other.look(), third.look());
    let before = looks();
    let network = simulated::create_network(driver, &nic);
    let running = Container::start(driver, &nic, &network);
    let free = simulated::create_network(driver, &other);
    let file = driver.state_dir.join("state.json");
    let saved = fs::read(&file).unwrap();
    save();
    let refused = simulated::network(&crate::support::docker_id(), &json!({"netdevice": third.name}));
    assert_names(&driver.refused("CreateNetwork", &refused), &["state.json", reason]);
    let container = Container::unknown(driver, &other, &free);
    let create = simulated::endpoint(&free, &container.endpoint, "");
    assert_names(&driver.refused("CreateEndpoint", &create), &["state.json", reason]);
    assert_eq!((other.look(), third.look()), (before.1.clone(), before.2.clone()));
    assert_eq!(driver.pins(&container.endpoint), [""; 0]);
    // Docker does not ask for this a second time.
    running.leave();
    running.move_out();
    assert_names(&driver.refused("DeleteEndpoint", &running.ids()), &["state.json", reason]);
    assert_eq!(looks(), before);
    assert_eq!(fs::read(&file).unwrap(), saved, "what was saved is whole");
}

/// When it can be saved again, all goes on.
#[track_caller]
fn assert_goes_on(driver: &Driver) {
    let networks = eventually("what had ended is forgotten", || {
        let state: Value =
            serde_json::from_slice(&fs::read(driver.state_dir.join("state.json")).unwrap()).unwrap();
        let networks = state["networks"].as_object().unwrap();
        if networks.values().all(|network| network["endpoints"] == json!({})) {
            Ok(networks.keys().cloned().collect::<Vec<_>>())
        } else {
            Err(state.to_string())
        }
    });
    driver.kill();
    driver.serve();
    for network in networks {
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
    let nic = Nic::new();
    let network = simulated::create_network(driver, &nic);
    Container::start(driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
}

fn read_only_disk_refuses_and_undoes() {
    let driver = Driver::start();
    let mounted = Mounted::itself(&driver.state_dir);
    assert_undone(&driver, "Read-only file system", || mounted.make("ro"));
    mounted.make("rw");
    assert_goes_on(&driver);
    driver.finish();
}

fn full_disk_refuses_and_undoes() {
    let driver = Driver::without_engine();
    fs::create_dir(&driver.state_dir).unwrap();
    let _mounted = Mounted::on(&driver.state_dir, &["-t", "tmpfs", "-o", "size=64k,mode=700", "none"]);
    driver.serve();
    let filler = driver.state_dir.join("filler");
    assert_undone(&driver, "No space left", || {
        fs::write(&filler, vec![0; 1 << 20]).expect_err("a full disk");
    });
    fs::remove_file(filler).unwrap();
    assert_goes_on(&driver);
    driver.finish();
}

fn read_only_disk_at_the_start_is_an_error() {
    let driver = Driver::start();
    driver.terminate();
    let mounted = Mounted::itself(&driver.state_dir);
    mounted.make("ro");
    assert_refused(&driver, &[driver.state_dir.to_str().unwrap(), "Read-only file system"]);
}

fn second_driver_on_one_folder_is_refused() {
    let driver = Driver::start();
    let socket = driver.socket.with_extension("second");
    let ended = driver.command("serve").arg("--socket").arg(&socket).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(matches!(ended.status.code(), Some(1..=100)), "{}: {said}", ended.status);
    assert_names(&said, &[driver.state_dir.to_str().unwrap(), "another docker-passthrough"]);
    assert!(!socket.exists());
    driver.assert_alive();
    driver.finish();
}

fn folder_that_others_can_write_to_is_refused() {
    let driver = Driver::start();
    driver.terminate();
    let folder = driver.state_dir.clone();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    assert_refused(&driver, &[folder.to_str().unwrap(), "777", "chmod"]);
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    chown(&folder, Some(12345), None).unwrap();
    assert_refused(&driver, &[folder.to_str().unwrap(), "12345", "chown"]);
    chown(&folder, Some(0), None).unwrap();
    driver.serve();
    driver.finish();
}

fn folder_that_is_no_folder_is_refused() {
    let driver = Driver::without_engine();
    fs::write(&driver.state_dir, b"").unwrap();
    assert_refused(&driver, &[driver.state_dir.to_str().unwrap()]);
    fs::remove_file(&driver.state_dir).unwrap();
    symlink("/run/nowhere/at/all", &driver.state_dir).unwrap();
    assert_refused(&driver, &[driver.state_dir.to_str().unwrap()]);
    assert!(!Path::new("/run/nowhere").exists());
}

fn folder_behind_a_link_is_taken() {
    let driver = Driver::without_engine();
    let elsewhere = driver.state_dir.with_extension("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, &driver.state_dir).unwrap();
    driver.serve();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    assert!(elsewhere.join("state.json").exists());
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn file_that_is_a_link_is_refused() {
    let driver = Driver::start();
    driver.terminate();
    let (file, precious) = (driver.state_dir.join("state.json"), driver.state_dir.join("precious"));
    symlink("/dev/null", &file).unwrap();
    assert_refused(&driver, &[file.to_str().unwrap(), "regular file"]);
    fs::remove_file(&file).unwrap();
    // Nor does it write where a link leads.
    fs::write(&precious, b"precious").unwrap();
    symlink(&precious, driver.state_dir.join("state.json.new")).unwrap();
    driver.serve();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    driver.finish();
}

fn folder_that_is_missing_is_made_for_root_alone() {
    let driver = Driver::without_engine();
    driver.serve();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&driver.state_dir), 0o700);
    assert_eq!(mode(&driver.state_dir.join("state.json")), 0o600);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
