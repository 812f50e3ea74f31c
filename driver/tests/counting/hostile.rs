//! A container with root, `CAP_NET_ADMIN` and `CAP_NET_RAW` in its namespace: what it can do about the
//! counters, and what it can't.
use std::{net::UdpSocket, os::unix::process::CommandExt, process::Command};

use docker_passthrough::{
    counters::{self, Hook, SpoofCheck},
    device::mac::Mac,
};
use nix::libc;

use super::{
    lab::{DUT, DUT_IP, DUT_MAC, FAR, FAR_IP, FAR_MAC, Frames, Lab, Netns, Setup},
    packet::{frame, macs},
    traffic::From,
};

const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const CAP_NET_ADMIN: i32 = 12;
const CAP_NET_RAW: i32 = 13;

/// Runs a command as a container could; says whether it succeeded.
fn as_container(netns: &Netns, line: &str) -> bool {
    netns.within(|| {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        // SAFETY: only calls that are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                for capability in (0..64).filter(|&c| c != CAP_NET_ADMIN && c != CAP_NET_RAW) {
                    // Fails for those that this kernel hasn't.
                    libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                }
                Ok(())
            });
        }
        command.output().unwrap().status.success()
    })
}

#[test]
fn nothing_a_container_does_stops_the_count() {
    for hook in [Hook::Xdp, Hook::Tcx] {
        let lab = Lab::new(Setup { rx_hook: hook, ..Setup::default() });
        let links = lab.link_ids();
        let container = &lab.container;

        // The commands work as such, so that their failure means something.
        assert!(as_container(container, &format!("ip link set {DUT} promisc on")));
        assert!(!as_container(container, "bpftool link list"), "a container with CAP_BPF proves nothing");

        for mode in ["xdp", "xdpdrv"] {
            let removed = as_container(container, &format!("ip link set {DUT} {mode} off"));
            assert!(!removed || hook == Hook::Tcx, "{mode} off");
        }
        as_container(container, &format!("ip link set {DUT} xdpgeneric off"));
        assert!(as_container(container, &format!("tc qdisc add dev {DUT} clsact")));
        as_container(container, &format!("tc filter del dev {DUT} egress"));
        as_container(container, &format!("tc filter del dev {DUT} ingress"));
        assert!(as_container(container, &format!("tc qdisc del dev {DUT} clsact")));
        as_container(container, &format!("tc qdisc replace dev {DUT} root pfifo"));
        as_container(container, &format!("tc qdisc del dev {DUT} root"));
        assert_eq!(detach_tcx(&lab), [libc::EBUSY; 4], "even by root on the host");
        assert_counts(&lab);

        let other = Netns::new("other", false);
        assert!(as_container(container, &format!("ip link set {DUT} netns {}", other.0)));
        assert!(as_container(&other, &format!("ip link set {DUT} name evil0")));
        assert_eq!(lab.read().ifindex, Some(other.ifindex("evil0")));
        assert!(as_container(&other, &format!("ip link set evil0 netns {} name {DUT}", container.0)));
        lab.address();
        assert_counts(&lab);
        assert_eq!(lab.link_ids(), links);
    }
}

/// Traffic both ways, all of it counted.
#[track_caller]
fn assert_counts(lab: &Lab) {
    lab.settle();
    let before = (lab.tx(), lab.rx());
    let sent = lab.udp(From::Container, [100; 500]);
    let received = lab.udp(From::Far, [200; 500]);
    lab.settle();
    assert_eq!((lab.tx() - before.0, lab.rx() - before.1), (sent, received));
}

/// `BPF_PROG_DETACH` of the first and last program of both directions; the errors.
fn detach_tcx(lab: &Lab) -> [i32; 4] {
    #[repr(C)]
    struct Attr {
        ifindex: u32,
        program: u32,
        attach_type: u32,
        flags: u32,
        replace: u32,
        relative: u32,
        revision: u64,
    }
    const BPF_PROG_DETACH: i32 = 9;
    let ifindex = lab.container.ifindex(DUT);
    let egress = (47, [1 << 3, 1 << 4]);
    // With an XDP program for Rx there is nothing at ingress.
    let ingress = if lab.plan.rx_hook == Hook::Tcx { (46, [1 << 3, 1 << 4]) } else { egress };
    let mut errors = [0; 4];
    let attempts = [egress, ingress].into_iter().flat_map(|(to, flags)| flags.map(|flag| (to, flag)));
    for (error, (attach_type, flags)) in errors.iter_mut().zip(attempts) {
        *error = lab.container.within(|| {
            let attr = Attr { ifindex, program: 0, attach_type, flags, replace: 0, relative: 0, revision: 0 };
            // SAFETY: laid out as the kernel has it; no pointers.
            let result =
                unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_DETACH, &raw const attr, size_of::<Attr>()) };
            assert_eq!(result, -1, "a TCX program was detached");
            std::io::Error::last_os_error().raw_os_error().unwrap()
        });
    }
    errors
}

