//! What a tenant may do with its VF: little, or on privileged networks much.
use crate::support::{driver::Driver, eventually, look::Place, trials};

use super::{
    bench::{Bench, Segment, bench},
    frames::{BROADCAST, Frame, Port, mac_of},
    pf::row_mac,
    tenant::{INSIDE, Network, Wish},
};

trials![
    unprivileged_tenants_are_held,
    privileged_tenants_are_not,
    explicit_settings_win,
    forged_frames_are_dropped_and_counted,
    forged_frames_of_the_privileged_pass_and_are_counted,
];

/// A MAC that no VF has.
const FOREIGN: &str = "02:66:00:00:00:01";

/// What a container with NET_ADMIN does inside to have a second MAC on the VF; answers whether it passes
/// frames, in and out.
#[track_caller]
fn macvlan_passes(bench: &Bench, place: &Place) -> (bool, bool) {
    place.run(&format!("ip link add link eth0 name mv0 address {FOREIGN} type macvlan mode bridge"));
    let up = place.attempt("ip link set mv0 up");
    let passes = if up.is_err() {
        (false, false)
    } else {
        let (inside, wire) = (Port::open(place, "mv0"), bench.listen());
        let (below, below_mac) = (Port::open(place, "eth0"), mac_of(place, "eth0"));
        let (foreign, wire_mac) = (FOREIGN.parse().unwrap(), mac_of(&bench.wire.place(), &bench.port));
        // Out: with its own MAC; the VF's own frame tells when it would have come.
        let out = Frame::new(BROADCAST, foreign);
        let witness = Frame::new(BROADCAST, below_mac);
        let heard = wire.heard_by(&witness, || {
            inside.send(&out);
            below.send(&witness);
        });
        let passes_out = heard.iter().any(|frame| frame.number == out.number);
        // In: to its own MAC alone; one to the VF's tells when it would have come.
        let (to, witness) = (Frame::new(foreign, wire_mac), Frame::new(below_mac, wire_mac));
        let heard = wire.tell(&below, std::slice::from_ref(&to), &witness);
        (!heard.is_empty(), passes_out)
    };
    place.run("ip link del mv0");
    passes
}

fn unprivileged_tenants_are_held() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 0);
    let network = Network::create(&driver, vfs.pf, &[("privileged", "0")]);
    let tenant = network.start(&Wish::vf(2));
    let row = vfs.pf.row(2);
    assert_eq!((&row["spoofchk"], &row["trust"]), (&true.into(), &false.into()), "{row}");
    tenant.address(&side.host(2));
    side.ping(&side.host(2), 2);
    let refused = tenant.place().attempt(&format!("ip link set eth0 address {FOREIGN}"));
    assert!(refused.is_err(), "the MAC is {}", tenant.look().mac);
    tenant.netns.ip("link set eth0 down");
    let _ = tenant.place().attempt(&format!("ip link set eth0 address {FOREIGN}"));
    tenant.netns.ip("link set eth0 up");
    assert_eq!((&tenant.look().mac, &row_mac(&vfs.pf.row(2))), (&tenant.mac, &tenant.mac));
    assert_eq!(macvlan_passes(bench, &tenant.place()), (false, false));
    side.ping(&side.host(2), 2);
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn privileged_tenants_are_not() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let side = Segment::new(bench, 0);
    let network = Network::create(&driver, vfs.pf, &[("privileged", "1")]);
    let tenant = network.start(&Wish::vf(2));
    let row = vfs.pf.row(2);
    assert_eq!((&row["spoofchk"], &row["trust"]), (&false.into(), &true.into()), "{row}");
    tenant.address(&side.host(2));
    side.ping(&side.host(2), 2);
    assert_eq!(macvlan_passes(bench, &tenant.place()), (true, true));
    for line in ["link set eth0 down", &format!("link set eth0 address {FOREIGN}"), "link set eth0 up"] {
        tenant.netns.ip(line);
    }
    assert_eq!(tenant.look().mac, FOREIGN);
    bench.wire.ip(&format!("neigh flush dev {}", side.netdev()));
    side.ping(&side.host(2), 2);
    assert!(bench.wire.ip(&format!("neigh show {}", side.host(2))).contains(FOREIGN));
    tenant.stop();
    // Nothing of all that is left to the next tenant, or to the host.
    vfs.assert_as_before();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn explicit_settings_win() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    for (options, spoofchk, trust) in [
        ([("privileged", "0"), ("spoofchk", "off"), ("trust", "on")], false, true),
        ([("privileged", "1"), ("spoofchk", "on"), ("trust", "off")], true, false),
    ] {
        let rest = [("vlan", "300"), ("vlan_qos", "6"), ("max_tx_rate", "400"), ("mtu", "1400")];
        let network = Network::create(&driver, vfs.pf, &[&options[..], &rest].concat());
        let tenant = network.start(&Wish::vf(1));
        let row = vfs.pf.row(1);
        assert_eq!((&row["spoofchk"], &row["trust"]), (&spoofchk.into(), &trust.into()), "{row}");
        let vlan = &row["vlan_list"][0];
        assert_eq!((&vlan["vlan"], &vlan["qos"]), (&300.into(), &6.into()), "{row}");
        assert_eq!(row["rate"]["max_tx"], 400, "{row}");
        assert_eq!(tenant.look().mtu, 1400);
        tenant.stop();
        network.remove();
        vfs.assert_as_before();
    }
    driver.finish();
}

