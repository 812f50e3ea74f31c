//! The driver dies and fails between a VF's own steps, those of its PF, and those of what stands in for a bond:
//! as the suite `faults` does with whole netdevs.
use std::{
    collections::BTreeSet, env, fs, os::unix::process::ExitStatusExt as _, path::PathBuf, sync::Mutex,
    time::Instant,
};

use serde_json::{Value, json};

use crate::{
    faults::{
        fate::{self, Case, Docker},
        plan::{self, Action, Fault},
        scene::{Call, Hardware, Scene, Stage},
    },
    support::{command, driver::entries, eventually, look::Look, look::Place, netns::Netns, trials},
};

use super::{
    bench::{Everything, bench},
    pf::{Pf, row_mac},
};

trials![
    a_vf_is_given,
    a_vf_comes_back,
    a_vf_that_can_not_be_bound_is_when_it_is_wanted,
    a_pf_gets_its_vfs_and_loses_them,
    a_bond_is_stood_in_for,
    a_bond_is_left_alone,
    every_point_is_walked,
];

/// A VF as a careful administrator would not leave it.
struct Vf {
    pf: &'static Pf,
    index: u32,
    name: String,
}

impl Vf {
    /// Whatever became of it, it is fresh then, under a name that the kernel gives to none.
    #[track_caller]
    fn new() -> Self {
        let (pf, index, name) = (&bench().pf, 2, "walked0".to_owned());
        let vf = Self { pf, index, name: name.clone() };
        if pf.driver(index).is_some() {
            pf.unbind(index);
        }
        fs::write(vf.file("driver_override"), "\n").expect("driver_override");
        pf.set(index, "trust off");
        pf.set(index, "mac 02:0a:00:00:00:10 vlan 7 qos 2 max_tx_rate 500 spoofchk off");
        pf.set(index, &format!("mac 02:0a:00:00:00:{index:02x}"));
        fs::write("/sys/bus/pci/drivers_probe", pf.address(index)).expect("drivers_probe");
        let found = eventually("the VF's netdev", || pf.netdev(index).ok_or("it has none".to_owned()));
        command::ip(&format!("link set {found} down"));
        command::ip(&format!("link set {found} name {name} mtu 1400 txqueuelen 777 alias spare"));
        command::ip(&format!("link property add dev {name} altname {name}-alt"));
        command::ip(&format!("link set {name} up"));
        pf.set(index, "trust on");
        vf
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/bus/pci/devices/{}/{name}", self.pf.address(self.index)))
    }
}

impl Hardware for Vf {
    fn look(&self) -> Option<String> {
        let netdev = Look::at(&Place::Host, &self.pf.netdev(self.index)?)?;
        let (row, driver) = (self.pf.row(self.index), self.pf.driver(self.index));
        let wanted = fs::read_to_string(self.file("driver_override")).ok()?;
        Some(format!("{row}; {driver:?}, {}; {netdev:?}", wanted.trim()))
    }

    fn options(&self) -> Value {
        let vlan = (100 + self.index).to_string();
        // As defaults they would be no error where they fail.
        let (spoofchk, trust) = ("on", "off");
        json!({"netdevice": self.pf.name, "vlan": vlan, "vlan_qos": "3", "max_tx_rate": "300", "mtu": "1300",
            "spoofchk": spoofchk, "trust": trust})
    }

    fn wish(&self) -> Value {
        json!({"vf": self.index.to_string()})
    }

    fn mac(&self) -> String {
        format!("02:42:0a:40:00:{:02x}", self.index)
    }

    fn netdev(&self, _: &str) -> String {
        self.name.clone()
    }

    fn check(&self, _: &Netns) {
        let row = self.pf.row(self.index);
        let vlan = &row["vlan_list"][0];
        assert_eq!((&vlan["vlan"], &vlan["qos"]), (&json!(100 + self.index), &json!(3)), "{row}");
        let others = (&row["rate"]["max_tx"], &row["spoofchk"], &row["trust"]);
        assert_eq!(others, (&json!(300), &json!(true), &json!(false)), "{row}");
        assert_eq!(row_mac(&row), self.mac(), "{row}");
    }
}

