//! A kernel without TCX: frames are counted by filters that are put on in the container, and put back.
//!
//! Here the container is as hostile as NET_ADMIN lets it be.
use std::{
    fs,
    io::Read as _,
    process::{Child, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::support::{
    PATIENCE, command, confined,
    docker::Engine,
    driver::Driver,
    eventually,
    look::{Place, text},
    netns::Netns,
    nic::Traffic,
    trials,
};

use super::{
    bench::{Segment, bench},
    docker::{DockerNetwork, address},
    tenant::{INSIDE, Network, Tenant, Wish},
};

trials![
    counted_by_clsact,
    what_a_container_takes_off_comes_back,
    filters_of_others_do_not_come_first,
    a_netdev_that_the_container_hides_is_counted,
    taken_off_while_no_driver_ran,
    taken_off_in_a_loop,
    a_whole_netdev_is_counted_by_xdp_and_clsact,
    died_while_nobody_looked,
    with_the_units_rights_and_without_hearing,
];

/// The directions of a qdisc.
const DIRECTIONS: [&str; 2] = ["ingress", "egress"];

/// What runs here, of the other modules: the core. The rest is the same on all kernels, or about TCX.
pub const CORE: [&str; 8] = [
    "vlans::two_vlans_on_one_pf",
    "choice::by_number_and_by_address",
    "tenants::forged_frames_are_dropped_and_counted",
    "counters::bulk_both_ways",
    "lifecycle::vfs_of_the_driver_go_with_the_last_network",
    "failure::driver_killed_under_running_containers",
    "failure::engine_killed_under_running_containers",
    "failure::containers_that_vanished_give_way",
];

/// Whether this kernel is one before 6.6.
pub fn is_before_tcx() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) < (Some(6), Some(6))
}

/// The program that sees the frames of a netdev first, by the name that `tc` shows.
fn first(place: &Place, netdev: &str, direction: &str) -> Result<(), String> {
    let answer = place.attempt(&format!("tc -j filter show dev {netdev} {direction}"))?;
    let filters: Vec<Value> = serde_json::from_str(&answer).unwrap_or_default();
    let first = filters.iter().find(|filter| filter["options"].is_object());
    let first = first.filter(|filter| text(&filter["options"]["bpf_name"]) == "docker-passthrough");
    first.map(drop).ok_or(answer)
}

/// Waits until a container is counted, which it is from the start where the kernel has TCX.
#[track_caller]
pub fn await_counted(place: &Place) {
    if is_before_tcx() {
        await_counted_as(place, INSIDE);
    }
}

#[track_caller]
fn await_counted_as(place: &Place, netdev: &str) {
    for direction in DIRECTIONS {
        eventually("our filter is the first", || first(place, netdev, direction));
    }
}

/// Several lines of `tc`, so fast that nobody comes in between.
#[track_caller]
fn tc(place: &Place, lines: &[&str]) {
    let Place::Named(path) = place else { panic!("{place:?}") };
    let mut batch = command::prepared("nsenter", &[format!("--net={}", path.display())]);
    batch.args(["tc", "-batch", "-"]);
    command::finish_with("nsenter", &mut batch, &lines.join("\n")).expect("tc");
}

/// Measures how long a netdev is not counted: by the kernel's own times of its filters' events.
struct Uncounted(Child);

impl Uncounted {
    #[track_caller]
    fn watch(place: &Place) -> Self {
        let Place::Named(path) = place else { panic!("{place:?}") };
        let mut monitor = command::prepared("nsenter", &[format!("--net={}", path.display())]);
        monitor.args(["tc", "-tshort", "monitor"]).stdout(Stdio::piped());
        let monitor = Self(monitor.spawn().expect("tc monitor"));
        eventually("tc monitor listens", || {
            let sockets = fs::read_to_string(format!("/proc/{}/net/netlink", monitor.0.id()));
            let ours = format!(" {} ", monitor.0.id());
            let listens = sockets.is_ok_and(|sockets| sockets.contains(&ours));
            if listens { Ok(()) } else { Err("not yet".to_owned()) }
        });
        monitor
    }

