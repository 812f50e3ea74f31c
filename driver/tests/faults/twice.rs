//! The driver dies again, or fails, while it puts right what was left by the last time.
use std::{os::unix::process::ExitStatusExt as _, thread, time::Duration};

use crate::support::{eventually, trials};

use super::{
    nic::stage,
    plan::{Action, Fault, Tell},
    scene::{Call, Hardware, Scene, Stage},
};

trials![
    an_assignment_is_undone,
    an_end_is_finished,
    what_came_home_meanwhile_is_put_right,
    what_the_kernel_tells_is_heard_again,
];

/// What a driver that starts has to put right.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// An assignment that Docker gave up.
    Assignment,
    /// An end that has begun, of an endpoint whose netdev is in the container.
    End,
    /// A netdev that came home while no driver ran.
    Home,
}

/// Requests to the kernel are alike: of so many one is enough.
const SOME: usize = 4;

fn an_assignment_is_undone() {
    walk(Left::Assignment);
}

fn an_end_is_finished() {
    walk(Left::End);
}

fn what_came_home_meanwhile_is_put_right() {
    walk(Left::Home);
}

fn walk(left: Left) {
    let stage = stage();
    let scene = leave(&stage, left);
    stage.serve();
    stage.assert_clean();
    let points = stage.plan.passed();
    scene.end();
    let walked = points.iter().filter(|(point, nth)| match point.as_str() {
        // Between an answer of the kernel's and the next request nothing changes.
        "netlink.answered" => false,
        "netlink.ask" => nth % SOME == 1,
        _ => true,
    });
    let walked: Vec<_> = walked.collect();
    let has = |name: &str| walked.iter().any(|(point, _)| point == name);
    assert!(has("look.network") && has("release.begin") && has("release.forgotten"), "{walked:?}");
    let mut died = 0;
    for &(point, nth) in &walked {
        let fault = |action| Fault { point: point.clone(), nth: *nth, action };
        died += usize::from(dies(&stage, left, &fault(Action::Kill)));
        fails(&stage, left, &fault(Action::Fail));
    }
    // What is asked beside other things is not always asked as often.
    assert!(died * 4 >= walked.len() * 3, "{died} of {} faults happened", walked.len());
    stage.driver.finish();
}

/// It dies before it is done, and the next one does it; whether it did.
fn dies<H: Hardware>(stage: &Stage<H>, left: Left, fault: &Fault) -> bool {
    let _tell = Tell(format!("{left:?}: {fault}"));
    let (driver, scene) = (&stage.driver, leave(stage, left));
    stage.plan.arm(fault);
    driver.begin(&["--look", "86400"]);
    let died = eventually("it dies, or is done", || match driver.ended() {
        Some(status) => {
            assert_eq!(status.signal(), Some(9), "{}", driver.log());
            Ok(true)
        }
        None => stage.is_clean().map(|()| false),
    });
    if !died {
        // It has not come there, or is about to.
        driver.kill();
    }
    stage.plan.disarm();
    stage.serve();
    stage.assert_clean();
    scene.end();
    died
}

/// It fails, and tries again.
fn fails<H: Hardware>(stage: &Stage<H>, left: Left, fault: &Fault) {
    let _tell = Tell(format!("{left:?}: {fault}"));
    let scene = leave(stage, left);
    stage.plan.arm(fault);
    stage.driver.serve_with(&["--look", "1"]);
    stage.assert_clean();
    stage.plan.disarm();
    scene.end();
}

/// As far as that, with no driver.
fn leave<H: Hardware>(stage: &Stage<H>, left: Left) -> Scene<'_, H> {
    let interrupted = |call, point: &str| {
        let scene = Scene::before(stage, call);
        stage.plan.arm(&Fault { point: point.into(), nth: 1, action: Action::Kill });
        scene.ask().expect_err("the driver died under it");
        assert_eq!(stage.driver.wait().signal(), Some(9));
        scene
    };
    let scene = match left {
        Left::Assignment => interrupted(Call::CreateEndpoint, "assign.counted"),
        Left::End => interrupted(Call::DeleteAway, "release.begin"),
        Left::Home => {
            let scene = Scene::before(stage, Call::DeleteMoved);
            stage.driver.kill();
            scene
        }
    };
    stage.plan.disarm();
    stage.docker_gave_up();
    scene
}

/// It dies as it hears that a netdev is home, and as it heeds that.
fn what_the_kernel_tells_is_heard_again() {
    let stage = stage();
    for point in ["watch.looking", "release.begin", "release.home", "release.given_back"] {
        let fault = Fault { point: point.into(), nth: 1, action: Action::Kill };
        let _tell = Tell(fault.to_string());
        stage.driver.kill();
        stage.plan.listen(None);
        stage.serve();
        let scene = Scene::living(&stage);
        // What was told of its beginning has been heeded by then.
        thread::sleep(Duration::from_secs(2));
        stage.plan.listen(Some(&fault));
        // Docker brings the netdev home, and says no more.
        scene.leave();
        assert_eq!(stage.driver.wait().signal(), Some(9));
        stage.plan.disarm();
        stage.serve();
        stage.assert_clean();
        scene.end();
    }
    stage.driver.finish();
}
