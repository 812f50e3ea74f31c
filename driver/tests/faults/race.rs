//! A container that does something between two steps of the driver's.
use std::thread;

use crate::support::{docker_id, eventually, netns::Netns, trials};

use super::{
    nic::stage,
    plan::{Action, Fault},
    scene::{INSIDE, Scene},
};

trials![another_netdev_is_sent_back];

/// The netdev is found in the container, and moved from there by its number. The container moves it away, and has
/// another of that number: that is not to stay on the host, under the netdev's name.
fn another_netdev_is_sent_back() {
    let stage = stage();
    let (driver, scene) = (&stage.driver, Scene::living(&stage));
    let elsewhere = Netns::new(format!("e{}", &docker_id()[..8]));
    let ifindex = scene.netns.ifindex(INSIDE);
    stage.plan.arm(&Fault { point: "fetch.moving".into(), nth: 1, action: Action::Hold });
    thread::scope(|scope| {
        let asked = scope.spawn(|| driver.call("DeleteEndpoint", &scene.ids()));
        eventually("it is about to be moved", || {
            let passed = stage.plan.passed();
            passed.iter().any(|(point, _)| point == "fetch.moving").then_some(()).ok_or(format!("{passed:?}"))
        });
        scene.netns.ip(&format!("link set {INSIDE} netns {}", elsewhere.name()));
        scene.netns.ip(&format!("link add evil0 index {ifindex} type veth peer name evil1 index 900"));
        stage.plan.disarm();
        // By then it is elsewhere: it may come home in this call, or be looked for again.
        let _ = asked.join().expect("an answer");
    });
    stage.assert_clean();
    let left = scene.netns.ip("-d -o link show type veth");
    assert!(left.contains(&format!("{ifindex}: ")), "{left}");
    assert!(driver.log().contains("another netdev came in its place"), "{}", driver.log());
    scene.end();
    driver.terminate();
}
