//! The Debian package on a machine that systemd and udev run: the units as they are, beside the engine's own.
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::OnceLock};

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::support::{PATIENCE, command, container::Container, docker::Engine, driver::Driver};
use crate::support::{assert_names, eventually, eventually_within, trials};

use super::{
    bench::{Bench, Segment, Vfs, bench},
    docker::{DockerNetwork, address},
};

trials![
    it_serves_once_it_is_installed,
    vfs_are_made_given_and_taken_away,
    a_whole_netdev_there_and_back,
    what_a_tenant_did_is_undone,
    killed_hung_and_upgraded,
    started_whenever_it_can_be,
    a_state_that_has_to_be_mended_is_told,
    stopped_started_and_killed_with_the_engine,
    purged,
];

const UNIT: &str = "docker-passthrough.service";
const SOCKET: &str = "docker-passthrough.socket";
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debian/docker-passthrough.deb");

/// The machine's own engine and driver.
struct Host {
    engine: Engine,
    driver: Driver,
}

/// Installs the package, which starts the driver beside an engine that runs.
fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let engine = Engine::of_systemd();
        let driver = Driver::installed(Path::new("/"), &engine.host());
        dpkg("--install", PACKAGE);
        // Emulated, all of it takes its time.
        drop_in("slow", "[Service]\nEnvironment=DOCKER_PASSTHROUGH_CALL_TIMEOUT=60\n");
        systemctl(&["restart", UNIT]);
        Host { engine, driver }
    })
}

#[track_caller]
fn systemctl(words: &[&str]) -> String {
    command::attempt("systemctl", words).unwrap_or_else(|complaint| panic!("{complaint}\n{}", journal()))
}

fn dpkg(what: &str, of: &str) -> String {
    command::run("sh", &["-c", "exec env DEBIAN_FRONTEND=noninteractive dpkg \"$@\" 2>&1", "sh", what, of])
}

/// A property of a unit, as `systemctl show` has it.
#[track_caller]
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--property", name, "--value", unit])
}

fn number(unit: &str, name: &str) -> u64 {
    property(unit, name).parse().unwrap()
}

fn journal() -> String {
    let words = ["--no-pager", "--lines", "200", "--output", "short-monotonic", "--unit", UNIT];
    let words = [&words[..], &["--unit", "docker.service"]].concat();
    command::attempt("journalctl", &words).unwrap_or_else(|complaint| complaint)
}

/// Settings of the administrator's for the driver's unit.
fn drop_in(name: &str, text: &str) {
    let folder = Path::new("/run/systemd/system").join(format!("{UNIT}.d"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.conf")), text).unwrap();
    systemctl(&["daemon-reload"]);
}

/// Waits until another process than `before` serves.
#[track_caller]
fn serves_after(before: u64) {
    eventually_within(3 * PATIENCE, "another driver serves", || {
        let now = number(UNIT, "MainPID");
        let state = property(UNIT, "ActiveState");
        if now != 0 && now != before && state == "active" {
            Ok(())
        } else {
            Err(format!("{state}, process {now}, before {before}\n{}", journal()))
        }
    });
}

impl Host {
    /// How many ICMP messages the one endpoint has sent and received.
    #[track_caller]
    fn icmp(&self) -> (u64, u64) {
        let all = self.driver.stats_json();
        let [one] = &all[..] else { panic!("{all:?}") };
        let of = |side: &str| one[side]["detailed"]["icmp"].as_u64().unwrap_or_else(|| panic!("{one}"));
        (of("tx"), of("rx"))
    }
}

fn it_serves_once_it_is_installed() {
    let host = host();
    for unit in [UNIT, SOCKET] {
        assert_eq!(property(unit, "ActiveState"), "active", "{}", journal());
        assert_eq!(systemctl(&["is-enabled", unit]), "enabled");
    }
    // It has told systemd itself that it is ready.
    assert_eq!(property(UNIT, "SubState"), "running");
    assert_eq!(property(UNIT, "NotifyAccess"), "main");
    let mode = host.driver.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let verify = format!("systemd-analyze verify {UNIT} {SOCKET} 2>&1 | grep docker-passthrough || true");
    assert_eq!(command::run("sh", &["-c", &verify]), "");
    let mut doctor = host.driver.command("doctor");
    let answer = doctor.arg("--json").output().unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&answer.stdout).unwrap();
    let errors: Vec<_> = findings.iter().filter(|finding| finding["status"] == "error").collect();
    assert!(errors.is_empty(), "{errors:#?}\n{}", journal());
    // Docker finds the commands, too.
    assert!(host.engine.docker(&["passthrough", "ls"]).contains("NETDEVICE"));
}

fn vfs_are_made_given_and_taken_away() {
    let (host, bench) = (host(), bench());
    let vfs = bench.without_vfs();
    let segment = Segment::new(bench, 100);
    // They are made, and then named by udev, while the driver looks for them.
    let network = DockerNetwork::create(&host.engine, &host.driver, vfs.pf, &segment, &["vfs=3"]);
    let tenants: Vec<_> = ["a", "b", "c"].map(|name| network.run(name, &[])).into();
    for tenant in &tenants {
        segment.ping(&address(tenant), 3);
        assert_eq!(tenant.netdevs(), ["eth0"]);
    }
    let stats = host.driver.stats();
    assert!(stats.len() == 3 && stats.iter().all(|one| one.traffic().rx_packets >= 3), "{stats:?}");
    drop(tenants);
    network.remove();
    eventually("the VFs are taken away", || if vfs.pf.count() == 0 { Ok(()) } else { Err(journal()) });
    vfs.assert_as_before();
}

/// Waits until udev has done with what has come home, so that it changes nothing behind one's back.
fn settle() {
    command::run("udevadm", &["settle", "--timeout", "60"]);
}

/// The PF with all of its VFs, as udev has named them.
fn with_vfs(bench: &Bench) -> Vfs<'_> {
    let mut vfs = bench.with_vfs();
    settle();
    vfs.settle();
    vfs
}

