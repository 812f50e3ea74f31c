//! A call that hangs at one of its points is answered all the same, and holds up nobody else.
use std::{fs, thread, time::Duration};

use serde_json::json;

use crate::support::{
    assert_names, docker_id, eventually, http, nic::Nic, simulated, simulated::Container, trials,
};

use super::{
    fate,
    nic::stage,
    plan::{Action, Fault, Tell},
    scene::{Call, Scene},
};

trials![
    other_networks_go_on,
    looks_at_hundreds_that_hang_hold_up_no_call,
    hundreds_that_wait_hold_up_no_other,
    sigterm_does_not_wait_for_ever,
    who_asks_again_after_a_late_one_gets_all_of_it,
    what_the_kernel_tells_of_others_is_heeded,
    tidying_holds_up_no_look,
    a_network_that_takes_long_to_make_is_not_forgotten
];

/// How many hang at the same time: each waits for 10 s, most of them doing nothing.
const ASIDE: usize = 16;

/// What all networks share: the state file. They wait, and are answered.
fn is_shared(point: &str) -> bool {
    point.starts_with("state.")
}

fn other_networks_go_on() {
    let mut cases = Vec::new();
    for call in Call::ALL {
        let points = fate::points(&stage(), call).into_iter();
        let points = points.filter(|(point, nth)| *nth == 1 && point != "call.done");
        cases.extend(points.map(|(point, _)| (call, point)));
    }
    for some in cases.chunks(ASIDE) {
        thread::scope(|scope| {
            for (call, point) in some {
                scope.spawn(|| hangs(*call, point));
            }
        });
    }
}

fn hangs(call: Call, point: &str) {
    let fault = Fault { point: point.to_owned(), nth: 1, action: Action::Hang };
    let _tell = Tell(format!("{call:?}: {fault}"));
    let (stage, other) = (stage(), Nic::new());
    let (driver, scene) = (&stage.driver, Scene::before(&stage, call));
    stage.plan.arm(&fault);
    let (operation, body) = scene.request();
    let answer = thread::scope(|scope| {
        let asked = scope.spawn(|| driver.call(operation, &body));
        while stage.plan.passed().iter().all(|(passed, _)| passed != point) {
            assert!(!asked.is_finished(), "it was answered before {point}");
            thread::sleep(Duration::from_millis(20));
        }
        if is_shared(point) {
            let network = simulated::network(&docker_id(), &json!({"netdevice": other.name}));
            let complaint = driver.refused("CreateNetwork", &network);
            assert_names(&complaint, &["not done within"]);
        } else {
            let network = simulated::create_network(driver, &other);
            let container = Container::start(driver, &other, &network);
            other.ping(&other.near4(2), 1);
            container.stop();
            driver.done("DeleteNetwork", &json!({"NetworkID": network}));
        }
        driver.assert_alive();
        asked.join().expect("an answer")
    });
    // The kernel's answers are waited for no longer than for themselves, and then something else is tried.
    if !point.starts_with("netlink.") {
        assert_names(&answer.expect_err("it hangs"), &["not done within"]);
    }
    stage.plan.disarm();
    driver.kill();
    stage.serve();
    scene.done();
    scene.live_on();
}

/// How many networks a driver remembers when it starts.
const MANY: usize = 300;

