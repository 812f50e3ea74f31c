//! The driver dies under a real engine, between any two of its steps. The engine asks the next driver; where the
//! request had been sent, it has nothing left to send, and its user is told to try again, which works.
use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt as _, thread, time::Duration};

use crate::support::{
    container::Network,
    docker::{Engine, IMAGE},
    driver::{Driver, entries},
    eventually, eventually_within,
    nic::Nic,
    trials,
};

use super::plan::{Action, Fault, Plan, Tell};

trials![dies_under_docker_run, dies_under_docker_network_create_and_rm];

/// Requests to the kernel are alike, and so are the steps of the state file's write but for its taking effect.
const ALIKE: [&str; 2] = ["netlink.", "state."];
const TELLING: [&str; 2] = ["state.begin", "state.renamed"];

/// The points to die at: each once for each call.
fn chosen(passed: Vec<(String, usize)>) -> Vec<(String, usize)> {
    let mut seen = BTreeSet::new();
    let (mut kept, mut call) = (Vec::new(), 0);
    for (point, nth) in passed {
        let first = seen.insert((call, point.clone()));
        if point == "call.done" {
            call += 1;
        }
        let is_alike = ALIKE.iter().any(|room| point.starts_with(room));
        if first && (!is_alike || TELLING.contains(&point.as_str())) {
            kept.push((point, nth));
        }
    }
    kept
}

/// What the engine says of a request that it has nothing left of.
const TRY_AGAIN: &str = "the body is empty, as it is when Docker asks again";

/// Who had got all and was not told is believed to be about to come, for half a minute.
const LONGEST: Duration = Duration::from_secs(90);

struct Lab {
    engine: Engine,
    nic: Nic,
    driver: Driver,
    plan: Plan,
    before: String,
}

impl Lab {
    fn new() -> Self {
        let (engine, nic) = (Engine::start(&[]), Nic::new());
        let driver = Driver::stopped(&engine.host());
        let plan = Plan::of(&driver);
        driver.serve();
        let before = format!("{:?}", nic.look());
        Self { engine, nic, driver, plan, before }
    }

    /// The points that `work` passes.
    fn points<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<(String, usize)>) {
        self.plan.disarm();
        let done = work();
        (done, chosen(self.plan.passed()))
    }

    /// Has the driver die at the point while the engine does `work`, starts the next one at once, and waits until
    /// nothing is left of it; whether the engine got it done.
    fn dies(&self, (point, nth): &(String, usize), work: impl FnOnce() -> Result<(), String> + Send) -> bool {
        let fault = Fault { point: point.clone(), nth: *nth, action: Action::Kill };
        let _tell = Tell(fault.to_string());
        self.plan.arm(&fault);
        let said = thread::scope(|scope| {
            let working = scope.spawn(work);
            assert_eq!(self.driver.wait().signal(), Some(9));
            self.plan.disarm();
            self.driver.serve();
            working.join().expect("the engine answers")
        });
        if let Err(complaint) = &said {
            assert!(complaint.contains(TRY_AGAIN), "{complaint}");
        }
        eventually_within(LONGEST, "the NIC is as it was, and nobody has it", || {
            let (now, pins) = (format!("{:?}", self.nic.look()), entries(&self.driver.bpffs));
            let stats = self.driver.stats();
            if now == self.before && pins.is_empty() && stats.is_empty() {
                Ok(())
            } else {
                Err(format!("{now}, {pins:?}, {stats:?}"))
            }
        });
        said.is_ok()
    }
}

fn dies_under_docker_run() {
    let lab = Lab::new();
    let network = Network::create(&lab.engine, &lab.driver, &lab.nic, &["-o", "mtu=1300"]);
    let run = || {
        let reached = format!("ping -c 1 -W 5 {}", lab.nic.far4());
        let mac = ["--mac-address", "02:42:0a:40:00:18"];
        let command = [IMAGE, "sh", "-c", &reached];
        let said =
            lab.engine.attempt(&[&["run", "--rm", "--network", &network.name], &mac[..], &command].concat());
        said.map(|said| assert!(said.contains(" 0% packet loss"), "{said}"))
    };
    let (done, points) = lab.points(run);
    done.unwrap();
    for must in
        ["assign.remembered", "assign.counted", "join.remembered", "release.home", "release.forgotten"]
    {
        assert!(points.iter().any(|(point, _)| point == must), "{must} is not in {points:?}");
    }
    // Its name is written once, some time after it was made: no later run passes the points of that.
    let state = lab.driver.state_dir.join("state.json");
    eventually("the network's name is remembered", || {
        let state = fs::read_to_string(&state).unwrap_or_default();
        if state.contains(&network.name) { Ok(()) } else { Err(state) }
    });
    let (done, points) = lab.points(run);
    done.unwrap();
    let mut done = 0;
    for point in &points {
        if lab.dies(point, run) {
            done += 1;
        } else {
            run().unwrap();
        }
    }
    // Who ends a container has it ended, whatever becomes of the driver.
    assert!(done >= 5, "{done} of {}", points.len());
    network.remove();
    lab.driver.finish();
}

fn dies_under_docker_network_create_and_rm() {
    let lab = Lab::new();
    let (name, netdevice) = (format!("net-{}", lab.nic.name), format!("netdevice={}", lab.nic.name));
    let create = || {
        let create = ["network", "create", "-d", &lab.driver.name, "-o", &netdevice, &name];
        lab.engine.attempt(&create).map(drop)
    };
    let remove = || lab.engine.attempt(&["network", "rm", &name]).map(drop);
    // One that Docker gave up, or whose removal it did not try again, is forgotten when Docker has said twice that it is
    // not there.
    let at_last = |work: &dyn Fn() -> Result<(), String>| eventually_within(LONGEST, "it works", work);
    let (done, points) = lab.points(create);
    done.unwrap();
    assert!(points.iter().any(|(point, _)| point == "network.remembered"), "{points:?}");
    remove().unwrap();
    for point in &points {
        if !lab.dies(point, create) {
            at_last(&create);
        }
        remove().unwrap();
    }
    create().unwrap();
    let (done, points) = lab.points(remove);
    done.unwrap();
    assert!(points.iter().any(|(point, _)| point == "network.forgotten"), "{points:?}");
    for point in &points {
        at_last(&create);
        assert!(lab.dies(point, remove), "Docker goes on past the error");
    }
    at_last(&create);
    remove().unwrap();
    let disk = fs::read_to_string(lab.driver.state_dir.join("state.json")).unwrap();
    assert!(!disk.contains(&lab.nic.name), "{disk}");
    lab.driver.finish();
}