    /// From the first event to the last.
    #[track_caller]
    fn told(mut self) -> String {
        let (mut said, text) = (self.0.stdout.take().expect("a pipe"), Mutex::new(String::new()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = said.read(&mut buffer) {
                    text.lock().expect("its text").push_str(&String::from_utf8_lossy(&buffer[..count]));
                }
            });
            let says_something =
                || text.lock().expect("its text").lines().any(|line| time_of(line).is_some());
            let begun = Instant::now();
            while !says_something() && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
            // And the rest of what has happened.
            std::thread::sleep(Duration::from_millis(200));
            self.0.kill().expect("tc monitor");
        });
        let _ = self.0.wait();
        let text = text.into_inner().expect("its text");
        let times: Vec<f64> = text.lines().filter_map(time_of).collect();
        let (Some(first), Some(last)) = (times.first(), times.last()) else { panic!("no event: {text}") };
        format!("{} events in {:.1} ms", times.len(), (last - first) * 1e3)
    }
}

/// The seconds of the hour in `[2026-01-31T23:59:58.123456] deleted filter …`.
fn time_of(line: &str) -> Option<f64> {
    let (stamp, _) = line.strip_prefix('[')?.split_once(']')?;
    let mut parts = stamp.rsplit(':');
    let seconds: f64 = parts.next()?.parse().ok()?;
    let minutes: f64 = parts.next()?.parse().ok()?;
    Some(minutes * 60.0 + seconds)
}

/// A tenant in VLAN 100, and who it speaks with.
struct Talk<'a> {
    side: &'a Segment<'a>,
    driver: &'a Driver,
    endpoint: String,
}

impl<'a> Talk<'a> {
    #[track_caller]
    fn new(driver: &'a Driver, tenant: &Tenant, side: &'a Segment<'a>) -> Self {
        tenant.address(&side.host(2));
        Self { side, driver, endpoint: tenant.endpoint.clone() }
    }

    fn traffic(&self) -> Traffic {
        self.driver.stats_for(&[&self.endpoint])[0].traffic()
    }

    /// Panics unless each packet of a conversation is counted.
    #[track_caller]
    fn assert_counted(&self) {
        self.side.ping(&self.side.host(2), 1);
        let before = self.traffic();
        self.side.ping(&self.side.host(2), 20);
        let more = self.traffic() - before;
        assert!(more.rx_packets >= 20 && more.tx_packets >= 20, "{more:?}\n{}", self.driver.log());
    }
}

/// A tenant in VLAN 100 that is spoken with, and afterwards all as it was.
#[track_caller]
fn with_tenant(test: impl FnOnce(&Driver, &Tenant, &Talk)) {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 100);
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let tenant = network.start(&Wish::default());
    let talk = Talk::new(&driver, &tenant, &side);
    test(&driver, &tenant, &talk);
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn counted_by_clsact() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 100);
    let complaint = Network::refused(&driver, vfs.pf, &[("vlan", "100"), ("rx_hook", "tcx")]);
    crate::support::assert_names(&complaint, &["rx_hook=tcx", "no TCX", "6.6", "auto"]);
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let tenant = network.start(&Wish::default());
    let talk = Talk::new(&driver, &tenant, &side);
    talk.assert_counted();
    let stats = tenant.stats();
    assert_eq!((stats.rx_hook.as_str(), stats.tx_hook.as_str()), ("clsact", "clsact"));
    assert_eq!(driver.pins(&tenant.endpoint), ["counters", "rx", "tx"]);
    let map = driver.bpffs.join(&tenant.endpoint).join("counters");
    let dump = command::run("bpftool", &["map", "dump", "pinned", &map.display().to_string()]);
    assert!(dump.contains("\"spoofed\""), "{dump}");
    // What the netdev itself has counted is found without a link.
    let all: Vec<Value> = serde_json::from_str(
        &command::finish("stats", driver.command("stats").arg("--json")).expect("stats"),
    )
    .expect("JSON");
    assert!(all[0]["netdev"]["rx_packets"].as_u64() > Some(20), "{all:?}");
    // It waits for nothing there: whoever holds the namespace keeps the VF from coming home.
    eventually("no namespace is held", || match driver.open("net:[") {
        1 => Ok(()),
        held => Err(format!("{held}")),
    });
    tenant.stop();
    // Nor does anything of it stay on the VF.
    let netdev = vfs.pf.netdev(0).unwrap();
    assert_eq!(Place::Host.run(&format!("tc qdisc show dev {netdev} ingress")), "");
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn what_a_container_takes_off_comes_back() {
    with_tenant(|driver, tenant, talk| {
        for lines in [
            &["filter del dev eth0 egress"][..],
            &["filter del dev eth0 ingress"],
            &["qdisc del dev eth0 clsact"],
            // Another kind of qdisc in its place.
            &["qdisc del dev eth0 clsact", "qdisc add dev eth0 ingress"],
            // Filters that are shared, which nobody may add to by this netdev.
            &["qdisc del dev eth0 clsact", "qdisc add dev eth0 ingress_block 7 egress_block 8 clsact"],
        ] {
            let uncounted = Uncounted::watch(&tenant.place());
            tc(&tenant.place(), lines);
            await_counted(&tenant.place());
            println!("{}: {}", lines[0], uncounted.told());
            talk.assert_counted();
        }
        assert!(driver.log().contains("took the counters off"), "{}", driver.log());
    });
}

