//! What becomes of a call that the driver dies or fails under.
use std::{
    os::unix::process::ExitStatusExt as _,
    panic::{self, AssertUnwindSafe},
};

use crate::support::eventually;

use super::{
    plan::{Action, Fault, Tell},
    scene::{Call, Hardware, Scene, Stage},
};

/// No need to go on after this many that went wrong.
const ENOUGH: usize = 8;

/// What Docker does about a call that the driver died under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Docker {
    /// It asks again, in time.
    Retries,
    /// It has told its user that it failed.
    GaveUp,
}

/// One fault, and what Docker does about it; none if the driver fails, and lives.
#[derive(Clone, Debug)]
pub struct Case {
    pub fault: Fault,
    pub docker: Option<Docker>,
}

impl Case {
    /// The driver dies there.
    pub fn kill((point, nth): &(String, usize), docker: Docker) -> Self {
        let fault = Fault { point: point.clone(), nth: *nth, action: Action::Kill };
        Self { fault, docker: Some(docker) }
    }

    /// The driver fails there.
    pub fn fail((point, nth): &(String, usize)) -> Self {
        Self { fault: Fault { point: point.clone(), nth: *nth, action: Action::Fail }, docker: None }
    }
}

/// Has them happen one after the other; those that went wrong. The stage is made anew after each of these.
pub fn act<H: Hardware>(call: Call, cases: &[Case], make: impl Fn() -> Stage<H>) -> Vec<String> {
    let (mut stage, mut bad) = (make(), Vec::new());
    for Case { fault, docker } in cases {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| match docker {
            Some(docker) => dies(&stage, call, fault, *docker),
            None => fails(&stage, call, fault),
        }));
        if outcome.is_err() {
            let log = stage.driver.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "--- its driver's log ---\n{}\n---",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
            bad.push(format!("{call:?}: {fault} {docker:?}"));
            if bad.len() == ENOUGH {
                return bad;
            }
            // That one may be in no state for others.
            stage = make();
        }
    }
    stage.driver.finish();
    bad
}

/// The points that the call passes when nothing goes wrong.
pub fn points<H: Hardware>(stage: &Stage<H>, call: Call) -> Vec<(String, usize)> {
    let scene = Scene::before(stage, call);
    stage.plan.disarm();
    scene.done();
    let points = stage.plan.passed();
    scene.live_on();
    points
}

fn dies<H: Hardware>(stage: &Stage<H>, call: Call, fault: &Fault, docker: Docker) {
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
            eventually("the hardware is free for another network", || {
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
            stage.done("DeleteEndpoint", &scene.ids());
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

fn fails<H: Hardware>(stage: &Stage<H>, call: Call, fault: &Fault) {
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
            assert_eq!(endpoints.get(&scene.endpoint), None, "Docker does not have it");
            stage.assert_clean();
            scene.done();
            scene.live_on();
        }
        Call::Join => {
            stage.done("DeleteEndpoint", &scene.ids());
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