/// Each look at one of them hangs, so that a driver which looks first would never answer.
fn looks_at_hundreds_that_hang_hold_up_no_call() {
    let (stage, other) = (stage(), Nic::new());
    let driver = &stage.driver;
    let scene = Scene::before(&stage, Call::DeleteUnmoved);
    driver.kill();
    let mut disk = stage.on_disk();
    let networks = disk["networks"].as_object_mut().expect("the networks");
    let network = networks[&scene.network].clone();
    while networks.len() < MANY {
        let mut another = network.clone();
        let endpoint = another["endpoints"][&scene.endpoint].take();
        another["options"]["netdevice"] = json!(format!("gone{}", networks.len()));
        another["endpoints"] = json!({docker_id(): endpoint});
        networks.insert(docker_id(), another);
    }
    fs::write(driver.state_dir.join("state.json"), disk.to_string()).expect("the state file");
    stage.plan.arm_each("look.network", Action::Hang, 2 * MANY);
    // No matter how busy the machine is: this is about what never comes.
    driver.serve_with(&["--look", "86400", "--call-timeout", "60"]);
    driver.assert_alive();
    let network = simulated::create_network(driver, &other);
    let container = Container::start(driver, &other, &network);
    other.ping(&other.near4(2), 1);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    scene.done();
    let passed = stage.plan.passed();
    assert!(passed.iter().any(|(point, _)| point == "look.network"), "no look was begun: {passed:?}");
    driver.terminate();
}

/// More than there are threads for what blocks.
const WAITING: usize = 600;

/// One of a network hangs, and hundreds wait for it: other networks go on.
fn hundreds_that_wait_hold_up_no_other() {
    let (stage, other) = (stage(), Nic::new());
    let (driver, scene) = (&stage.driver, Scene::before(&stage, Call::CreateEndpoint));
    stage.plan.arm(&Fault { point: "assign.chosen".into(), nth: 1, action: Action::Hold });
    let ask = |call: &str, body: &serde_json::Value| {
        let mut connection = http::Connection::open(&driver.socket).unwrap();
        connection.send_request("POST", &format!("/NetworkDriver.{call}"), body.to_string().as_bytes());
        connection
    };
    let (call, body) = scene.request();
    let mut asked = vec![ask(call, &body)];
    eventually("it hangs", || {
        let passed = stage.plan.passed();
        passed.iter().any(|(point, _)| point == "assign.chosen").then_some(()).ok_or(format!("{passed:?}"))
    });
    asked.extend((0..WAITING).map(|_| {
        let ids = simulated::ids(&scene.network, &docker_id());
        ask("DeleteEndpoint", &ids)
    }));
    let network = simulated::create_network(driver, &other);
    let container = Container::start(driver, &other, &network);
    other.ping(&other.near4(2), 1);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    stage.plan.disarm();
    scene.done();
    drop(asked);
    scene.live_on();
    driver.terminate();
}

/// What hangs is cut off, and the next driver goes on with it.
fn sigterm_does_not_wait_for_ever() {
    let stage = stage();
    let (driver, scene) = (&stage.driver, Scene::before(&stage, Call::CreateEndpoint));
    stage.plan.arm(&Fault { point: "assign.tagged".into(), nth: 1, action: Action::Hang });
    thread::scope(|scope| {
        let asked = scope.spawn(|| scene.ask());
        while stage.plan.passed().iter().all(|(passed, _)| passed != "assign.tagged") {
            thread::sleep(Duration::from_millis(20));
        }
        driver.terminate();
        // An error either way: its own, or that nobody is there any more.
        if let Ok(answer) = asked.join().expect("an answer or none") {
            assert_names(&answer.json().to_string(), &["not done within"]);
        }
    });
    stage.plan.disarm();
    stage.serve();
    scene.done();
    scene.live_on();
    driver.terminate();
}

/// A call that was answered as too late is undone. Who asks for the same meanwhile waits for that, and is not given
/// what is about to be undone.
fn who_asks_again_after_a_late_one_gets_all_of_it() {
    for (call, point) in [(Call::CreateEndpoint, "assign.done"), (Call::CreateNetwork, "network.remembered")]
    {
        let stage = stage();
        let (driver, scene) = (&stage.driver, Scene::before(&stage, call));
        let _tell = Tell(format!("{call:?}: {point}"));
        let (operation, body) = scene.request();
        stage.plan.arm(&Fault { point: point.into(), nth: 1, action: Action::Hold });
        assert_names(&driver.refused(operation, &body), &["not done within"]);
        thread::scope(|scope| {
            let again = scope.spawn(|| driver.call(operation, &body));
            // It waits by then.
            thread::sleep(Duration::from_millis(500));
            stage.plan.disarm();
            // The machine may be busy; then it was undone as well, and is made now.
            if let Err(complaint) = again.join().expect("an answer") {
                assert_names(&complaint, &["not done"]);
                scene.done();
            }
        });
        eventually("the late one is undone", || {
            if driver.log().contains("not done in time") { Ok(()) } else { Err(driver.log()) }
        });
        if call == Call::CreateEndpoint {
            stage.done("Join", &scene.join_body());
        }
        scene.live_on();
        driver.terminate();
    }
}