/// QEMU's NIC shows the hardware's check and does not do it, so it is our program that is seen here.
fn forged_frames_are_dropped_and_counted() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let tenant = network.start(&Wish::default());
    let (port, wire) = (Port::open(&tenant.place(), INSIDE), bench.listen());
    let own = mac_of(&tenant.place(), INSIDE);
    let before = tenant.stats();
    let mut forged = vec![
        Frame::new(BROADCAST, FOREIGN.parse().unwrap()),
        Frame::new(BROADCAST, BROADCAST),
        Frame::tagged(BROADCAST, FOREIGN.parse().unwrap(), &[7]),
        Frame::new(BROADCAST, mac_of(&bench.wire.place(), &bench.port)),
    ];
    // One bit off, in each octet.
    for octet in 0..6 {
        let mut near = own;
        near.0[octet] ^= 1;
        forged.push(Frame::new(BROADCAST, near));
    }
    port.send_all(&forged);
    let honest: Vec<_> = (0..5).map(|_| Frame::new(BROADCAST, own)).collect();
    // A carrier that comes in the middle of a round loses some.
    let heard = eventually("all honest frames of one round", || {
        let heard = port.tell(&wire, &honest, &Frame::new(BROADCAST, own));
        let all = honest.iter().all(|frame| heard.iter().any(|other| other.number == frame.number));
        if all { Ok(heard) } else { Err(format!("{heard:?}")) }
    });
    let wrong = heard.iter().filter(|frame| frame.from != own).count();
    assert_eq!(wrong, 0, "{heard:?}");
    let after = tenant.stats();
    assert_eq!(after.spoofed() - before.spoofed(), forged.len() as u64, "{after:?}");
    // Dropped frames are not among the sent ones.
    let sent = after.traffic().tx_packets - before.traffic().tx_packets;
    assert!(sent >= 6 && sent.is_multiple_of(6), "{sent} for a multiple of 6 honest frames");
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn forged_frames_of_the_privileged_pass_and_are_counted() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100"), ("privileged", "1")]);
    let tenant = network.start(&Wish::default());
    let (port, wire) = (Port::open(&tenant.place(), INSIDE), bench.listen());
    let own = mac_of(&tenant.place(), INSIDE);
    let before = tenant.stats();
    let forged: Vec<_> = (0..4).map(|_| Frame::new(BROADCAST, FOREIGN.parse().unwrap())).collect();
    let honest = Frame::new(BROADCAST, own);
    let heard = eventually("all frames of one round", || {
        let heard = port.tell(&wire, &forged, &honest);
        if forged.iter().all(|frame| heard.iter().any(|other| other.number == frame.number)) {
            Ok(heard)
        } else {
            Err(format!("{heard:?}"))
        }
    });
    assert!(heard.iter().all(|frame| frame.tags == [100]), "{heard:?}");
    let after = tenant.stats();
    let (spoofed, sent) =
        (after.spoofed() - before.spoofed(), after.traffic().tx_packets - before.traffic().tx_packets);
    assert!(spoofed >= 4 && spoofed * 5 == sent * 4, "{spoofed} of {sent} frames, not 4 of 5");
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}