fn a_whole_netdev_there_and_back() {
    let (host, bench) = (host(), bench());
    let vfs = with_vfs(bench);
    let netdev = vfs.pf.netdev(2).unwrap();
    let segment = Segment::new(bench, 0);
    let network = DockerNetwork::over(&host.engine, &host.driver, &netdev, &segment, &[]).unwrap();
    for _ in 0..2 {
        let tenant = network.run("tenant", &[]);
        segment.ping(&address(&tenant), 3);
        assert!(host.driver.stats_of(&netdev).traffic().rx_packets >= 3);
        drop(tenant);
        settle();
        vfs.assert_as_before();
    }
    network.remove();
    vfs.assert_as_before();
}

fn what_a_tenant_did_is_undone() {
    let (host, bench) = (host(), bench());
    let vfs = with_vfs(bench);
    let segment = Segment::new(bench, 100);
    let network = DockerNetwork::create(&host.engine, &host.driver, vfs.pf, &segment, &[]);
    let tenant = network.run("tenant", &["--cap-add", "NET_ADMIN"]);
    segment.ping(&address(&tenant), 3);
    for line in [
        "ip link set eth0 down",
        "ip link set eth0 name dev9",
        "ip link set dev9 mtu 1400",
        "ip link set dev9 up",
        "ip addr add 10.99.0.1/24 dev dev9",
    ] {
        tenant.sh(line);
    }
    tenant.docker(&["kill"]);
    drop(tenant);
    settle();
    eventually("the VF is as it was", || {
        let is = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| vfs.assert_as_before()));
        is.map_err(|_| journal())
    });
    let next = network.run("next", &[]);
    segment.ping(&address(&next), 3);
    drop(next);
    network.remove();
    settle();
    vfs.assert_as_before();
}

fn killed_hung_and_upgraded() {
    let (host, bench) = (host(), bench());
    let vfs = with_vfs(bench);
    let segment = Segment::new(bench, 100);
    let options = ["counters=detailed"];
    let network = DockerNetwork::create(&host.engine, &host.driver, vfs.pf, &segment, &options);
    let tenant = network.run("tenant", &[]);
    segment.ping(&address(&tenant), 1);
    drop_in("watchdog", "[Service]\nWatchdogSec=5\n");
    systemctl(&["restart", UNIT]);
    let ways: [(&str, u64, &dyn Fn()); 3] = [
        ("killed", 1, &|| drop(systemctl(&["kill", "--signal", "KILL", UNIT]))),
        // Systemd sees that it does not answer.
        ("hung", 1, &|| drop(systemctl(&["kill", "--signal", "STOP", UNIT]))),
        ("upgraded", 0, &|| drop(dpkg("--install", PACKAGE))),
    ];
    for (how, restarts, end) in ways {
        let (before, icmp, already) = (number(UNIT, "MainPID"), host.icmp(), number(UNIT, "NRestarts"));
        // Each message is counted, whoever runs meanwhile.
        let gateway = segment.gateway();
        tenant.sh("rm -f /tmp/done");
        tenant.background(&format!("ping -c 300 -i 0.05 {gateway}; echo > /tmp/done"));
        end();
        serves_after(before);
        eventually("all is sent", || tenant.attempt("cat /tmp/done"));
        let now = host.icmp();
        assert_eq!((now.0 - icmp.0, now.1 - icmp.1), (300, 300), "{how}: {}", journal());
        assert_eq!(host.driver.stats().len(), 1);
        // By systemd itself; what an upgrade starts is counted from 0.
        let restarted = number(UNIT, "NRestarts");
        assert_eq!(restarted, if restarts == 0 { 0 } else { already + restarts }, "{how}: {}", journal());
    }
    assert!(journal().contains("Watchdog timeout"), "{}", journal());
    drop(tenant);
    network.remove();
    settle();
    vfs.assert_as_before();
}