fn filters_of_others_do_not_come_first() {
    with_tenant(|_, tenant, talk| {
        // One that comes later sees what it always saw, and stays.
        tc(&tenant.place(), &["filter add dev eth0 egress pref 10 matchall action pass"]);
        talk.assert_counted();
        let shown = tenant.place().run("tc -s filter show dev eth0 egress pref 10");
        assert!(shown.contains("matchall") && !shown.contains("Sent 0 bytes"), "{shown}");
        // Those that end it, in our place and before us.
        for lines in [
            &["filter del dev eth0 egress pref 1", "filter add dev eth0 egress pref 1 matchall action pass"]
                [..],
            &[
                "filter add dev eth0 egress pref 1 protocol all bpf bytecode '1,6 0 0 4294967295,' action pass",
            ],
        ] {
            tc(&tenant.place(), lines);
            await_counted(&tenant.place());
            talk.assert_counted();
        }
    });
}

fn a_netdev_that_the_container_hides_is_counted() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 100);
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let tenant = network.start(&Wish::default());
    let hiding = Netns::new(format!("h{}", &tenant.endpoint[..8]));
    tenant.netns.ip(&format!("link set eth0 name lurk netns {}", hiding.name()));
    await_counted_as(&hiding.place(), "lurk");
    hiding.ip(&format!("addr add {}/24 dev lurk", side.host(2)));
    hiding.ip("link set lurk up");
    let talk = Talk { side: &side, driver: &driver, endpoint: tenant.endpoint.clone() };
    talk.assert_counted();
    // What happens there is heard, too.
    tc(&hiding.place(), &["qdisc del dev lurk clsact"]);
    await_counted_as(&hiding.place(), "lurk");
    talk.assert_counted();
    tenant.stop();
    drop(hiding);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn taken_off_while_no_driver_ran() {
    with_tenant(|driver, tenant, talk| {
        talk.assert_counted();
        driver.kill();
        // What is attached counts without a driver.
        talk.assert_counted();
        let before = talk.traffic();
        tc(&tenant.place(), &["qdisc del dev eth0 clsact"]);
        driver.serve();
        await_counted(&tenant.place());
        talk.assert_counted();
        assert!((talk.traffic() - before).rx_packets >= 20);
        // A driver with other programs replaces them, and the counts stay.
        let before = talk.traffic();
        driver.terminate();
        driver.serve_with(&["--bpf-log"]);
        talk.assert_counted();
        assert!((talk.traffic() - before).rx_packets >= 20);
        eventually("the new programs are attached", || {
            let pinned = command::run("bpftool", &["-j", "prog", "show", "pinned", &tx(driver, tenant)]);
            let pinned: Value = serde_json::from_str(&pinned).expect("JSON");
            let shown = tenant.place().run("tc filter show dev eth0 egress");
            if shown.contains(&format!(" id {} ", pinned["id"])) {
                Ok(())
            } else {
                Err(format!("{pinned}\n{shown}"))
            }
        });
    });
}

