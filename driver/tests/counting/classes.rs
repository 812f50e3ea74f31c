//! `counters=detailed`: each frame is in the classes that it belongs to, and in no other.
use std::{
    io::Write,
    time::{Duration, Instant},
};

use docker_passthrough::{
    counters::{self, Counters, Hook, Plan, SpoofCheck},
    device::mac::Mac,
    state::model::CounterSet,
};
use driver_common::Detailed;

use super::{
    lab::{Bpffs, DUT, DUT_MAC, FAR, FAR_MAC, Frames, Lab, Netns, Setup, json, sh},
    packet::{Gso, Packets, frame, gso, macs, tun},
    traffic::From,
};

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Tcx];
const DIRECTIONS: [From; 2] = [From::Container, From::Far];

const ALL: Mac = Mac([0xff; 6]);
const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 0x77]);

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

fn setup(rx_hook: Hook) -> Setup {
    Setup { rx_hook, counters: CounterSet::Detailed, ..Setup::default() }
}

/// What differs from `before`.
fn since(after: Detailed, before: Detailed) -> Detailed {
    let (after, before) = (words(after), words(before));
    detailed(std::array::from_fn(|n| after[n] - before[n]))
}

fn plus(some: Detailed, others: Detailed) -> Detailed {
    let (some, others) = (words(some), words(others));
    detailed(std::array::from_fn(|n| some[n] + others[n]))
}

const CLASSES: usize = size_of::<Detailed>() / 8;

fn words(of: Detailed) -> [u64; CLASSES] {
    // SAFETY: nothing but so many words.
    unsafe { std::mem::transmute(of) }
}

fn detailed(words: [u64; CLASSES]) -> Detailed {
    // SAFETY: nothing but so many words.
    unsafe { std::mem::transmute(words) }
}

/// Each frame has one destination, one EtherType and one size.
#[track_caller]
fn assert_sums(of: &Detailed, packets: u64) {
    assert_eq!(of.unicast + of.multicast + of.broadcast, packets, "{of:?}");
    assert_eq!(of.ipv4 + of.ipv6 + of.arp + of.other_ethertype, packets, "{of:?}");
    assert_eq!(words(*of)[11..].iter().sum::<u64>(), packets, "{of:?}");
}

impl Lab {
    /// What `send` adds to the counters of one direction, once these frames are counted.
    #[track_caller]
    fn counted(&self, from: From, packets: u64, send: impl FnOnce()) -> Detailed {
        let total = || match from {
            From::Container => self.tx().packets,
            From::Far => self.rx().packets,
        };
        let (before, classes) = (total(), self.classes(from));
        send();
        let deadline = Instant::now() + Duration::from_secs(10);
        while total() < before + packets {
            assert!(Instant::now() < deadline, "{} of {packets} frames are counted", total() - before);
        }
        let counted = since(self.classes(from), classes);
        assert_sums(&counted, total() - before);
        counted
    }
}

/// Puts a frame of this length in its class.
fn sized(mut of: Detailed, length: usize, packets: u64) -> Detailed {
    let class = match length + 4 {
        ..=64 => &mut of.pkts_64_octets,
        65..=127 => &mut of.pkts_65_to_127_octets,
        128..=255 => &mut of.pkts_128_to_255_octets,
        256..=511 => &mut of.pkts_256_to_511_octets,
        512..=1023 => &mut of.pkts_512_to_1023_octets,
        1024..=1518 => &mut of.pkts_1024_to_1518_octets,
        1519.. => &mut of.pkts_1519_to_max_octets,
    };
    *class += packets;
    of
}

/// An Ethernet frame; `payload` follows its last EtherType.
fn ethernet(macs: (Mac, Mac), tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(macs, tags, 0);
    bytes.truncate(bytes.len() - 2);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet of nobody's; `fragment` is flags and offset.
fn ipv4(protocol: u8, fragment: u16, options: usize, payload: usize) -> Vec<u8> {
    let header = 20 + options;
    let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    bytes.extend(u16::try_from(header + payload).unwrap().to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 10, 9, 0, 3, 10, 9, 0, 4]);
    bytes.resize(header, 1);
    bytes.resize(header + payload, 0x55);
    bytes
}

