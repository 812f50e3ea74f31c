//! Attaching, what is left after it failed, and what is left after detaching.
use std::{fs, os::unix::fs::PermissionsExt, path::Path, slice, thread};

use docker_passthrough::{
    counters::{self, Counters, Error, Hook, Plan, SpoofCheck},
    state::model::CounterSet,
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{
    lab::{Bpffs, DUT, DUT_MAC, FAR, Lab, Netns, Setup, entries, json},
    traffic::From,
};

#[test]
fn detaching_leaves_nothing() {
    for rx_hook in [Hook::Xdp, Hook::Tcx] {
        let lab = Lab::new(Setup { rx_hook, ..Setup::default() });
        assert_eq!(counters::endpoints(&lab.bpffs()).unwrap(), slice::from_ref(&lab.endpoint));
        let programs = lab.program_ids();
        assert!(programs.iter().all(|&id| is_loaded(id)));
        lab.counters.detach(&lab.endpoint).unwrap();
        assert!(entries(&lab.bpffs()).is_empty());
        // The kernel frees programs when it gets round to it.
        for _ in 0..100 {
            if !programs.iter().any(|&id| is_loaded(id)) {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(!programs.iter().any(|&id| is_loaded(id)), "a program is still attached");
        assert!(counters::endpoints(&lab.bpffs()).unwrap().is_empty());
        lab.udp(From::Container, [100; 10]);
        assert!(lab.container.statistics(DUT).tx.packets >= 10, "the netdev works on");
        assert!(matches!(counters::read(&lab.bpffs(), &lab.endpoint), Err(Error::NotCounted { .. })));
        lab.counters.detach(&lab.endpoint).unwrap();
    }
}

fn is_loaded(program: u64) -> bool {
    let programs = json("bpftool --json prog list");
    programs.as_array().unwrap().iter().any(|listed| listed["id"] == program)
}

#[test]
fn what_bpftool_shows_explains_itself() {
    let lab = Lab::new(Setup::default());
    lab.udp(From::Container, [100; 3]);
    lab.udp(From::Far, [200; 2]);
    lab.settle();
    let pin = lab.bpffs().join(lab.endpoint.as_str()).join("counters");
    let map = json(&format!("bpftool --json map dump pinned {}", pin.display()));
    let formatted = &map[0]["formatted"]["values"];
    let field = |side: &str, name: &str| -> u64 {
        let cpus = formatted.as_array().unwrap_or_else(|| panic!("no BTF: {map}"));
        cpus.iter().map(|cpu| cpu["value"][side][name].as_u64().unwrap()).sum()
    };
    assert_eq!([field("rx", "packets"), field("rx", "bytes")], [2, 2 * 242]);
    assert_eq!([field("tx", "packets"), field("tx", "bytes"), field("tx", "spoofed")], [3, 3 * 142, 0]);
    let names = ["passthru_rx_tcx", "passthru_tx_tcx"];
    for (id, name) in lab.program_ids().into_iter().zip(names) {
        assert_eq!(json(&format!("bpftool --json prog show id {id}"))["name"], name);
    }
}

#[test]
fn living_counters_are_not_replaced_and_remains_are() {
    let lab = Lab::new(Setup::default());
    let plan = lab.plan_here();
    let attach = || lab.container.within(|| lab.counters.attach(&lab.endpoint, &plan));
    let links = lab.link_ids();
    let error = attach().unwrap_err();
    assert!(matches!(error, Error::AlreadyCounted { .. }), "{error}");
    assert_eq!(lab.link_ids(), links);

    fs::remove_file(lab.bpffs().join(lab.endpoint.as_str()).join("tx")).unwrap();
    attach().unwrap();
    assert_ne!(lab.link_ids(), links);
    let sent = lab.udp(From::Container, [100; 10]);
    lab.settle();
    assert_eq!(lab.tx(), sent);
}

/// Detached means detached, not soon.
#[test]
fn a_netdev_can_be_counted_again_at_once() {
    let lab = Lab::new(Setup { rx_hook: Hook::Xdp, ..Setup::default() });
    let plan = lab.plan_here();
    for _ in 0..10 {
        lab.counters.detach(&lab.endpoint).unwrap();
        lab.container.within(|| lab.counters.attach(&lab.endpoint, &plan)).unwrap();
    }
    let sent = lab.udp(From::Container, [100; 10]);
    lab.settle();
    assert_eq!(lab.tx(), sent);
}

/// No generic XDP in its stead, and nothing left.
#[test]
fn xdp_without_a_driver_for_it_fails_without_remains() {
    let netns = Netns::new("host", false);
    netns.ip("link add br0 type bridge");
    let bpffs = Bpffs::new();
    let counters = Counters::new(bpffs.path());
    counters.prepare().unwrap();
    let endpoint = "endpoint".parse().unwrap();
    let mut plan = Plan {
        ifindex: netns.ifindex("br0"),
        rx_hook: Hook::Xdp,
        spoof_check: SpoofCheck::Drop(DUT_MAC),
        frags: true,
        counters: CounterSet::Basic,
    };
    let error = netns.within(|| counters.attach(&endpoint, &plan)).unwrap_err();
    assert!(matches!(error, Error::NativeXdp { .. }), "{error}");
    assert!(error.to_string().contains("TCX"), "{error}");
    assert!(entries(&bpffs.path()).is_empty());
    assert!(!netns.ip("link show br0").contains("xdp"));

    plan.ifindex = 4_000;
    plan.rx_hook = Hook::Tcx;
    let error = netns.within(|| counters.attach(&endpoint, &plan)).unwrap_err();
    assert!(matches!(error, Error::Attach { ifindex: 4_000, .. }), "{error}");
    assert!(entries(&bpffs.path()).is_empty());
}

/// Rx goes again if Tx can't be attached: its hook has 63 places.
#[test]
fn a_failure_in_the_middle_is_undone() {
    let lab = Lab::new(Setup::default());
    let ifindex = lab.far.ifindex(FAR);
    let plan = |rx_hook| Plan { ifindex, rx_hook, ..lab.plan };
    let attach =
        |name: &str, rx_hook| lab.far.within(|| lab.counters.attach(&name.parse().unwrap(), &plan(rx_hook)));
    attach("first", Hook::Xdp).unwrap();
    for n in 1..63 {
        attach(&format!("filler{n}"), Hook::Tcx).unwrap();
    }
    lab.counters.detach(&"first".parse().unwrap()).unwrap();
    attach("last", Hook::Tcx).unwrap();
    let error = attach("toomany", Hook::Xdp).unwrap_err();
    assert!(matches!(error, Error::Attach { hook: Hook::Tcx, .. }), "{error}");
    assert!(!lab.far.ip(&format!("link show {FAR}")).contains("xdp"), "the XDP program is still there");
    assert!(!lab.bpffs().join("toomany").exists());
}

#[test]
fn a_bpf_file_system_is_mounted_where_it_belongs() {
    let prepared = thread::spawn(|| {
        // A mount namespace of its own, with nothing on /sys/fs/bpf.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        while umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).is_ok() {}
        let bpffs = Path::new("/sys/fs/bpf/passthrough");
        assert!(!bpffs.exists());
        let counters = Counters::new(bpffs.to_owned());
        counters.prepare().unwrap();
        counters.prepare().unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let mounted = mounts.lines().filter(|line| line.contains(" /sys/fs/bpf bpf ")).count();
        (mounted, fs::metadata(bpffs).unwrap().permissions().mode() & 0o777)
    });
    assert_eq!(prepared.join().unwrap(), (1, 0o700));
}
