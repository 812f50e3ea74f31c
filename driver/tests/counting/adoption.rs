//! A driver that starts takes over what the one before left.
use std::fs;

use docker_passthrough::{
    counters::{Adopted, Counters, Error, Hook, Plan, SpoofCheck},
    device::mac::Mac,
    state::model::CounterSet,
};

use super::{
    lab::{DUT, DUT_MAC, Lab, Setup, sh},
    packet::frame,
    traffic::From,
};

const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

/// 200 frames each way, all of them counted.
fn count(lab: &Lab) {
    lab.settle();
    let before = (lab.tx(), lab.rx());
    let sent = lab.udp(From::Container, [100; 200]);
    let received = lab.udp(From::Far, [150; 200]);
    lab.settle();
    assert_eq!((lab.tx() - before.0, lab.rx() - before.1), (sent, received));
}

#[test]
fn the_same_programs_stay() {
    for rx_hook in [Hook::Xdp, Hook::Tcx] {
        let mut lab = Lab::new(Setup { rx_hook, ..Setup::default() });
        count(&lab);
        let (links, programs) = (lab.link_ids(), lab.program_ids());
        lab.counters = Counters::new(lab.bpffs());
        count(&lab);
        assert_eq!(lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap(), Adopted::Unchanged);
        assert_eq!((lab.link_ids(), lab.program_ids()), (links, programs));
        count(&lab);
        assert_eq!((lab.tx().packets, lab.rx().packets), (600, 600));
    }
}

/// Programs are compared without loading ours: by their constants, too.
#[test]
fn other_constants_are_seen_each_time() {
    for rx_hook in [Hook::Xdp, Hook::Tcx] {
        let mut lab = Lab::new(Setup { rx_hook, ..Setup::default() });
        lab.counters = Counters::new(lab.bpffs());
        let changed = Plan { spoof_check: SpoofCheck::Drop(STRANGER), ..lab.plan };
        for (plan, adopted) in [
            (&lab.plan, Adopted::Unchanged),
            (&lab.plan, Adopted::Unchanged),
            (&changed, Adopted::Replaced),
            (&changed, Adopted::Unchanged),
            (&lab.plan, Adopted::Replaced),
        ] {
            let ours = adopted == Adopted::Unchanged;
            assert_eq!(lab.counters.are_ours(&lab.endpoint, plan).unwrap(), ours, "{plan:?}");
            assert_eq!(lab.counters.adopt(&lab.endpoint, plan).unwrap(), adopted, "{plan:?}");
        }
        count(&lab);
    }
}

/// Other instructions, and the netdev in another namespace.
#[test]
fn other_programs_are_replaced_in_place() {
    for rx_hook in [Hook::Xdp, Hook::Tcx] {
        let mut lab = Lab::new(Setup { rx_hook, ..Setup::default() });
        count(&lab);
        let (links, programs) = (lab.link_ids(), lab.program_ids());
        lab.counters = Counters::with_object(lab.bpffs(), another_object());
        assert_eq!(lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap(), Adopted::Replaced);
        assert_eq!(lab.link_ids(), links);
        assert_ne!(lab.program_ids()[1], programs[1]);
        count(&lab);
        assert_eq!(lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap(), Adopted::Unchanged);
        assert_eq!((lab.tx().packets, lab.rx().packets), (400, 400));
    }
}

/// What is counted stays what it was, with other programs and with the same.
#[test]
fn classes_are_counted_on() {
    for rx_hook in [Hook::Xdp, Hook::Tcx] {
        let mut lab = Lab::new(Setup { rx_hook, counters: CounterSet::Detailed, ..Setup::default() });
        count(&lab);
        for (counters, adopted) in [
            (Counters::new(lab.bpffs()), Adopted::Unchanged),
            (Counters::with_object(lab.bpffs(), another_object()), Adopted::Replaced),
            (Counters::new(lab.bpffs()), Adopted::Replaced),
        ] {
            lab.counters = counters;
            assert_eq!(lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap(), adopted);
            count(&lab);
        }
        for from in [From::Container, From::Far] {
            let classes = lab.classes(from);
            assert_eq!((classes.unicast, classes.udp), (800, 800), "{from:?}, {rx_hook}");
        }
    }
}

/// A map without room for classes is never counted into as if it had.
#[test]
fn a_basic_map_stays_basic() {
    let mut lab = Lab::new(Setup::default());
    count(&lab);
    let programs = lab.program_ids();
    let basic = lab.plan;
    lab.plan = Plan { counters: CounterSet::Detailed, ..basic };
    let adopted = lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap();
    assert_eq!(adopted, Adopted::Kept { pinned: 40, ours: 328 });
    assert_eq!(lab.program_ids(), programs);
    count(&lab);
    assert_eq!(lab.counters.adopt(&lab.endpoint, &basic).unwrap(), Adopted::Unchanged);
    assert_eq!(lab.read().detailed, None);
}

