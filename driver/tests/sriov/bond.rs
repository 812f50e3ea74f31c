//! A bond, passed through by a macvlan on it: its members are VFs, and the active one goes down under traffic.
use std::{
    fs,
    net::UdpSocket,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::support::{
    assert_names, command, container::Container, docker::Engine, driver::Driver, driver::entries, eventually,
    frames::within, look::Look, look::Place, nic::Traffic, trials,
};

use super::{
    bench::{Bench, Segment, bench},
    counters::{netdev_of, send},
    docker::{DockerNetwork, address},
    frames::{BROADCAST, Frame, Port, hush, mac_of},
    pf::Pf,
    tenant::INSIDE,
};

trials![
    a_bond_fails_over_under_traffic,
    a_bond_that_changes_its_mac_fails_over,
    a_team_and_nothing_but_its_mac,
];

const BOND: &str = "trunk0";
/// Echoes before and after the failover.
const ECHOES: u64 = 50;
/// Ethernet, IPv4, UDP and what is in it.
const FRAME: u64 = 14 + 20 + 8 + PAYLOAD as u64;
const PAYLOAD: usize = 100;

/// An administrator's bond of the first two VFs, gone when dropped.
struct Bond {
    members: [String; 2],
}

impl Bond {
    #[track_caller]
    fn new(pf: &Pf, options: &str) -> Self {
        // Else the module makes one of its own.
        command::run("modprobe", &["bonding", "max_bonds=0"]);
        command::ip(&format!("link add {BOND} type bond mode active-backup miimon 50 {options}"));
        let bond = Self { members: [0, 1].map(|vf| pf.netdev(vf).expect("a netdev")) };
        for member in &bond.members {
            command::ip(&format!("link set {member} down"));
            command::ip(&format!("link set {member} master {BOND}"));
        }
        command::ip(&format!("link set {BOND} up"));
        eventually("both members have a carrier", || bond.carriers());
        bond.activate(0);
        bond
    }

    fn carriers(&self) -> Result<(), String> {
        let states = self.members.each_ref().map(|member| {
            fs::read_to_string(format!("/sys/class/net/{member}/bonding_slave/mii_status"))
                .unwrap_or_default()
        });
        if states.iter().all(|state| state.trim() == "up") { Ok(()) } else { Err(format!("{states:?}")) }
    }

    fn active(&self) -> Option<usize> {
        let active = fs::read_to_string(format!("/sys/class/net/{BOND}/bonding/active_slave"));
        let active = active.expect("a bond");
        self.members.iter().position(|member| member == active.trim())
    }

    /// Makes this member the active one.
    #[track_caller]
    fn activate(&self, member: usize) {
        command::ip(&format!("link set {BOND} type bond active_slave {}", self.members[member]));
        assert_eq!(self.active(), Some(member));
    }

    /// As the host sees it and its members.
    #[track_caller]
    fn looks(&self) -> Vec<Look> {
        let names = [BOND, &self.members[0], &self.members[1]];
        let look = |name| Look::at(&Place::Host, name).unwrap_or_else(|| panic!("no {name}"));
        names.map(look).into()
    }

    #[track_caller]
    fn mac(&self) -> String {
        self.looks().swap_remove(0).mac
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        let _ = command::attempt("ip", &["link", "del", BOND]);
    }
}

/// A container on the bond, and the far end of the wire.
struct Pair<'a> {
    driver: &'a Driver,
    place: Place,
    inside: UdpSocket,
    outside: UdpSocket,
}

