//! Rx and Tx are exact to the frame and the byte.
use std::io::Write;

use docker_passthrough::{
    counters::{self, Counters, Hook, Plan, SpoofCheck},
    state::model::CounterSet,
};

use super::{
    lab::{Bpffs, DUT, DUT_MAC, FAR, Frames, Lab, Netns, Setup},
    packet::{Gso, frame, gso, macs, tap},
    traffic::From,
};

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Tcx];
const BULK: usize = 100_000_000;

fn lab(rx_hook: Hook, mtu: u32) -> Lab {
    Lab::new(Setup { rx_hook, mtu, ..Setup::default() })
}

/// Payloads of 18 to 1472 bytes in no order.
fn mixed_sizes(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(|n| 18 + n * 7919 % 1455)
}

#[test]
fn udp_of_mixed_sizes() {
    for hook in HOOKS {
        let lab = lab(hook, 1500);
        let sent = lab.udp(From::Container, mixed_sizes(100_000));
        let received = lab.udp(From::Far, mixed_sizes(100_000));
        lab.settle();
        assert_eq!((lab.tx(), lab.rx()), (sent, received), "{hook}");
        lab.assert_agrees_with_netdevs();
        assert_eq!(lab.spoofed(), 0);
        assert_eq!((lab.read().rx_hook, lab.read().tx_hook), (hook, Hook::Tcx));
    }
}

#[test]
fn jumbo_frames() {
    for hook in HOOKS {
        let lab = lab(hook, 9000);
        let sizes = || (0..5_000).map(|n| 1400 + n * 31 % 7573);
        let sent = lab.udp(From::Container, sizes());
        let received = lab.udp(From::Far, sizes());
        lab.settle();
        assert_eq!((lab.tx(), lab.rx()), (sent, received), "{hook}");
        lab.assert_agrees_with_netdevs();
    }
}

#[test]
fn vlan_tags_are_counted() {
    for hook in HOOKS {
        let lab = lab(hook, 1500);
        for from in [From::Container, From::Far] {
            let packets = lab.packets(from);
            for tags in [&[][..], &[100], &[100, 7]] {
                for payload in [46, 700, 1400] {
                    packets.send(&frame(macs(from), tags, payload));
                }
            }
        }
        lab.settle();
        let expected = Frames { packets: 9, bytes: 3 * (46 + 700 + 1400) + 9 * 14 + 3 * 4 + 3 * 8 };
        assert_eq!((lab.tx(), lab.rx()), (expected, expected), "{hook}");
        lab.assert_agrees_with_netdevs();
    }
}

/// Each end segments in software after TCX egress, so that the netdevs count frames as on a wire.
#[test]
fn tcp_bulk_segmented_on_the_wire() {
    for rx_hook in HOOKS {
        let lab = Lab::new(Setup { rx_hook, offloads: false, ..Setup::default() });
        let out = lab.tcp(From::Container, false, BULK);
        assert_eq!(lab.far.statistics(FAR).rx, out.sent, "the generator doesn't know what it sent");
        assert_eq!(lab.tx(), out.sent, "{rx_hook}");
        drop(out);
        lab.assert_agrees_with_netdevs();
        let before = lab.rx();
        let back = lab.tcp(From::Far, false, BULK);
        assert_eq!(lab.rx() - before, back.sent, "{rx_hook}");
        lab.assert_agrees_with_netdevs();
    }
}

/// The wire itself carries unsegmented packets: the sender's socket knows its segments.
#[test]
fn tcp_bulk_with_offloads() {
    for rx_hook in HOOKS {
        let lab = lab(rx_hook, 1500);
        let out = lab.tcp(From::Container, false, BULK);
        assert_eq!(lab.tx(), out.sent, "{rx_hook}");
        let whole = lab.container.statistics(DUT).tx.packets;
        assert!(whole < out.sent.packets / 4, "TSO was not at work: {whole}");
        drop(out);
        lab.settle();
        let (before, far_before) = (lab.rx(), lab.far.statistics(FAR).tx);
        let back = lab.tcp(From::Far, false, BULK);
        assert_eq!(lab.rx() - before, back.sent, "{rx_hook}");
        let whole = lab.far.statistics(FAR).tx.packets - far_before.packets;
        let is_whole = whole < back.sent.packets / 4;
        assert_eq!(is_whole, rx_hook == Hook::Tcx, "veth segments for XDP, and only then: {whole}");
    }
}