fn tx(driver: &Driver, tenant: &Tenant) -> String {
    driver.bpffs.join(&tenant.endpoint).join("tx").display().to_string()
}

/// It costs the container its figures and the host no more than a bound, and fills no log.
fn taken_off_in_a_loop() {
    with_tenant(|driver, tenant, talk| {
        await_counted(&tenant.place());
        let netns = format!("--net={}", tenant.netns.path().display());
        for _ in 0..10 {
            let mut batch = command::prepared("nsenter", &[netns.as_str(), "tc", "-force", "-batch", "-"]);
            // Those that come when there is none fail.
            let _ = command::finish_with("nsenter", &mut batch, &"qdisc del dev eth0 clsact\n".repeat(40));
        }
        await_counted(&tenant.place());
        talk.assert_counted();
        let log = driver.log();
        let said =
            ["took the counters off", "counting it in its container"].map(|line| log.matches(line).count());
        assert!(said[0] > 0 && said.iter().sum::<usize>() < 8, "{log}");
        driver.assert_alive();
    });
}

fn a_whole_netdev_is_counted_by_xdp_and_clsact() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.without_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 0);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &["mode=passthrough"]);
    let container = network.run("whole", &[]);
    eventually("our filter is the first", || first(&container.place(), "eth0", "egress"));
    let talk = Talk { side: &side, driver: &driver, endpoint: container.endpoint() };
    let ping = || side.ping(&address(&container), 20);
    ping();
    let before = talk.traffic();
    ping();
    let more = talk.traffic() - before;
    assert!(more.rx_packets >= 20 && more.tx_packets >= 20, "{more:?}");
    let stats = driver.stats_of(&vfs.pf.name);
    assert_eq!((stats.rx_hook.as_str(), stats.tx_hook.as_str()), ("xdp", "clsact"));
    drop(container);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// Nothing of the driver's keeps a VF from coming home.
fn died_while_nobody_looked() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &[]);
    let container = network.run_with("dying", "driver-opt=vf=2", &[]).unwrap();
    side.ping(&address(&container), 2);
    let pid = container.pid();
    let sandbox = container.docker(&["inspect", "-f", "{{.NetworkSettings.SandboxKey}}"]);
    driver.kill();
    engine.kill();
    assert_eq!(vfs.pf.netdev(2), None);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill -9");
    // The engine's own hold on the namespace is a mount, which outlives both.
    let _ = command::attempt("umount", &["-l", &sandbox]);
    eventually("the VF is home", || vfs.pf.netdev(2).ok_or_else(|| "it is not".to_owned()));
    driver.serve();
    engine.serve();
    eventually("the VF is free", || match driver.stats().len() {
        0 => Ok(()),
        held => Err(format!("{held}")),
    });
    drop(container);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// As its systemd unit has it, and with less: the kernel does not tell it what containers do, and it looks by itself.
fn with_the_units_rights_and_without_hearing() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let side = Segment::new(bench, 100);
    let all = confined::capabilities();
    let deaf: Vec<_> = all.iter().filter(|name| *name != "net_broadcast").cloned().collect();
    assert_eq!(deaf.len() + 1, all.len());
    for (rights, hears) in [(&all, true), (&deaf, false)] {
        let driver = Driver::without_engine();
        driver.serve_confined(rights);
        let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
        let tenant = network.start(&Wish::default());
        let talk = Talk::new(&driver, &tenant, &side);
        tc(&tenant.place(), &["qdisc del dev eth0 clsact"]);
        await_counted(&tenant.place());
        talk.assert_counted();
        let complains = driver.log().contains("listening for changes in containers");
        assert_eq!(complains, !hears, "{}", driver.log());
        tenant.stop();
        network.remove();
        driver.finish();
    }
    vfs.assert_as_before();
}
