//! Each call dies and fails at each of its points: afterwards the kernel, the state and Docker agree, the
//! call can be repeated, and nothing is left.
use std::{fs, time::Duration};

use crate::support::{eventually, eventually_within, trials};

use super::{
    fate::{Case, Docker, act, points},
    nic::stage,
    plan::{Action, Fault},
    scene::{Call, Scene},
};

trials![
    network_is_created,
    endpoint_is_created,
    container_joins,
    endpoint_is_deleted,
    endpoint_that_never_had_it_is_deleted,
    endpoint_that_still_has_it_is_deleted,
    network_is_deleted,
    network_in_use_is_deleted,
    what_can_not_be_taken_back_is_later,
    only_dockers_word_ends_a_network,
];

fn network_is_created() {
    walk(Call::CreateNetwork);
}

fn endpoint_is_created() {
    walk(Call::CreateEndpoint);
}

fn container_joins() {
    walk(Call::Join);
}

fn endpoint_is_deleted() {
    walk(Call::DeleteMoved);
}

fn endpoint_that_never_had_it_is_deleted() {
    walk(Call::DeleteUnmoved);
}

fn endpoint_that_still_has_it_is_deleted() {
    walk(Call::DeleteAway);
}

fn network_is_deleted() {
    walk(Call::DeleteNetwork);
}

fn network_in_use_is_deleted() {
    walk(Call::DeleteNetworkInUse);
}

/// A file is in place when its write fails, and taking it back fails too.
fn what_can_not_be_taken_back_is_later() {
    let stage = stage();
    stage.driver.terminate();
    stage.driver.serve_with(&["--look", "1"]);
    let scene = Scene::before(&stage, Call::CreateNetwork);
    let fault = |point: &str, nth| Fault { point: point.into(), nth, action: Action::Fail };
    stage.plan.arm_all([fault("state.renamed", 1), fault("state.begin", 2)]);
    let answer = scene.ask().unwrap().json().to_string();
    assert!(answer.contains("state.json"), "{answer}");
    let remembered = || fs::read_to_string(stage.driver.state_dir.join("state.json")).unwrap();
    assert!(remembered().contains(&scene.network));
    stage.plan.disarm();
    eventually_within(Duration::from_mins(1), "the network is forgotten", || {
        let file = remembered();
        if file.contains(&scene.network) { Err(file) } else { Ok(()) }
    });
    stage.driver.finish();
}

/// It is old enough to have been seen by Docker, and nobody has anything of it: all that it needs to be forgotten
/// is that Docker says twice that it is not there.
fn only_dockers_word_ends_a_network() {
    let stage = stage();
    let scene = Scene::before(&stage, Call::DeleteNetwork);
    stage.driver.terminate();
    stage.docker_gave_up();
    stage.driver.serve_with(&["--look", "1"]);
    let is_known = || stage.on_disk()["networks"].get(&scene.network).is_some();
    let asked_again = || {
        let before = stage.docker.asked();
        eventually("Docker is asked", || {
            let asked = stage.docker.asked() - before;
            if asked >= 4 { Ok(()) } else { Err(format!("{asked} times")) }
        });
    };
    // An error of its own.
    asked_again();
    assert!(is_known());
    stage.docker.away_while(|| std::thread::sleep(Duration::from_secs(4)));
    assert!(is_known());
    asked_again();
    assert!(is_known());
    stage.docker.has_no(&scene.network);
    eventually("it is forgotten", || if is_known() { Err(stage.on_disk().to_string()) } else { Ok(()) });
    stage.driver.terminate();
}

fn walk(call: Call) {
    let points = points(&stage(), call);
    assert!(!points.is_empty(), "{call:?} passes no fault point");
    let mut cases = Vec::new();
    for (at, point) in points.iter().enumerate() {
        // Between an answer of the kernel's and the next request nothing changes.
        let next = points.get(at + 1).map(|(point, _)| point.as_str());
        if (point.0.as_str(), next) != ("netlink.answered", Some("netlink.ask")) {
            cases.extend([Docker::Retries, Docker::GaveUp].map(|docker| Case::kill(point, docker)));
        }
        // Between the last step and the answer nothing can fail.
        if point.0 != "call.done" {
            cases.push(Case::fail(point));
        }
    }
    let bad = act(call, &cases, stage);
    assert!(bad.is_empty(), "goes wrong, and maybe others: {bad:#?}");
}
