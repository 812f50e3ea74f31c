//! What a service manager is told: that the driver is ready, that it lives, that it ends.
use std::{
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{PATIENCE, command, driver::Driver, eventually, trials};

trials![a_service_manager_is_told, no_sign_of_life_while_the_socket_does_not_answer, units_are_sound];

/// What systemd would listen on.
fn manager(driver: &Driver) -> (UnixDatagram, PathBuf) {
    let path = driver.state_dir.parent().unwrap().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (socket, path)
}

#[track_caller]
fn next(manager: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let length = manager.recv(&mut message).expect("a message of the driver's");
    String::from_utf8_lossy(&message[..length]).trim().to_owned()
}

/// Starts it under a manager that wants to hear of it within `micros`.
fn serve(driver: &Driver, path: &Path, micros: &str) {
    driver.serve_in(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", micros)]);
}

fn a_service_manager_is_told() {
    let driver = Driver::without_engine();
    let (manager, path) = manager(&driver);
    serve(&driver, &path, "1500000");
    assert_eq!(next(&manager), "READY=1");
    for _ in 0..3 {
        assert_eq!(next(&manager), "WATCHDOG=1");
    }
    driver.ask_to_end();
    let ending = eventually("it says that it ends", || match next(&manager).as_str() {
        "WATCHDOG=1" => Err("it lives still".to_owned()),
        other => Ok(other.to_owned()),
    });
    assert_eq!(ending, "STOPPING=1");
    assert!(driver.wait().success());
}

fn no_sign_of_life_while_the_socket_does_not_answer() {
    let driver = Driver::without_engine();
    let (manager, path) = manager(&driver);
    serve(&driver, &path, "1500000");
    let silent = || driver.log().matches("no sign of life is given").count();
    assert_eq!(next(&manager), "READY=1");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // More than it takes: it closes all others.
    let taken: Vec<_> = (0..5000).map(|_| UnixStream::connect(&driver.socket).unwrap()).collect();
    eventually("it has taken all that it takes", || {
        let log = driver.log();
        if log.contains("too many connections") { Ok(()) } else { Err(log) }
    });
    eventually("it notices", || if silent() >= 3 { Ok(()) } else { Err(driver.log()) });
    // What it said before; from here on it has not.
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 256]).is_ok() {}
    let noticed = silent();
    eventually("it notices again", || if silent() >= noticed + 3 { Ok(()) } else { Err(driver.log()) });
    assert!(manager.recv(&mut [0; 256]).is_err(), "a sign of life, and nobody could reach it");
    manager.set_nonblocking(false).unwrap();
    drop(taken);
    assert_eq!(next(&manager), "WATCHDOG=1");
    driver.finish();
}

fn units_are_sound() {
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd");
    let [service, socket] = ["service", "socket"].map(|kind| format!("{units}/docker-passthrough.{kind}"));
    // systemd looks whether the program is there: it need not be installed for this.
    let folder = tempfile::tempdir().unwrap();
    for unit in [&service, &socket] {
        let text = std::fs::read_to_string(unit).unwrap();
        let text = text.replace("/usr/bin/docker-passthrough", "/bin/true");
        std::fs::write(folder.path().join(Path::new(unit).file_name().unwrap()), text).unwrap();
    }
    let at = |kind: &str| folder.path().join(format!("docker-passthrough.{kind}")).display().to_string();
    command::require("systemd-analyze", "--version");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", &at("service"), &at("socket")])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    // What it needs is much, and what it does not is taken away.
    let score = ["security", "--offline=true", "--no-pager", "--threshold=40", &at("service")];
    command::run("systemd-analyze", &score);
}