/// A driver that reports forged frames, and one that doesn't, in turn.
#[test]
fn the_object_that_logs_counts_on() {
    static LOGGING: &[u8] = aya::include_bytes_aligned!(env!("BPF_OBJECT_LOG"));
    for rx_hook in [Hook::Xdp, Hook::Tcx] {
        let mut lab = Lab::new(Setup { rx_hook, ..Setup::default() });
        count(&lab);
        let links = lab.link_ids();
        for logs in [true, false] {
            lab.counters = Counters::new(lab.bpffs());
            if logs {
                lab.counters = Counters::with_object(lab.bpffs(), LOGGING);
            }
            assert_eq!(lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap(), Adopted::Replaced);
            count(&lab);
            lab.packets(From::Container).send(&frame((DUT_MAC, STRANGER), &[], 46));
        }
        assert_eq!(lab.link_ids(), links);
        assert_eq!((lab.tx().packets, lab.rx().packets, lab.spoofed()), (600, 600, 2));
    }
}

/// The same instructions with other constants are other programs, too.
#[test]
fn another_plan_takes_effect() {
    let mut lab = Lab::new(Setup { spoof_check: SpoofCheck::Count(DUT_MAC), ..Setup::default() });
    count(&lab);
    let links = lab.link_ids();
    lab.plan = Plan { spoof_check: SpoofCheck::Drop(DUT_MAC), ..lab.plan };
    lab.counters = Counters::new(lab.bpffs());
    assert_eq!(lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap(), Adopted::Replaced);
    assert_eq!(lab.link_ids(), links);
    lab.packets(From::Container).send(&frame((DUT_MAC, STRANGER), &[], 46));
    count(&lab);
    assert_eq!((lab.tx().packets, lab.spoofed()), (400, 1));
}

#[test]
fn another_layout_is_kept() {
    let lab = Lab::new(Setup::default());
    count(&lab);
    let programs = lab.program_ids();
    let pin = lab.bpffs().join(lab.endpoint.as_str()).join("counters");
    fs::remove_file(&pin).unwrap();
    sh(&format!(
        "bpftool map create {} type percpu_array key 4 value 48 entries 1 name counters",
        pin.display()
    ));
    let adopted = lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap();
    assert_eq!(adopted, Adopted::Kept { pinned: 48, ours: 40 });
    assert_eq!(lab.program_ids(), programs);
    assert_eq!(lab.read().counters, driver_common::Counters::default(), "of the other map");
}

#[test]
fn what_is_gone_is_said() {
    let lab = Lab::new(Setup::default());
    count(&lab);
    let before = lab.read().counters;
    lab.container.ip(&format!("link del {DUT}"));
    let error = lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap_err();
    assert!(matches!(error, Error::NetdevGone { .. }), "{error}");
    assert_eq!(lab.read().counters, before, "counters outlive the netdev");
    lab.counters.detach(&lab.endpoint).unwrap();
    let error = lab.counters.adopt(&lab.endpoint, &lab.plan).unwrap_err();
    assert!(matches!(error, Error::NotCounted { .. }), "{error}");
}

/// Ours, with the map's key set by another instruction that sets the same.
fn another_object() -> &'static [u8] {
    const MOV: u8 = 0xb7;
    const MOV_32_BITS: u8 = 0xb4;
    const STORE_32_BITS: u8 = 0x63;
    const FRAME_POINTER: u8 = 10;
    let mut object = fs::read(env!("BPF_OBJECT")).unwrap();
    let mut found = 0;
    for at in (0..object.len() - 16).step_by(8) {
        // `wN = 0`, and `*(u32 *)(r10 + …) = rN`.
        let &[code, register, 0, 0, 0, 0, 0, 0, store, registers, _, 0xff, 0, 0, 0, 0] = &object[at..at + 16]
        else {
            continue;
        };
        if (code, store, registers) == (MOV_32_BITS, STORE_32_BITS, register << 4 | FRAME_POINTER) {
            object[at] = MOV;
            found += 1;
        }
    }
    // A program for each way of counting.
    assert!(found >= 9, "the object sets its keys in another way");
    // aya wants it aligned.
    let bytes = bytes_of(vec![0_u64; object.len().div_ceil(8)].leak());
    bytes[..object.len()].copy_from_slice(&object);
    &bytes[..object.len()]
}

fn bytes_of(words: &'static mut [u64]) -> &'static mut [u8] {
    // SAFETY: the same memory, every byte of it valid.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 8) }
}
