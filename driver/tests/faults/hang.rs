//! A call that hangs at one of its points is answered all the same, and holds up nobody else.
use std::thread;

use crate::support::{assert_names, nic::Nic, simulated, simulated::Container, trials};

use super::{
    plan::{Action, Fault, Tell},
    scene::{Call, Scene, Stage},
    walk,
};

trials![other_networks_go_on];

/// Calls that do most, each of which is to hang at each of its points.
const CALLS: [Call; 4] =
    [Call::CreateNetwork, Call::CreateEndpoint, Call::DeleteMoved, Call::DeleteNetworkInUse];

/// What all networks share: the state file, and the choice of a netdevice. They wait, and are answered.
fn is_shared(point: &str) -> bool {
    point.starts_with("state.") || point == "network.chosen"
}

fn other_networks_go_on() {
    for call in CALLS {
        let mut points = walk::points(&Stage::new(), call);
        points.retain(|(point, nth)| *nth == 1 && point != "call.done");
        // Each waits for 10 s, most of them doing nothing.
        for some in points.chunks(12) {
            thread::scope(|scope| {
                for (point, _) in some {
                    scope.spawn(move || hangs(call, point));
                }
            });
        }
    }
}

fn hangs(call: Call, point: &str) {
    let fault = Fault { point: point.to_owned(), nth: 1, action: Action::Hang };
    let _tell = Tell(format!("{call:?}: {fault}"));
    let (stage, other) = (Stage::new(), Nic::new());
    let (driver, scene) = (&stage.driver, Scene::before(&stage, call));
    stage.plan.arm(&fault);
    let (operation, body) = scene.request();
    let answer = thread::scope(|scope| {
        let asked = scope.spawn(|| driver.call(operation, &body));
        while stage.plan.passed().iter().all(|(passed, _)| passed != point) {
            assert!(!asked.is_finished(), "it was answered before {point}");
            thread::sleep(std::time::Duration::from_millis(20));
        }
        if is_shared(point) {
            let network = simulated::network(
                &crate::support::docker_id(),
                &serde_json::json!({"netdevice": other.name}),
            );
            let complaint = driver.refused("CreateNetwork", &network);
            assert_names(&complaint, &["not done within"]);
        } else {
            let network = simulated::create_network(driver, &other);
            let container = Container::start(driver, &other, &network);
            other.ping(&other.near4(2), 1);
            container.stop();
            driver.done("DeleteNetwork", &serde_json::json!({"NetworkID": network}));
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