/// An IPv6 packet of nobody's, with extension headers: what each is, and its bytes after the first.
fn ipv6(extensions: &[(u8, &[u8])], last: u8, payload: usize) -> Vec<u8> {
    let length: usize = extensions.iter().map(|(_, rest)| 1 + rest.len()).sum();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(length + payload).unwrap().to_be_bytes());
    bytes.extend([extensions.first().map_or(last, |first| first.0), 64]);
    bytes.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    bytes.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    for (index, (_, rest)) in extensions.iter().enumerate() {
        bytes.push(extensions.get(index + 1).map_or(last, |next| next.0));
        bytes.extend(*rest);
    }
    bytes.resize(bytes.len() + payload, 0x55);
    bytes
}

/// Options that are padding: 8 bytes, and 16.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
const LONGER: [u8; 15] = [1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Of 24 bytes, which this header alone counts in fours.
const SIGNED: [u8; 23] = [4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const FIRST_FRAGMENT: [u8; 7] = [0, 0, 1, 0, 0, 0, 9];
const LATER_FRAGMENT: [u8; 7] = [0, 1, 0x41, 0, 0, 0, 9];

/// What may follow an EtherType: a name, the EtherType, the bytes, and what is counted.
fn payloads() -> Vec<(&'static str, u16, Vec<u8>, Detailed)> {
    const V4: u16 = 0x0800;
    const V6: u16 = 0x86dd;
    let none = Detailed::default();
    let (ipv4_, ipv6_) = (Detailed { ipv4: 1, ..none }, Detailed { ipv6: 1, ..none });
    let (tcp4, udp4) = (Detailed { tcp: 1, ..ipv4_ }, Detailed { udp: 1, ..ipv4_ });
    let (tcp6, udp6) = (Detailed { tcp: 1, ..ipv6_ }, Detailed { udp: 1, ..ipv6_ });
    let icmp4 = Detailed { icmp: 1, ..ipv4_ };
    let icmp6 = Detailed { icmp: 1, ..ipv6_ };
    let other = Detailed { other_ethertype: 1, ..none };
    let many = |count: usize| vec![(DESTINATION, &PADDING[..]); count];
    vec![
        ("a local experiment", 0x88b5, vec![0; 60], other),
        ("LLC", 60, vec![0x42; 60], other),
        ("ARP", 0x0806, [&[0, 1, 8, 0, 6, 4, 0, 2][..], &[0; 20]].concat(), Detailed { arp: 1, ..none }),
        ("an ARP's beginning", 0x0806, vec![0; 8], Detailed { arp: 1, ..none }),
        ("TCP", V4, ipv4(TCP, 0x4000, 0, 20), tcp4),
        ("UDP", V4, ipv4(UDP, 0, 0, 600), udp4),
        ("ICMP", V4, ipv4(ICMP, 0, 0, 64), icmp4),
        ("SCTP", V4, ipv4(SCTP, 0, 0, 64), ipv4_),
        ("ICMPv6 in IPv4", V4, ipv4(ICMPV6, 0, 0, 64), ipv4_),
        ("IPv4 options", V4, ipv4(TCP, 0, 40, 20), tcp4),
        ("a first fragment", V4, ipv4(UDP, 0x2000, 0, 1400), udp4),
        ("a later fragment", V4, ipv4(UDP, 0x00b9, 0, 100), udp4),
        ("an IPv4 header's beginning", V4, ipv4(TCP, 0, 0, 0)[..12].to_vec(), tcp4),
        ("TCP over IPv6", V6, ipv6(&[], TCP, 20), tcp6),
        ("UDP over IPv6", V6, ipv6(&[], UDP, 300), udp6),
        ("ICMPv6", V6, ipv6(&[], ICMPV6, 64), icmp6),
        ("ICMP in IPv6", V6, ipv6(&[], ICMP, 64), ipv6_),
        ("SCTP over IPv6", V6, ipv6(&[], SCTP, 64), ipv6_),
        ("nothing over IPv6", V6, ipv6(&[], 59, 0), ipv6_),
        ("hop by hop", V6, ipv6(&[(HOP_BY_HOP, &PADDING)], ICMPV6, 64), icmp6),
        ("a longer one", V6, ipv6(&[(HOP_BY_HOP, &LONGER)], TCP, 64), tcp6),
        ("two", V6, ipv6(&[(DESTINATION, &LONGER), (ROUTING, &PADDING)], UDP, 64), udp6),
        ("authenticated", V6, ipv6(&[(AUTHENTICATION, &SIGNED)], TCP, 64), tcp6),
        ("the first of IPv6's", V6, ipv6(&[(FRAGMENT, &FIRST_FRAGMENT)], UDP, 64), udp6),
        ("a later one of IPv6's", V6, ipv6(&[(FRAGMENT, &LATER_FRAGMENT)], UDP, 64), udp6),
        (
            "the first, with options",
            V6,
            ipv6(&[(FRAGMENT, &FIRST_FRAGMENT), (DESTINATION, &PADDING)], UDP, 64),
            udp6,
        ),
        (
            "a later one of what had options: its first bytes are no header",
            V6,
            ipv6(&[(FRAGMENT, &LATER_FRAGMENT), (DESTINATION, &PADDING)], UDP, 64),
            ipv6_,
        ),
        ("six", V6, ipv6(&many(6), TCP, 64), tcp6),
        ("seven: one too many", V6, ipv6(&many(7), TCP, 64), ipv6_),
        ("extensions without an end", V6, ipv6(&many(1), DESTINATION, 0), ipv6_),
    ]
}

#[test]
fn each_frame_is_in_its_classes() {
    for hook in HOOKS {
        let lab = Lab::new(setup(hook));
        for from in DIRECTIONS {
            let packets = lab.packets(from);
            let (to, source) = macs(from);
            for (name, ethertype, payload, carried) in payloads() {
                for (index, to) in [to, GROUP, ALL].into_iter().enumerate() {
                    for tags in [&[][..], &[5], &[5, 6]] {
                        // Each payload goes to each destination once, with as many tags in another order.
                        if (index + tags.len() + payload.len()) % 3 != 0 && to != ALL {
                            continue;
                        }
                        let bytes = ethernet((to, source), tags, ethertype, &payload);
                        let expected = Detailed {
                            unicast: u64::from(index == 0),
                            multicast: u64::from(index == 1),
                            broadcast: u64::from(index == 2),
                            vlan_tagged: u64::from(!tags.is_empty()),
                            ..carried
                        };
                        let counted = lab.counted(from, 1, || packets.send(&bytes));
                        let about = format!("{name}, to {to}, tags {tags:?}, {from:?}, {hook}");
                        assert_eq!(counted, sized(expected, bytes.len(), 1), "{about}");
                    }
                }
            }
        }
    }
}

/// Two tags are looked behind; with a third beside the frame, where the hardware puts it, a third.
#[test]
fn tags_behind_tags() {
    for hook in HOOKS {
        let lab = Lab::new(setup(hook));
        for from in DIRECTIONS {
            let packets = lab.packets(from);
            for (tags, ipv4_at_xdp) in [(&[5, 6][..], 1), (&[5, 6, 7], 0), (&[5, 6, 7, 8], 0)] {
                let bytes = ethernet(macs(from), tags, 0x0800, &ipv4(TCP, 0, 0, 64));
                let counted = lab.counted(from, 1, || packets.send(&bytes));
                // Before TCX ingress the kernel takes the first tag out.
                let taken_out = from == From::Far && hook == Hook::Tcx;
                let ipv4 = if taken_out { u64::from(tags.len() <= 3) } else { ipv4_at_xdp };
                let expected = Detailed {
                    unicast: 1,
                    vlan_tagged: 1,
                    ipv4,
                    tcp: ipv4,
                    other_ethertype: 1 - ipv4,
                    ..Detailed::default()
                };
                assert_eq!(counted, sized(expected, bytes.len(), 1), "{tags:?}, {from:?}, {hook}");
            }
        }
    }
}

/// A bridge that forwards tagged frames hands their tag over beside them, as a VLAN netdev does.
#[test]
fn tags_beside_the_frame() {
    let lab = Lab::new(Setup { offloads: true, ..setup(Hook::Tcx) });
    let Lab { container, far, .. } = &lab;
    far.ip(&format!("link add out0 type veth peer name in0 netns {}", container.0));
    // It would join a group.
    container.ip("link add br0 type bridge mcast_snooping 0");
    for port in [DUT, "in0"] {
        container.ip(&format!("link set {port} master br0"));
    }
    for (netns, name) in [(container, "br0"), (container, "in0"), (far, "out0")] {
        netns.ip(&format!("link set {name} up"));
    }
    let tagged = Detailed { unicast: 1, vlan_tagged: 1, ipv4: 1, ..Detailed::default() };
    let packets = Packets::on(far, "out0");
    for length in [64, 65, 123, 124, 1514, 1515] {
        let bytes = ethernet(macs(From::Container), &[5], 0x0800, &ipv4(UDP, 0, 0, length - 38));
        let counted = lab.counted(From::Container, 1, || packets.send(&bytes));
        assert_eq!(counted, sized(Detailed { udp: 1, ..tagged }, length, 1), "{length}");
    }
    let two = ethernet(macs(From::Container), &[5, 6], 0x0800, &ipv4(UDP, 0, 0, 100));
    let counted = lab.counted(From::Container, 1, || packets.send(&two));
    assert_eq!(counted, sized(Detailed { udp: 1, ..tagged }, two.len(), 1));
    let packets = packets.with_vnet_header();
    for size in [53, 54, 1200] {
        for payload in [size + 1, 3 * size, 9 * size + size / 2] {
            let (bytes, frames) = gso(macs(From::Container), &[5], Gso::Tcp4, size, payload);
            let counted = lab.counted(From::Container, frames.packets, || packets.send(&bytes));
            let class = Detailed { tcp: 1, ..tagged };
            assert_eq!(counted, segments(class, frames, size, payload), "{size}, {payload}");
        }
    }
}

/// Lengths are given as RMON and a switch count them, with the FCS.
#[test]
fn each_size_at_its_boundaries() {
    for hook in HOOKS {
        let lab = Lab::new(Setup { mtu: 9000, ..setup(hook) });
        for from in DIRECTIONS {
            let packets = lab.packets(from);
            let none = Detailed { unicast: 1, other_ethertype: 1, ..Detailed::default() };
            for (octets, expected) in [
                (20, Detailed { pkts_64_octets: 1, ..none }),
                (63, Detailed { pkts_64_octets: 1, ..none }),
                (64, Detailed { pkts_64_octets: 1, ..none }),
                (65, Detailed { pkts_65_to_127_octets: 1, ..none }),
                (127, Detailed { pkts_65_to_127_octets: 1, ..none }),
                (128, Detailed { pkts_128_to_255_octets: 1, ..none }),
                (255, Detailed { pkts_128_to_255_octets: 1, ..none }),
                (256, Detailed { pkts_256_to_511_octets: 1, ..none }),
                (511, Detailed { pkts_256_to_511_octets: 1, ..none }),
                (512, Detailed { pkts_512_to_1023_octets: 1, ..none }),
                (1023, Detailed { pkts_512_to_1023_octets: 1, ..none }),
                (1024, Detailed { pkts_1024_to_1518_octets: 1, ..none }),
                (1518, Detailed { pkts_1024_to_1518_octets: 1, ..none }),
                (1519, Detailed { pkts_1519_to_max_octets: 1, ..none }),
                (1522, Detailed { pkts_1519_to_max_octets: 1, ..none }),
                (9018, Detailed { pkts_1519_to_max_octets: 1, ..none }),
            ] {
                let bytes = frame(macs(from), &[], octets - 4 - 14);
                let counted = lab.counted(from, 1, || packets.send(&bytes));
                assert_eq!(counted, expected, "{octets} octets, {from:?}, {hook}");
            }
        }
    }
}

/// What a GSO packet's segments are counted as: all of them full but the last.
fn segments(of: Detailed, frames: Frames, size: usize, payload: usize) -> Detailed {
    let header =
        (usize::try_from(frames.bytes).unwrap() - payload) / usize::try_from(frames.packets).unwrap();
    let full = frames.packets - 1;
    let last = payload - usize::try_from(full).unwrap() * size;
    let of = detailed(words(of).map(|of| of * frames.packets));
    sized(sized(of, header + size, full), header + last, 1)
}

#[test]
fn each_segment_is_in_its_class() {
    for offloads in [false, true] {
        let lab = Lab::new(Setup { offloads, ..setup(Hook::Tcx) });
        for from in DIRECTIONS {
            let packets = lab.packets(from).with_vnet_header();
            let unicast = Detailed { unicast: 1, ..Detailed::default() };
            let ipv4 = Detailed { ipv4: 1, ..unicast };
            for (kind, tags, class) in [
                (Gso::Tcp4, &[][..], Detailed { tcp: 1, ..ipv4 }),
                (Gso::Tcp4, &[100], Detailed { tcp: 1, vlan_tagged: 1, ..ipv4 }),
                (Gso::Tcp6, &[], Detailed { tcp: 1, ipv6: 1, ..unicast }),
                (Gso::UdpL4, &[], Detailed { udp: 1, ..ipv4 }),
                (Gso::Ufo, &[], Detailed { udp: 1, ..ipv4 }),
            ] {
                for size in [16, 56, 200, 1200, 1400] {
                    for payload in [size + 1, 3 * size, 9 * size + size / 2] {
                        let (bytes, frames) = gso(macs(from), tags, kind, size, payload);
                        let cut = payload + if matches!(kind, Gso::Ufo) { 8 } else { 0 };
                        let counted = lab.counted(from, frames.packets, || packets.send(&bytes));
                        let about = format!("{kind:?}, {tags:?}, {size}, {payload}, {from:?}, {offloads}");
                        assert_eq!(counted, segments(class, frames, size, cut), "{about}");
                    }
                }
            }
        }
    }
}

/// A socket's own segments.
#[test]
fn udp_gso_by_a_socket() {
    let lab = Lab::new(setup(Hook::Tcx));
    for (from, segment) in [(From::Container, 1400), (From::Far, 600)] {
        let sizes: [usize; 6] = [60_000, 1400, 1401, 100, 2800, 33_333];
        let class = Detailed { unicast: 1, ipv4: 1, udp: 1, ..Detailed::default() };
        let mut expected = Detailed::default();
        let mut packets = 0;
        for size in sizes {
            let frames = size.div_ceil(segment);
            packets += frames as u64;
            let of = detailed(words(class).map(|of| of * frames as u64));
            let of = sized(of, 42 + segment, frames as u64 - 1);
            let of = sized(of, 42 + size - (frames - 1) * segment, 1);
            expected = plus(expected, of);
        }
        let counted = lab.counted(from, packets, || _ = lab.udp_gso(from, segment, &sizes));
        assert_eq!(counted, expected, "{from:?}");
    }
}

/// Bulk TCP, whose segments the far end counts one by one as they come out of software segmentation.
#[test]
fn bulk_agrees_with_the_far_end() {
    for (gro, hook) in [(false, Hook::Tcx), (false, Hook::Xdp), (true, Hook::Tcx)] {
        let lab = Lab::new(Setup { gro, offloads: false, ..setup(hook) });
        let far = lab.count_far_end();
        for from in DIRECTIONS {
            lab.tcp(from, false, 20_000_000);
        }
        lab.settle();
        let far = counters::read(&lab.bpffs(), &far).unwrap().detailed.unwrap();
        assert_eq!(lab.classes(From::Container), far.rx, "gro: {gro}, {hook}");
        assert_eq!(lab.classes(From::Far), far.tx, "gro: {gro}, {hook}");
        assert_full_frames(&lab);
    }
}

/// IPv6 packets over 64 KiB have a header that is on no segment. With a window for these, some are lost on
/// the way to the far end.
#[test]
fn big_tcp_is_full_frames() {
    let lab = Lab::new(Setup { ipv6: true, gro: true, offloads: false, ..setup(Hook::Tcx) });
    for (netns, name) in [(&lab.container, DUT), (&lab.far, FAR)] {
        netns.ip(&format!("link set {name} gso_max_size 180000 gro_max_size 180000"));
    }
    for from in DIRECTIONS {
        lab.tcp(from, true, 20_000_000);
    }
    assert_full_frames(&lab);
}

/// 20 MB of payload went each way, in frames of 1514 bytes; nothing else is so long.
#[track_caller]
fn assert_full_frames(lab: &Lab) {
    lab.assert_agrees_with_netdevs();
    for (from, total) in [(From::Container, lab.tx()), (From::Far, lab.rx())] {
        let classes = lab.classes(from);
        assert_sums(&classes, total.packets);
        assert_eq!(classes.pkts_1519_to_max_octets, 0, "{from:?}: {classes:?}");
        let full = classes.pkts_1024_to_1518_octets;
        assert!((13_500..=total.bytes / 1024).contains(&full), "{from:?}: {classes:?}");
        assert!(classes.tcp >= total.packets - 10, "{from:?}: {classes:?}");
    }
}

/// The first buffer of a frame in several has the headers; its length is that of all.
#[test]
fn frames_in_several_buffers() {
    let lab = Lab::new(Setup { mtu: 9000, ..setup(Hook::Xdp) });
    let sizes = [1400, 1472, 1473, 4000, 8972];
    let counted = lab.counted(From::Far, 5, || _ = lab.udp(From::Far, sizes));
    let class = Detailed { unicast: 5, ipv4: 5, udp: 5, ..Detailed::default() };
    assert_eq!(counted, sized(sized(class, 1514, 2), 9014, 3));
}

#[test]
fn dropped_frames_are_in_no_class() {
    for (spoof_check, sent) in [(SpoofCheck::Drop(DUT_MAC), 0), (SpoofCheck::Count(DUT_MAC), 1)] {
        let lab = Lab::new(Setup { spoof_check, ..setup(Hook::Tcx) });
        let forged = ethernet((FAR_MAC, GROUP), &[], 0x0800, &ipv4(TCP, 0, 0, 64));
        let counted = lab.counted(From::Container, sent, || lab.packets(From::Container).send(&forged));
        assert_eq!(lab.spoofed(), 1);
        let class = Detailed { unicast: sent, ipv4: sent, tcp: sent, ..Detailed::default() };
        assert_eq!(counted, sized(class, forged.len(), sent), "{spoof_check:?}");
    }
}

/// Raw IP, and IPoIB with its own header, which a tun can send and not receive.
#[test]
fn link_layers_without_ethernet() {
    let netns = Netns::new("host", false);
    let mut tun = tun(&netns, "tun0");
    let bpffs = Bpffs::new();
    let counters = Counters::new(bpffs.path());
    counters.prepare().unwrap();
    let endpoint = "endpoint".parse().unwrap();
    let plan = Plan {
        ifindex: netns.ifindex("tun0"),
        rx_hook: Hook::Tcx,
        spoof_check: SpoofCheck::Off,
        frags: true,
        counters: CounterSet::Detailed,
    };
    netns.within(|| counters.attach(&endpoint, &plan)).unwrap();
    netns.ip("link set tun0 up");
    let mut expected = Detailed::default();
    for (ethertype, bytes, class) in [
        (0x0800, ipv4(TCP, 0, 0, 120), Detailed { ipv4: 1, tcp: 1, ..Detailed::default() }),
        (0x0800, ipv4(UDP, 0, 0, 500), Detailed { ipv4: 1, udp: 1, ..Detailed::default() }),
        (
            0x86dd,
            ipv6(&[(HOP_BY_HOP, &PADDING)], ICMPV6, 20),
            Detailed { ipv6: 1, icmp: 1, ..Detailed::default() },
        ),
    ] {
        assert_eq!(tun.write(&bytes).unwrap(), bytes.len());
        Packets::on(&netns, "tun0").with_ethertype(ethertype).send(&bytes);
        let before = counters::read(&bpffs.path(), &endpoint).unwrap().detailed.unwrap();
        expected = plus(expected, sized(class, bytes.len(), 1));
        assert_eq!(before.rx, expected);
        let infiniband = [&[0x45; 20][..], &ethertype.to_be_bytes(), &[0, 0], &bytes].concat();
        // A version that is none of the packet's tells that this is not raw IP.
        let infiniband = [&[0_u8; 4], &infiniband[4..]].concat();
        Packets::on(&netns, "tun0").with_ethertype(ethertype).send(&infiniband);
        let after = counters::read(&bpffs.path(), &endpoint).unwrap().detailed.unwrap();
        assert_eq!(since(after.tx, before.tx), sized(class, infiniband.len(), 1));
    }
}

/// A map with room for classes only where they are counted, and with a name for each field.
#[test]
fn the_map_is_as_large_as_what_is_counted() {
    for (counted, size) in [(CounterSet::Basic, 40), (CounterSet::Detailed, 328)] {
        let lab = Lab::new(Setup { counters: counted, ..Setup::default() });
        let pin = lab.bpffs().join(lab.endpoint.as_str()).join("counters");
        let map = json(&format!("bpftool --json map show pinned {}", pin.display()));
        assert_eq!((map["bytes_value"].as_u64(), map["name"].as_str()), (Some(size), Some("counters")));
        for id in lab.program_ids() {
            let program = json(&format!("bpftool --json prog show id {id}"));
            assert!(program["map_ids"].as_array().unwrap().contains(&map["id"]), "{program}");
            assert_eq!(program["map_ids"].as_array().unwrap().len(), 2, "counters and .rodata: {program}");
        }
        lab.packets(From::Container).send(&frame(macs(From::Container), &[5], 46));
        let dump = sh(&format!("bpftool map dump pinned {}", pin.display()));
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        let of = |field: &str| -> Option<u64> {
            let cpus = dump[0]["values"].as_array().unwrap();
            cpus.iter().map(|cpu| cpu["value"].pointer(field)?.as_u64()).sum()
        };
        assert_eq!(of("/tx/packets"), Some(1));
        let classes = of("/tx_detailed/vlan_tagged");
        assert_eq!(classes, (counted == CounterSet::Detailed).then_some(1), "{dump}");
        assert_eq!(lab.read().detailed.is_some(), counted == CounterSet::Detailed);
    }
}
