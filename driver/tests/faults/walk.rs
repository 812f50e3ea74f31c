//! Each call dies and fails at each of its points: afterwards the kernel, the state and Docker agree, the
//! call can be repeated, and nothing is left.
use std::{
    os::unix::process::ExitStatusExt as _,
    panic::{self, AssertUnwindSafe},
};

use crate::support::{eventually, trials};

use super::{
    plan::{Action, Fault, Tell},
    scene::{Call, Scene, Stage},
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

/// No need to go on after this many that went wrong.
const ENOUGH: usize = 8;

/// What Docker does about a call that the driver died under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Docker {
    /// It asks again, in time.
    Retries,
    /// It has told its user that it failed.
    GaveUp,
}

fn walk(call: Call) {
    let mut stage = Stage::new();
    let points = points(&stage, call);
    assert!(!points.is_empty(), "{call:?} passes no fault point");
    let mut bad = Vec::new();
    let mut try_one = |fault: Fault, docker: Option<Docker>| {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| match docker {
            Some(docker) => dies(&stage, call, &fault, docker),
            None => fails(&stage, call, &fault),
        }));
        if outcome.is_err() {
            bad.push(format!("{fault} {docker:?}"));
            assert!(bad.len() < ENOUGH, "{call:?} goes wrong at {bad:#?} and maybe others");
            // That one may be in no state for others.
            stage = Stage::new();
        }
    };
    for (at, (point, nth)) in points.iter().enumerate() {
        let fault = |action| Fault { point: point.clone(), nth: *nth, action };
        // Between an answer of the kernel's and the next request nothing changes.
        let next = points.get(at + 1).map(|(point, _)| point.as_str());
        if (point.as_str(), next) != ("netlink.answered", Some("netlink.ask")) {
            for docker in [Docker::Retries, Docker::GaveUp] {
                try_one(fault(Action::Kill), Some(docker));
            }
        }
        // Between the last step and the answer nothing can fail.
        if point != "call.done" {
            try_one(fault(Action::Fail), None);
        }
    }
    assert!(bad.is_empty(), "{call:?} goes wrong at {bad:#?}");
    stage.driver.finish();
}

/// The points that the call passes when nothing goes wrong.
pub fn points(stage: &Stage, call: Call) -> Vec<(String, usize)> {
    let scene = Scene::before(stage, call);
    stage.plan.disarm();
    scene.done();
    let points = stage.plan.passed();
    scene.live_on();
    points
}

fn dies(stage: &Stage, call: Call, fault: &Fault, docker: Docker) {
    let _tell = Tell(format!("{call:?}: {fault}, Docker {docker:?}"));
    let (driver, scene) = (&stage.driver, Scene::before(stage, call));
    stage.plan.arm(fault);
    scene.ask().expect_err("the driver died under it");
    assert_eq!(driver.wait().signal(), Some(9));
    stage.plan.disarm();
    if docker == Docker::Retries {
        stage.serve();
        scene.done();
        scene.done();
        return scene.live_on();
    }
    stage.docker_gave_up();
    // It knows nothing of the call, and takes nothing from a container that lives.
    let unheard = !stage.on_disk().to_string().contains("\"ending\":true");
    match call {
        Call::CreateNetwork => {
            stage.docker.has_no(&scene.network);
            stage.serve();
            let scene = scene.elsewhere();
            eventually("the NIC is free for another network", || {
                driver.call("CreateNetwork", &scene.create_network())
            });
            scene.live_on();
        }
        Call::CreateEndpoint => {
            stage.serve();
            // Docker deletes no endpoint that it does not have.
            let scene = scene.another();
            scene.done();
            scene.live_on();
        }
        Call::Join => {
            stage.serve();
            driver.done("DeleteEndpoint", &scene.container.ids());
            stage.assert_clean();
            scene.end();
        }
        Call::DeleteMoved | Call::DeleteUnmoved | Call::DeleteAway => {
            stage.docker.has_nobody_in(&scene.network);
            if unheard {
                scene.end_container();
            }
            stage.serve();
            stage.assert_clean();
            scene.end();
        }
        Call::DeleteNetwork | Call::DeleteNetworkInUse => {
            stage.docker.has_no(&scene.network);
            if unheard {
                scene.end_container();
            }
            stage.serve();
            stage.assert_clean();
            eventually("the network is forgotten", || {
                let disk = stage.on_disk();
                disk["networks"].get(&scene.network).map_or(Ok(()), |network| Err(network.to_string()))
            });
            scene.end();
        }
    }
}

fn fails(stage: &Stage, call: Call, fault: &Fault) {
    let _tell = Tell(format!("{call:?}: {fault}"));
    let (driver, scene) = (&stage.driver, Scene::before(stage, call));
    stage.plan.arm(fault);
    let (operation, body) = scene.request();
    let answer = driver.call(operation, &body);
    stage.plan.disarm();
    // Some steps are left undone with no more than a word in the log.
    if answer.is_ok() {
        return scene.live_on();
    }
    let disk = stage.on_disk();
    match call {
        Call::CreateNetwork => {
            assert_eq!(disk["networks"].get(&scene.network), None, "Docker does not have it");
            scene.done();
            scene.live_on();
        }
        Call::CreateEndpoint => {
            let endpoints = &disk["networks"][&scene.network]["endpoints"];
            assert_eq!(endpoints.get(&scene.container.endpoint), None, "Docker does not have it");
            stage.assert_clean();
            scene.done();
            scene.live_on();
        }
        Call::Join => {
            driver.done("DeleteEndpoint", &scene.container.ids());
            stage.assert_clean();
            scene.end();
        }
        // Docker logs it, and never asks again.
        Call::DeleteMoved | Call::DeleteUnmoved | Call::DeleteAway => {
            stage.assert_clean();
            scene.end();
        }
        Call::DeleteNetwork | Call::DeleteNetworkInUse => {
            scene.done();
            stage.assert_clean();
            scene.end();
        }
    }
}