/// A look at one endpoint hangs, which the kernel told of: what it tells of another is heeded all the same.
fn what_the_kernel_tells_of_others_is_heeded() {
    let (stage, other) = (stage(), Nic::new());
    let driver = &stage.driver;
    let before = other.look();
    driver.kill();
    stage.plan.listen(None);
    stage.serve();
    let scene = Scene::living(&stage);
    let network = simulated::create_network(driver, &other);
    let container = Container::start(driver, &other, &network);
    // What was told of their beginnings has been heeded by then.
    thread::sleep(Duration::from_secs(2));
    stage.plan.listen(Some(&Fault { point: "look.endpoint".into(), nth: 1, action: Action::Hang }));
    // Docker brings them home, and says no more.
    scene.leave();
    eventually("the look hangs", || {
        let passed = stage.plan.passed();
        passed.iter().any(|(point, _)| point == "look.endpoint").then_some(()).ok_or(format!("{passed:?}"))
    });
    container.leave();
    container.move_out();
    eventually("the other's netdev is given back", || {
        let left = &stage.on_disk()["networks"][&network]["endpoints"];
        let over = *left == json!({}) && other.look() == before;
        if over { Ok(()) } else { Err(format!("{left}, {:?}", other.look())) }
    });
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.kill();
    stage.plan.disarm();
    stage.serve();
    stage.assert_clean();
    scene.end();
    driver.terminate();
}

/// Netdevs that nobody remembers are looked for, and that hangs: endpoints are looked at all the same.
fn tidying_holds_up_no_look() {
    let stage = stage();
    let (driver, scene) = (&stage.driver, Scene::living(&stage));
    driver.kill();
    stage.plan.arm(&Fault { point: "tidy.strays".into(), nth: 1, action: Action::Hang });
    driver.serve_with(&["--look", "1"]);
    let looks = || stage.plan.passed().iter().filter(|(point, _)| point == "look.network").count();
    eventually("it hangs", || {
        let passed = stage.plan.passed();
        passed.iter().any(|(point, _)| point == "tidy.strays").then_some(()).ok_or(format!("{passed:?}"))
    });
    let before = looks();
    eventually("looks go on", || if looks() > before + 1 { Ok(()) } else { Err(format!("{before}")) });
    driver.kill();
    stage.plan.disarm();
    stage.serve();
    scene.leave();
    scene.end();
    driver.terminate();
}

/// As a PF's VFs do, for longer than Docker is given to show what it has made. Until then it says that there is none.
fn a_network_that_takes_long_to_make_is_not_forgotten() {
    let (stage, nic) = (stage(), Nic::new());
    let driver = &stage.driver;
    driver.terminate();
    driver.serve_with(&["--look", "1", "--call-timeout", "60"]);
    let network = docker_id();
    stage.docker.has_no(&network);
    stage.plan.arm(&Fault { point: "network.remembered".into(), nth: 1, action: Action::Hold });
    thread::scope(|scope| {
        let body = simulated::network(&network, &json!({"netdevice": nic.name}));
        let asked = scope.spawn(move || driver.done("CreateNetwork", &body));
        thread::sleep(Duration::from_secs(17));
        assert!(!asked.is_finished(), "it was not held: {}", driver.log());
        stage.plan.disarm();
        asked.join().expect("a network");
    });
    // Who waited to forget it has had its turn.
    thread::sleep(Duration::from_secs(1));
    Container::start(driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.terminate();
}