impl<'a> Pair<'a> {
    #[track_caller]
    fn new(driver: &'a Driver, container: &Container, bench: &Bench) -> Self {
        let (place, near, far) = (container.place(), address(container), container.of_network("Gateway"));
        hush(&place);
        let bind = |address: &str| UdpSocket::bind(format!("{address}:4000")).expect("a socket");
        let inside = within(&place, || bind(&near));
        let outside = within(&bench.wire.place(), || bind(&far));
        for socket in [&inside, &outside] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        }
        inside.connect(format!("{far}:4000")).expect("an address");
        outside.connect(format!("{near}:4000")).expect("an address");
        Self { driver, place, inside, outside }
    }

    /// What we have counted, what the container's netdev has, and what it dropped; when nothing moves.
    #[track_caller]
    fn settled(&self) -> (Traffic, Traffic, u64) {
        let mut last = None;
        eventually("the traffic has ended", || {
            thread::sleep(Duration::from_millis(200));
            let (netdev, dropped) = netdev_of(&self.place);
            let now = (self.stats().traffic(), netdev, dropped);
            if last.replace(now) == Some(now) { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    #[track_caller]
    fn stats(&self) -> crate::support::driver::Stats {
        self.driver.stats_of(BOND)
    }

    /// Datagrams go out and come back all the time, while `meanwhile` is told how many have.
    #[track_caller]
    fn echoing(&self, meanwhile: impl FnOnce(&dyn Fn() -> u64)) {
        let (over, back) = (AtomicBool::new(false), AtomicU64::new(0));
        let goes_on = || !over.load(Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| {
                while goes_on() {
                    // One that is lost is lost.
                    let _ = self.inside.send(&[0x55; PAYLOAD]);
                    thread::sleep(Duration::from_millis(5));
                }
            });
            scope.spawn(|| {
                let mut buffer = [0; 2 * PAYLOAD];
                while goes_on() {
                    if let Ok(size) = self.outside.recv(&mut buffer) {
                        let _ = self.outside.send(&buffer[..size]);
                    }
                }
            });
            scope.spawn(|| {
                let mut buffer = [0; 2 * PAYLOAD];
                while goes_on() {
                    back.fetch_add(u64::from(self.inside.recv(&mut buffer).is_ok()), Ordering::Relaxed);
                }
            });
            // They end also if this fails.
            let _ended = Ended(&over);
            meanwhile(&|| back.load(Ordering::Relaxed));
        });
        // Nothing of it is left to be received.
        for socket in [&self.inside, &self.outside] {
            while socket.recv(&mut [0; 2 * PAYLOAD]).is_ok() {}
        }
    }
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for more echoes.
#[track_caller]
fn more(echoes: &dyn Fn() -> u64) {
    let before = echoes();
    eventually("echoes", || {
        let now = echoes() - before;
        if now >= ECHOES { Ok(()) } else { Err(format!("{now} of {ECHOES}")) }
    });
}

/// The active member goes down while traffic runs; what we have counted meanwhile, and what the netdev has.
#[track_caller]
fn fail_over(bond: &Bond, pair: &Pair) -> [Traffic; 2] {
    assert_eq!(bond.active(), Some(0));
    let before = pair.settled();
    pair.echoing(|echoes| {
        more(echoes);
        command::ip(&format!("link set {} down", bond.members[0]));
        eventually("the other member is active", || {
            let active = bond.active();
            if active == Some(1) { Ok(()) } else { Err(format!("{active:?}")) }
        });
        more(echoes);
    });
    let now = pair.settled();
    let (counted, netdev, dropped) = (now.0 - before.0, now.1 - before.1, now.2 - before.2);
    assert!(counted.tx_packets >= 2 * ECHOES && counted.rx_packets >= 2 * ECHOES, "{counted:?}");
    // What the bond had no way for just then.
    let netdev = Traffic {
        tx_packets: netdev.tx_packets + dropped,
        tx_bytes: netdev.tx_bytes + dropped * FRAME,
        ..netdev
    };
    command::ip(&format!("link set {} up", bond.members[0]));
    eventually("both members have a carrier", || bond.carriers());
    [counted, netdev]
}

#[track_caller]
fn run(
    options: &str,
    asked: Option<&str>,
    test: impl FnOnce(&Bench, &Bond, &Driver, &DockerNetwork, &Container),
) {
    let (bench, engine) = (bench(), Engine::shared());
    // Fresh VFs: a MAC that was ever set through the PF, the bond could not change.
    bench.pf.set_count(0);
    let vfs = bench.with_vfs();
    let bond = Bond::new(vfs.pf, options);
    let before = bond.looks();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 0);
    let network = DockerNetwork::over(engine, &driver, BOND, &side, &[]).expect("a network on the bond");
    let options: Vec<_> = asked.map(|mac| ["--mac-address", mac]).into_iter().flatten().collect();
    let container = network.run("bonded", &options);
    test(bench, &bond, &driver, &network, &container);
    bond.activate(0);
    drop(container);
    assert_eq!(bond.looks(), before);
    let left: Vec<_> =
        entries(Path::new("/sys/class/net")).into_iter().filter(|n| n.starts_with("dpt")).collect();
    assert!(left.is_empty(), "{left:?}");
    network.remove();
    driver.finish();
    assert_eq!(bond.looks(), before);
    drop(bond);
    // The members are not what they were before there was a bond.
    vfs.pf.set_count(0);
}

fn a_bond_fails_over_under_traffic() {
    let mac = "02:5e:00:00:00:b0";
    // No announcements at the failover: the NIC reflects broadcasts.
    run("num_grat_arp 0", Some(mac), |bench, bond, driver, network, container| {
        let place = container.place();
        assert_eq!((container.look(INSIDE).mac.as_str(), bond.mac().as_str()), (mac, mac));
        let ls = command::finish("ls", &mut driver.command("ls")).expect("ls");
        assert_names(&ls, &[&format!("{BOND} (macvlan)")]);
        // It is nobody else's meanwhile, nor are its members.
        let complaint = network.try_run("second", &[]).err().expect("the bond is in use");
        assert_names(&complaint, &[BOND, "in use by"]);
        let elsewhere = Segment::new(bench, 300);
        for (netdevice, words) in [(BOND, "belongs to network"), (&bond.members[1], "is a member of trunk0")]
        {
            let another = DockerNetwork::over(Engine::shared(), driver, netdevice, &elsewhere, &[]);
            assert_names(&another.err().expect("it is in use"), &[netdevice, words]);
        }
        // Whoever is asked for a MAC would be counted as well, so nobody is.
        let gateway = container.of_network("Gateway");
        let far = mac_of(&bench.wire.place(), &bench.port);
        place.run(&format!("ip neigh replace {gateway} lladdr {far} dev {INSIDE} nud permanent"));
        let line = format!("{} lladdr {mac} dev {} nud permanent", address(container), bench.port);
        bench.wire.ip(&format!("neigh replace {line}"));
        let pair = Pair::new(driver, container, bench);
        let [counted, netdev] = fail_over(bond, &pair);
        assert_eq!(counted, netdev);
        // Both ways, to the frame and the byte, as the far end has it.
        let before = pair.settled().0;
        for socket in [&pair.inside, &pair.outside] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        }
        let sizes: Vec<usize> = (0..500).map(|n| 18 + n * 7919 % 1455).collect();
        let sent = send(&pair.inside, &pair.outside, &sizes);
        let received = send(&pair.outside, &pair.inside, &sizes[..321]);
        let now = pair.settled().0 - before;
        assert_eq!((now.tx_packets, now.tx_bytes), sent);
        assert_eq!((now.rx_packets, now.rx_bytes), received);
        let stats = pair.stats();
        assert_eq!((stats.rx_hook.as_str(), stats.tx_hook.as_str(), stats.spoofed()), ("tcx", "tcx", 0));
    });
}