#[test]
fn a_netdev_is_known_whatever_its_name() {
    let lab = Lab::new(Setup::default());
    let ifindex = lab.container.ifindex(DUT);
    let is_attached = |netns: &Netns, ifindex| {
        netns.within(|| counters::is_attached(&lab.bpffs(), &lab.endpoint, ifindex)).unwrap()
    };
    assert!(is_attached(&lab.container, ifindex));
    lab.container.ip(&format!("link set {DUT} down"));
    lab.container.ip(&format!("link set {DUT} name evil0 address {STRANGER}"));
    // An impostor in its place, and one with the same index in another namespace.
    lab.container.ip(&format!("link add {DUT} address {DUT_MAC} type bridge"));
    let other = Netns::new("other", false);
    other.ip(&format!("link add {DUT} index {ifindex} address {DUT_MAC} type bridge"));
    assert!(is_attached(&lab.container, ifindex));
    assert!(!is_attached(&lab.container, lab.container.ifindex(DUT)));
    assert_eq!(other.ifindex(DUT), ifindex);
    assert!(!is_attached(&other, ifindex));
    assert!(!is_attached(&lab.host, ifindex));
    assert!(!is_attached(&lab.container, 0));
    lab.container.ip("link del evil0");
    assert_eq!(lab.read().ifindex, Some(0));
    assert!(!is_attached(&lab.container, ifindex));
}

/// A gap that the kernel leaves: the netdev's own counters show it.
#[test]
fn bypassing_the_qdisc_evades_tx_and_shows_in_the_netdevs_counters() {
    let lab = Lab::new(Setup::default());
    let honest = lab.packets(From::Container);
    let bypassing = lab.packets(From::Container).bypassing();
    for _ in 0..100 {
        honest.send(&frame(macs(From::Container), &[], 100));
        bypassing.send(&frame(macs(From::Container), &[], 100));
    }
    lab.settle();
    assert_eq!(lab.tx(), Frames { packets: 100, bytes: 11_400 });
    assert_eq!(lab.container.statistics(DUT).tx, Frames { packets: 200, bytes: 22_800 });
}

#[test]
fn foreign_source_macs_are_dropped_and_counted() {
    let lab = Lab::new(Setup { spoof_check: SpoofCheck::Drop(DUT_MAC), ..Setup::default() });
    send_with_sources(&lab);
    assert_eq!((lab.tx().packets, lab.spoofed()), (100, 700));
    assert_eq!(lab.far.statistics(FAR).rx.packets, 100, "what passed");
}

#[test]
fn foreign_source_macs_are_counted_and_sent() {
    let lab = Lab::new(Setup { spoof_check: SpoofCheck::Count(DUT_MAC), ..Setup::default() });
    send_with_sources(&lab);
    assert_eq!((lab.tx().packets, lab.spoofed()), (800, 700));
    lab.assert_agrees_with_netdevs();
}

#[test]
fn without_a_check_nothing_is_spoofed() {
    let lab = Lab::new(Setup { spoof_check: SpoofCheck::Off, ..Setup::default() });
    send_with_sources(&lab);
    assert_eq!((lab.tx().packets, lab.spoofed()), (800, 0));
}

/// 100 honest frames, 100 of a stranger, and 100 for each octet that alone is wrong.
fn send_with_sources(lab: &Lab) {
    let packets = lab.packets(From::Container);
    let mut sources = vec![DUT_MAC, STRANGER];
    for octet in 0..6 {
        let mut mac = DUT_MAC;
        mac.0[octet] ^= 0x80;
        sources.push(mac);
    }
    for source in sources {
        for _ in 0..100 {
            packets.send(&frame((FAR_MAC, source), &[], 46));
        }
    }
    lab.settle();
}

/// A container that takes another MAC spoofs, even though its netdev has it.
#[test]
fn a_changed_mac_is_foreign() {
    let lab = Lab::new(Setup::default());
    assert!(as_container(&lab.container, &format!("ip link set {DUT} address {STRANGER}")));
    // The change has made the netdev forget its neighbour.
    lab.address();
    let from = lab.container.within(|| UdpSocket::bind((DUT_IP, 0)).unwrap());
    for _ in 0..50 {
        from.send_to(&[0x55; 100], (FAR_IP, 9)).unwrap();
    }
    lab.settle();
    assert_eq!((lab.tx().packets, lab.spoofed()), (0, 50));
}