/// GRO merges what comes in segments.
#[test]
fn tcp_bulk_merged_by_gro() {
    let lab = Lab::new(Setup { gro: true, offloads: false, ..Setup::default() });
    let back = lab.tcp(From::Far, false, BULK);
    assert_eq!(lab.rx(), back.sent);
    lab.assert_agrees_with_netdevs();
}

/// IPv6 packets over 64 KiB have a header that is not on the wire.
#[test]
fn big_tcp() {
    let lab = Lab::new(Setup { ipv6: true, gro: true, offloads: false, ..Setup::default() });
    for (netns, name) in [(&lab.container, DUT), (&lab.far, FAR)] {
        netns.ip(&format!("link set {name} gso_max_size 180000 gro_max_size 180000"));
    }
    lab.tcp(From::Container, true, BULK);
    lab.tcp(From::Far, true, BULK);
    lab.assert_agrees_with_netdevs();
}

#[test]
fn udp_gso() {
    for hook in HOOKS {
        let lab = lab(hook, 1500);
        let sizes = [60_000, 1400, 1401, 100, 2800, 44_800, 33_333];
        let sent = lab.udp_gso(From::Container, 1400, &sizes);
        let received = lab.udp_gso(From::Far, 1400, &sizes);
        lab.settle();
        assert_eq!((lab.tx(), lab.rx()), (sent, received), "{hook}");
    }
}

#[test]
fn gso_asked_for_by_a_packet_socket() {
    for offloads in [false, true] {
        let lab = Lab::new(Setup { offloads, ..Setup::default() });
        let mut expected = Frames::default();
        for from in [From::Container, From::Far] {
            let packets = lab.packets(from).with_vnet_header();
            expected = Frames::default();
            for (kind, tags) in [
                (Gso::Tcp4, &[][..]),
                (Gso::Tcp4, &[100]),
                (Gso::Tcp6, &[]),
                (Gso::UdpL4, &[]),
                (Gso::Ufo, &[]),
            ] {
                for payload in [1201, 12_000, 12_001, 50_000] {
                    let (bytes, frames) = gso(macs(from), tags, kind, 1200, payload);
                    packets.send(&bytes);
                    expected += frames;
                }
            }
        }
        lab.settle();
        assert_eq!((lab.tx(), lab.rx()), (expected, expected), "offloads: {offloads}");
        if !offloads {
            lab.assert_agrees_with_netdevs();
        }
    }
}

/// Nobody has counted these packets' segments yet.
#[test]
fn gso_received_from_a_virtual_machine() {
    let netns = Netns::new("host", false);
    let mut tap = tap(&netns, "tap0");
    let bpffs = Bpffs::new();
    let counters = Counters::new(bpffs.path());
    counters.prepare().unwrap();
    let endpoint = "endpoint".parse().unwrap();
    let ifindex = netns.ifindex("tap0");
    let plan = Plan {
        ifindex,
        rx_hook: Hook::Tcx,
        spoof_check: SpoofCheck::Count(DUT_MAC),
        frags: true,
        counters: CounterSet::Basic,
    };
    netns.within(|| counters.attach(&endpoint, &plan)).unwrap();
    netns.ip("link set tap0 up");
    let mut expected = Frames::default();
    for (kind, tags) in [
        (Gso::Tcp4, &[][..]),
        (Gso::Tcp4, &[100]),
        (Gso::Tcp4, &[100, 7]),
        (Gso::Tcp6, &[]),
        (Gso::UdpL4, &[]),
    ] {
        for payload in [1201, 12_000, 12_001, 50_000] {
            let (bytes, frames) = gso(macs(From::Far), tags, kind, 1200, payload);
            assert_eq!(tap.write(&bytes).unwrap(), bytes.len());
            expected += frames;
        }
    }
    let rx = counters::read(&bpffs.path(), &endpoint).unwrap().counters.rx;
    assert_eq!(Frames { packets: rx.packets, bytes: rx.bytes }, expected);
}

#[test]
fn a_check_of_sources_changes_no_count() {
    for spoof_check in [SpoofCheck::Off, SpoofCheck::Count(DUT_MAC), SpoofCheck::Drop(DUT_MAC)] {
        let lab = Lab::new(Setup { spoof_check, ..Setup::default() });
        let sent = lab.udp(From::Container, mixed_sizes(1_000));
        let received = lab.udp(From::Far, mixed_sizes(1_000));
        lab.settle();
        assert_eq!((lab.tx(), lab.rx(), lab.spoofed()), (sent, received, 0), "{spoof_check:?}");
    }
}