/// Its MAC is that of the active member, and so the container's changes with it: its frames are counted as
/// having another source, and none is dropped.
fn a_bond_that_changes_its_mac_fails_over() {
    run("fail_over_mac active", None, |bench, bond, driver, _, container| {
        let (first, before) = (container.look(INSIDE).mac, bond.mac());
        assert_eq!(first, before);
        let pair = Pair::new(driver, container, bench);
        assert_eq!(pair.stats().spoofed(), 0);
        let [counted, netdev] = fail_over(bond, &pair);
        // An own broadcast that the NIC reflects is a frame without bytes for macvlan (`len` in
        // `macvlan_handle_frame`, drivers/net/macvlan.c), and the container announces its new MAC.
        assert!(counted.rx_bytes >= netdev.rx_bytes, "{counted:?}, {netdev:?}");
        assert_eq!(Traffic { rx_bytes: netdev.rx_bytes, ..counted }, netdev);
        assert_ne!(container.look(INSIDE).mac, first);
        // To neighbours that it knows from before, the kernel goes on sending with the old one.
        pair.place.run(&format!("ip neigh flush dev {INSIDE}"));
        let before = pair.settled();
        pair.echoing(|echoes| more(echoes));
        let now = pair.settled();
        let spoofed = pair.stats().spoofed();
        assert!(spoofed >= ECHOES, "{spoofed} frames had the other member's MAC");
        let (counted, netdev) = (now.0 - before.0, now.1 - before.1);
        assert_eq!((counted.tx_packets, counted.tx_bytes), (netdev.tx_packets, netdev.tx_bytes));
    });
}

/// A team can't be moved either. The macvlan on it takes one MAC: what is sent to another one is not the container's,
/// and what is sent as another one is dropped.
fn a_team_and_nothing_but_its_mac() {
    const TEAM: &str = "team0";
    command::run("modprobe", &["-a", "team", "macvlan"]);
    let (bench, engine) = (bench(), Engine::shared());
    command::ip(&format!("link add {TEAM} type team"));
    command::ip(&format!("link set {TEAM} up"));
    let before = Look::at(&Place::Host, TEAM).unwrap();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 0);
    let network = DockerNetwork::over(engine, &driver, TEAM, &side, &[]).expect("a network on the team");
    let container = network.run("teamed", &[]);
    assert_eq!(container.look(INSIDE).mac, before.mac);
    let place = container.place();
    let mode = place.run(&format!("ip -d link show dev {INSIDE}"));
    assert_names(&mode, &["macvlan mode passthru"]);
    // A second one on the netdev, or under another address, is the kernel's to refuse.
    let second = format!("link add link {TEAM} name second0 type macvlan mode bridge");
    assert!(command::attempt("ip", &second.split(' ').collect::<Vec<_>>()).is_err());
    hush(&place);
    let port = Port::open(&place, INSIDE);
    let (own, foreign) = (mac_of(&place, INSIDE), "02:66:00:00:00:01".parse().unwrap());
    for source in [own, foreign, foreign] {
        port.send(&Frame::new(BROADCAST, source));
    }
    eventually("the foreign ones are dropped", || {
        let stats = driver.stats_of(TEAM);
        if stats.spoofed() == 2 { Ok(()) } else { Err(format!("{stats:?}")) }
    });
    drop(container);
    assert_eq!(Look::at(&Place::Host, TEAM).unwrap(), before);
    network.remove();
    driver.finish();
    command::ip(&format!("link del {TEAM}"));
}