/// What hinders its start takes longer than systemd would try by itself.
fn started_whenever_it_can_be() {
    let host = host();
    let (before, restarts) = (number(UNIT, "MainPID"), number(UNIT, "NRestarts"));
    let lock = fs::File::open(host.driver.state_dir.join("lock")).unwrap();
    systemctl(&["kill", "--signal", "KILL", UNIT]);
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    eventually("it has been tried often", || {
        let tried = number(UNIT, "NRestarts") - restarts;
        if tried > 8 { Ok(()) } else { Err(format!("{tried} times\n{}", journal())) }
    });
    assert_ne!(property(UNIT, "ActiveState"), "failed", "{}", journal());
    assert_eq!(property(SOCKET, "ActiveState"), "active", "{}", journal());
    drop(lock);
    serves_after(before);
    host.driver.assert_alive();
}

/// Who calls does not wait for ever, and once it is mended all goes on.
fn a_state_that_has_to_be_mended_is_told() {
    let host = host();
    let state = host.driver.state_dir.join("state.json");
    systemctl(&["stop", UNIT]);
    // There is none yet where nothing was ever remembered.
    let whole = fs::read(&state).ok();
    fs::write(&state, "{").unwrap();
    for _ in 0..2 {
        let answer = host.driver.post("/Plugin.Activate", b"");
        assert_eq!(answer.status, 500, "{}", journal());
        assert_names(&answer.json()["Err"].to_string(), &["state.json", "mend the file"]);
        eventually("it is tried for the next call only", || match property(UNIT, "ActiveState").as_str() {
            "failed" => Ok(()),
            other => Err(format!("{other}\n{}", journal())),
        });
    }
    assert_eq!(property(SOCKET, "ActiveState"), "active", "{}", journal());
    whole.map_or_else(|| fs::remove_file(&state), |whole| fs::write(&state, whole)).unwrap();
    // The next call starts it.
    host.driver.assert_alive();
}

fn stopped_started_and_killed_with_the_engine() {
    let (host, bench) = (host(), bench());
    let vfs = with_vfs(bench);
    let segment = Segment::new(bench, 100);
    let network = DockerNetwork::create(&host.engine, &host.driver, vfs.pf, &segment, &[]);
    let tenant = network.run("tenant", &["--restart", "always"]);
    let runs = |tenant: &Container| {
        eventually_within(3 * PATIENCE, "the container runs", || {
            let state = host.engine.attempt(&["inspect", "-f", "{{.State.Running}}", &tenant.name]);
            if state.as_deref() == Ok("true") { Ok(()) } else { Err(format!("{state:?}\n{}", journal())) }
        });
        segment.ping(&address(tenant), 3);
    };
    runs(&tenant);
    // In one transaction, as at a shutdown: the engine ends its containers first, and the driver takes the VF home.
    fs::write("/run/systemd/system/quiet.target", "[Unit]\nRequires=sysinit.target\nAllowIsolate=yes\n")
        .unwrap();
    systemctl(&["daemon-reload"]);
    systemctl(&["isolate", "quiet.target"]);
    for unit in [UNIT, SOCKET, "docker.service", "docker.socket"] {
        eventually_within(3 * PATIENCE, "all has ended", || match property(unit, "ActiveState").as_str() {
            "inactive" => Ok(()),
            other => Err(format!("{unit} is {other}\n{}", journal())),
        });
    }
    settle();
    vfs.assert_as_before();
    let ended = number(UNIT, "InactiveEnterTimestampMonotonic");
    // And as at a boot.
    systemctl(&["isolate", "--no-block", "graphical.target"]);
    eventually_within(3 * PATIENCE, "the engine starts", || host.engine.attempt(&["version"]));
    serves_after(0);
    let (ready, start) = ("ActiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic");
    assert!(number(UNIT, ready) > ended, "it has not ended");
    assert!(number(UNIT, ready) <= number("docker.service", start), "the engine came first\n{}", journal());
    runs(&tenant);
    // The engine dies, and its containers with it or not: they are had again.
    let before = number("docker.service", "MainPID");
    systemctl(&["kill", "--kill-whom", "main", "--signal", "KILL", "docker.service"]);
    eventually_within(3 * PATIENCE, "another engine answers", || {
        let now = number("docker.service", "MainPID");
        if now == before { Err(now.to_string()) } else { host.engine.attempt(&["version"]) }
    });
    runs(&tenant);
    assert_eq!(host.driver.stats().len(), 1);
    drop(tenant);
    network.remove();
    settle();
    vfs.assert_as_before();
}

fn purged() {
    let host = host();
    dpkg("--purge", "docker-passthrough");
    for path in [&host.driver.socket, &host.driver.state_dir, &host.driver.bpffs] {
        assert!(!path.exists(), "{} is left", path.display());
    }
    for unit in [UNIT, SOCKET] {
        assert_eq!(property(unit, "ActiveState"), "inactive");
    }
}