/// A PF that is down and has no VFs.
struct Bare(&'static Pf);

impl Bare {
    #[track_caller]
    fn new() -> Self {
        drop(bench().without_vfs());
        Self(&bench().pf)
    }
}

impl Hardware for Bare {
    fn look(&self) -> Option<String> {
        Some(format!("{:?}", Everything::of(self.0)))
    }

    fn options(&self) -> Value {
        json!({"netdevice": self.0.name, "vlan": "100", "vfs": "1"})
    }

    fn mac(&self) -> String {
        "02:42:0a:40:00:17".into()
    }

    fn netdev(&self, _: &str) -> String {
        self.0.netdev(0).expect("a netdev")
    }

    fn check(&self, _: &Netns) {
        let row = self.0.row(0);
        assert_eq!((self.0.count(), &row["vlan_list"][0]["vlan"]), (1, &json!(100)), "{row}");
    }
}

/// A bond that is down.
struct Bond;

const BOND: &str = "walkedbond";

impl Bond {
    #[track_caller]
    fn new() -> Self {
        // Else the module makes one of its own.
        command::run("modprobe", &["bonding", "max_bonds=0"]);
        let _ = command::attempt("ip", &["link", "del", BOND]);
        command::ip(&format!("link add {BOND} type bond mode active-backup miimon 50"));
        command::ip(&format!("link set {BOND} mtu 1400 alias uplink"));
        Self
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        let _ = command::attempt("ip", &["link", "del", BOND]);
    }
}

impl Hardware for Bond {
    fn look(&self) -> Option<String> {
        let mut netdevs = entries(&PathBuf::from("/sys/class/net"));
        netdevs.retain(|name| name.starts_with("dpt"));
        Some(format!("{:?}, {netdevs:?}", Look::at(&Place::Host, BOND)?))
    }

    fn options(&self) -> Value {
        json!({"netdevice": BOND})
    }

    fn mac(&self) -> String {
        "02:42:0a:40:00:18".into()
    }

    fn netdev(&self, endpoint: &str) -> String {
        format!("dpt{}", &endpoint[..10])
    }

    fn check(&self, netns: &Netns) {
        let look = Look::at(&netns.place(), "eth0").expect("a netdev");
        assert_eq!(look.mac, self.mac());
    }
}

/// Where this is `all`, each point is died and failed at, whatever Docker does about it.
const HOW_MUCH: &str = "DOCKER_PASSTHROUGH_TEST_FAULTS";

/// What happens at the points: at each of them one thing, by turns, as all is emulated here and takes its time.
/// The state file's and the counters' steps are those of whole netdevs, where all are walked.
fn cases(points: &[(String, usize)]) -> Vec<Case> {
    let all = env::var_os(HOW_MUCH).is_some_and(|much| much == "all");
    let mut cases = Vec::new();
    let worth = |(point, nth): &&(String, usize)| {
        let once = *nth == 1 && ["state.", "counters."].iter().all(|room| !point.starts_with(room));
        // Between a request and the answer before it nothing changes.
        point != "netlink.ask" && (point == "netlink.answered" || once)
    };
    for (turn, point) in points.iter().filter(worth).enumerate() {
        let failing = match point.0.as_str() {
            "netlink.answered" => Some(("netlink.ask".to_owned(), point.1)),
            // Between the last step and the answer nothing can fail.
            "call.done" => None,
            _ => Some(point.clone()),
        };
        let ways = [
            Some(Case::kill(point, Docker::GaveUp)),
            Some(Case::kill(point, Docker::Retries)),
            failing.as_ref().map(Case::fail),
        ];
        if all {
            cases.extend(ways.into_iter().flatten());
        } else {
            let mut ways = ways.into_iter().cycle().skip(turn % 3).flatten();
            cases.extend(ways.next());
        }
    }
    cases
}

/// What was walked so far.
static WALKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Walks calls; of some, only points that begin with one of these.
fn walk<H: Hardware>(calls: &[(Call, &[&str])], hardware: fn() -> H) {
    let (begun, mut bad, mut count) = (Instant::now(), Vec::new(), 0);
    for (call, rooms) in calls {
        let stage = Stage::on(hardware());
        let mut points = fate::points(&stage, *call);
        stage.driver.finish();
        drop(stage.hardware);
        WALKED.lock().expect("the points").extend(points.iter().map(|(point, _)| point.clone()));
        points.retain(|(point, _)| rooms.iter().any(|room| point.starts_with(room)));
        let cases = cases(&points);
        count += cases.len();
        bad.extend(fate::act(*call, &cases, || Stage::on(hardware())));
    }
    println!("{count} faults in {:.0} s", begun.elapsed().as_secs_f32());
    assert!(bad.is_empty(), "goes wrong, and maybe others: {bad:#?}");
}

fn a_vf_is_given() {
    let vfs = bench().with_vfs();
    walk(&[(Call::CreateEndpoint, &[""])], Vf::new);
    // They are no longer what they were.
    vfs.pf.set_count(0);
}

fn a_vf_comes_back() {
    let vfs = bench().with_vfs();
    walk(
        &[
            (Call::DeleteMoved, &[""]),
            (Call::DeleteUnmoved, &["release.vf_", "release.clean"]),
            (Call::DeleteAway, &["release.home", "vf."]),
            (Call::DeleteNetworkInUse, &["network.endpoint", "vf.fresh"]),
        ],
        Vf::new,
    );
    vfs.pf.set_count(0);
}

/// Its driver's probe fails for as long as it is tried to bind it.
fn a_vf_that_can_not_be_bound_is_when_it_is_wanted() {
    let vfs = bench().with_vfs();
    let stage = Stage::on(Vf::new());
    let mut scene = Scene::before(&stage, Call::DeleteMoved);
    let bound = || stage.hardware.pf.driver(stage.hardware.index);
    let before = bound();
    stage.plan.arm_each("vf.unbound", Action::Fail, 50);
    scene.done();
    assert_eq!(bound(), None);
    let tries = stage.plan.passed().iter().filter(|(point, _)| point == "vf.unbound").count();
    assert!((2..50).contains(&tries), "{tries} tries");
    stage.plan.disarm();
    scene.call = Call::CreateEndpoint;
    scene.done();
    assert_eq!(bound(), before);
    for call in [Call::DeleteUnmoved, Call::DeleteNetwork] {
        scene.call = call;
        scene.done();
    }
    stage.driver.finish();
    vfs.pf.set_count(0);
}

fn a_pf_gets_its_vfs_and_loses_them() {
    walk(&[(Call::CreateNetwork, &["pf.", "vfs."]), (Call::DeleteNetwork, &["pf.", "vfs."])], Bare::new);
}

fn a_bond_is_stood_in_for() {
    walk(
        &[
            (Call::CreateEndpoint, &["standin.", "assign.remembered"]),
            (Call::DeleteMoved, &["standin."]),
            (Call::DeleteAway, &["standin."]),
        ],
        Bond::new,
    );
}

/// A driver dies before it could remember what stands in for the bond, and no other container comes.
fn a_bond_is_left_alone() {
    let stage = Stage::on(Bond::new());
    let scene = Scene::before(&stage, Call::CreateEndpoint);
    stage.plan.arm(&Fault { point: "standin.made".into(), nth: 1, action: Action::Kill });
    scene.ask().expect_err("the driver died under it");
    assert_eq!(stage.driver.wait().signal(), Some(9));
    stage.plan.disarm();
    stage.serve();
    scene.end();
    stage.driver.finish();
}

/// After the others.
fn every_point_is_walked() {
    let (walked, written) = (WALKED.lock().expect("the points"), plan::written());
    let missed: Vec<_> = written.difference(&walked).filter(|point| plan::needs_hardware(point)).collect();
    assert!(missed.is_empty(), "nothing passes {missed:?}");
}
