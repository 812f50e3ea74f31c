//! A VLAN is a wall: between containers, on the wire, and between one tenant of a VF and the next.
use std::thread;

use crate::support::{container::Container, docker::Engine, driver::Driver, trials};

use super::{
    bench::{Segment, bench},
    docker::{DockerNetwork, address},
    frames::{BROADCAST, Frame, Port, mac_of, vlan},
    tenant::{INSIDE, Network, Wish},
};

trials![
    two_vlans_on_one_pf,
    containers_cannot_hop_by_tags_of_their_own,
    a_vlan_does_not_leak_to_the_next_tenant,
];

/// A packet socket in a container, and its MAC.
#[track_caller]
fn port(container: &Container) -> (Port, docker_passthrough::device::mac::Mac) {
    (Port::open(&container.place(), "eth0"), mac_of(&container.place(), "eth0"))
}

fn two_vlans_on_one_pf() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let (red_side, blue_side) = (Segment::new(bench, 100), Segment::new(bench, 200));
    let red = DockerNetwork::create(engine, &driver, vfs.pf, &red_side, &[]);
    let blue = DockerNetwork::create(engine, &driver, vfs.pf, &blue_side, &["vlan_qos=3"]);
    let (first, second, other) = thread::scope(|scope| {
        let first = scope.spawn(|| red.run("first", &[]));
        let second = scope.spawn(|| red.run("second", &[]));
        (first.join().unwrap(), second.join().unwrap(), blue.run("other", &[]))
    });
    red_side.ping(&address(&first), 3);
    red_side.ping(&address(&second), 3);
    blue_side.ping(&address(&other), 3);
    first.sh(&format!("ping -c 3 -i 0.02 -W 5 {}", address(&second)));
    // Not even with an address of the other's subnet.
    assert_eq!(first.netdevs(), ["eth0"]);

    let wire = bench.listen();
    let ((one, one_mac), (two, _), (three, three_mac)) = (port(&first), port(&second), port(&other));
    let broadcast = Frame::new(BROADCAST, one_mac);
    let direct = Frame::new(three_mac, one_mac);
    // A neighbour hears it, as it was sent.
    let heard = one.tell(&two, &[], &broadcast);
    assert!(heard.is_empty(), "{heard:?}");
    // The wire has it with the tag.
    let last = Frame::new(BROADCAST, one_mac);
    let heard = one.tell(&wire, &[broadcast.clone(), direct.clone()], &last);
    assert!(heard.iter().any(|frame| frame.number == broadcast.number), "{heard:?}");
    assert!(heard.iter().all(|frame| frame.tags == [100]), "{heard:?}");
    // What the other VLAN's container hears of all that: nothing until the wire speaks in its VLAN.
    let speaker = Port::open(&blue_side.place(), blue_side.netdev());
    let speaker_mac = mac_of(&blue_side.place(), blue_side.netdev());
    let witness = Frame::new(BROADCAST, speaker_mac);
    let heard = speaker.tell(&three, &[], &witness);
    assert!(heard.is_empty(), "{heard:?}");
    let heard = three.heard_by(&Frame { tags: Vec::new(), ..witness }, || {
        one.send(&broadcast);
        one.send(&direct);
        let passed = one.tell(&wire, &[], &Frame::new(BROADCAST, one_mac));
        drop(passed);
        speaker.send(&witness);
    });
    assert!(heard.iter().all(|frame| frame.from == speaker_mac && frame.tags.is_empty()), "{heard:?}");
    // The priority is on the wire too.
    let priority = Frame::new(BROADCAST, three_mac);
    let heard = three.tell(&wire, std::slice::from_ref(&priority), &Frame::new(BROADCAST, three_mac));
    assert!(!heard.is_empty() && heard.iter().all(|frame| frame.tags == [(3 << 13) + 200]), "{heard:?}");
    assert_eq!(vlan(heard[0].tags[0]), 200);

    drop((first, second, other));
    red.remove();
    blue.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn containers_cannot_hop_by_tags_of_their_own() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let red = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let blue = Network::create(&driver, vfs.pf, &[("vlan", "200")]);
    let (hopper, target) = (red.start(&Wish::default()), blue.start(&Wish::default()));
    let (hop, hop_mac) = (Port::open(&hopper.place(), INSIDE), mac_of(&hopper.place(), INSIDE));
    let (ear, ear_mac) = (Port::open(&target.place(), INSIDE), mac_of(&target.place(), INSIDE));
    let (wire, blue_side) = (bench.listen(), Segment::new(bench, 200));
    let speaker = Port::open(&blue_side.place(), blue_side.netdev());
    let speaker_mac = mac_of(&blue_side.place(), blue_side.netdev());
    let mut attempts = Vec::new();
    for to in [BROADCAST, ear_mac, speaker_mac] {
        for tags in [&[200][..], &[200, 200], &[100, 200], &[0, 200], &[(3 << 13) + 200]] {
            attempts.push(Frame::tagged(to, hop_mac, tags));
        }
    }
    // The honest one is there, the others are in the hopper's own VLAN or nowhere.
    let honest = Frame::new(BROADCAST, hop_mac);
    let heard = hop.tell(&wire, &attempts, &honest);
    for frame in &heard {
        assert_eq!(frame.tags.first().map(|&tag| vlan(tag)), Some(100), "{frame:?}");
    }
    let witness = Frame::new(BROADCAST, speaker_mac);
    let heard = ear.heard_by(&witness, || {
        hop.send_all(&attempts);
        hop.tell(&wire, &[], &Frame::new(BROADCAST, hop_mac));
        speaker.send(&witness);
    });
    assert!(heard.is_empty(), "{heard:?}");
    drop(blue_side);
    hopper.stop();
    target.stop();
    red.remove();
    blue.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn a_vlan_does_not_leak_to_the_next_tenant() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let tagged = Network::create(&driver, vfs.pf, &[("vlan", "100"), ("vlan_qos", "5")]);
    let plain = Network::create(&driver, vfs.pf, &[]);
    let (red_side, plain_side) = (Segment::new(bench, 100), Segment::new(bench, 0));
    let wire = bench.listen();
    let red_speaker = Port::open(&red_side.place(), red_side.netdev());
    for round in 0..2 {
        let first = tagged.start(&Wish::vf(3));
        first.address(&red_side.host(2));
        red_side.ping(&red_side.host(2), 2);
        let (port, mac) = (Port::open(&first.place(), INSIDE), mac_of(&first.place(), INSIDE));
        let seen = Frame::new(BROADCAST, mac);
        let heard = port.tell(&wire, std::slice::from_ref(&seen), &Frame::new(BROADCAST, mac));
        assert!(!heard.is_empty() && heard.iter().all(|frame| frame.tags == [(5 << 13) + 100]), "{heard:?}");
        drop(port);
        first.stop();

        let next = plain.start(&Wish::vf(3));
        assert_eq!(next.vf, 3);
        next.address(&plain_side.host(2));
        plain_side.ping(&plain_side.host(2), 2);
        let (port, mac) = (Port::open(&next.place(), INSIDE), mac_of(&next.place(), INSIDE));
        let seen = Frame::new(BROADCAST, mac);
        let heard = port.tell(&wire, std::slice::from_ref(&seen), &Frame::new(BROADCAST, mac));
        assert!(!heard.is_empty() && heard.iter().all(|frame| frame.tags.is_empty()), "{heard:?}");
        // Neither the VLAN's frames come to it …
        let speaker = Port::open(&plain_side.place(), plain_side.netdev());
        let speaker_mac = mac_of(&plain_side.place(), plain_side.netdev());
        let foreign = [Frame::new(BROADCAST, speaker_mac), Frame::new(mac, speaker_mac)];
        let witness = Frame::new(BROADCAST, speaker_mac);
        let heard = port.heard_by(&witness, || {
            red_speaker.send_all(&foreign);
            speaker.send(&witness);
        });
        // QEMU's NIC lets a VF hear its own broadcasts.
        assert!(heard.iter().all(|frame| frame.from == mac), "round {round}: {heard:?}");
        // … nor do its pings get there.
        next.address(&red_side.host(3));
        let ping = format!("busybox ping -c 2 -W 1 -I eth0 {}", red_side.gateway());
        next.place().attempt(&ping).expect_err("an answer from the other VLAN");
        next.stop();
    }
    tagged.remove();
    plain.remove();
    driver.finish();
    vfs.assert_as_before();
}
