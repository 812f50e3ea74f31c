//! What stays on a netdev between two containers, and what the second one's counters make of it.
use docker_passthrough::{
    counters::{Error, Hook, Parked, Plan, Reader, SpoofCheck, read, tcx_ids},
    device::mac::Mac,
    state::{id::EndpointId, model::CounterSet},
};

use super::{
    lab::{DUT, DUT_MAC, FAR, FAR_MAC, Lab, Setup, entries, json},
    packet::frame,
    traffic::From,
};

const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);

impl Lab {
    fn park(&self) -> Parked {
        self.counters.park(&self.endpoint).unwrap()
    }

    fn count_again(&self, plan: &Plan, parked: &mut Parked) {
        self.container.within(|| self.counters.attach_with(&self.endpoint, plan, parked)).unwrap();
    }

    /// The names of the programs at the TCX hooks.
    fn at_hooks(&self) -> Vec<String> {
        let ifindex = self.container.ifindex(DUT);
        let links = self.container.within(|| tcx_ids(ifindex)).unwrap().links.into_iter();
        let name = |link| {
            let link = json(&format!("bpftool --json link show id {link}"));
            let program = json(&format!("bpftool --json prog show id {}", link["prog_id"]));
            program["name"].as_str().unwrap().to_owned()
        };
        links.map(name).collect()
    }

    /// Frames both ways, all of them counted, from zero.
    #[track_caller]
    fn assert_counts_from_zero(&self) {
        let sent = self.udp(From::Container, [100; 10]);
        let received = self.udp(From::Far, [200; 20]);
        self.settle();
        assert_eq!((self.tx(), self.rx()), (sent, received));
    }
}

#[test]
fn parked_links_pass_all_and_count_nothing() {
    let lab = Lab::new(Setup::default());
    lab.assert_counts_from_zero();
    let parked = lab.park();
    assert!(entries(&lab.bpffs()).is_empty());
    assert_eq!(lab.at_hooks(), ["passthru_idle"; 2]);
    // Not its MAC, which would be dropped.
    lab.container.ip(&format!("link set {DUT} address {OTHER_MAC}"));
    lab.address();
    lab.udp(From::Container, [100; 10]);
    drop(parked);
    assert!(lab.at_hooks().is_empty());
}

#[test]
fn the_next_endpoint_has_the_same_links_and_programs_and_starts_at_zero() {
    for counters in [CounterSet::Basic, CounterSet::Detailed] {
        let lab = Lab::new(Setup { counters, ..Setup::default() });
        lab.assert_counts_from_zero();
        let before = (lab.link_ids(), lab.program_ids());
        let mut parked = lab.park();
        lab.count_again(&lab.plan_here(), &mut parked);
        assert!(parked.is_empty());
        drop(parked);
        assert_eq!((lab.link_ids(), lab.program_ids()), before);
        lab.assert_counts_from_zero();
        if counters == CounterSet::Detailed {
            assert_eq!(lab.classes(From::Container).unicast, lab.tx().packets);
        }
        lab.counters.detach(&lab.endpoint).unwrap();
        assert!(lab.at_hooks().is_empty());
    }
}

/// One that is counted in another way gets programs of its own, and a map if that differs, on the same links.
#[test]
fn another_endpoint_has_programs_of_its_own() {
    let lab = Lab::new(Setup::default());
    let (links, programs) = (lab.link_ids(), lab.program_ids());
    let mut parked = lab.park();
    lab.count_again(&Plan { spoof_check: SpoofCheck::Drop(OTHER_MAC), ..lab.plan_here() }, &mut parked);
    assert_eq!((lab.link_ids(), lab.program_ids()[0]), (links, programs[0]));
    assert_ne!(lab.program_ids()[1], programs[1]);
    let packets = lab.packets(From::Container);
    for source in [DUT_MAC, OTHER_MAC, DUT_MAC] {
        packets.send(&frame((FAR_MAC, source), &[], 46));
    }
    lab.settle();
    assert_eq!((lab.spoofed(), lab.tx().packets), (2, 1));

    let mut parked = lab.park();
    lab.count_again(&Plan { counters: CounterSet::Detailed, ..lab.plan_here() }, &mut parked);
    assert_eq!(lab.link_ids(), links);
    lab.assert_counts_from_zero();
    assert_eq!(lab.classes(From::Far).unicast, lab.rx().packets);
}

/// An XDP link is not parked, and a TCX link that is not needed goes.
#[test]
fn other_hooks_are_attached_anew() {
    let lab = Lab::new(Setup { rx_hook: Hook::Xdp, ..Setup::default() });
    let [_, tx] = lab.link_ids();
    let mut parked = lab.park();
    assert_eq!(lab.at_hooks(), ["passthru_idle"]);
    lab.count_again(&Plan { rx_hook: Hook::Tcx, ..lab.plan_here() }, &mut parked);
    assert_eq!(lab.link_ids()[1], tx);
    lab.assert_counts_from_zero();

    let mut parked = lab.park();
    lab.count_again(&lab.plan_here(), &mut parked);
    assert!(!parked.is_empty());
    drop(parked);
    assert_eq!(lab.at_hooks(), ["passthru_tx_tcx"]);
    let sent = lab.udp(From::Container, [100; 10]);
    lab.settle();
    assert_eq!(lab.tx(), sent);
}

#[test]
fn a_netdev_that_is_gone_takes_its_links_along() {
    let lab = Lab::new(Setup::default());
    let mut parked = lab.park();
    lab.container.ip(&format!("link del {DUT}"));
    lab.container.ip(&format!(
        "link add {DUT} address {DUT_MAC} type veth peer name {FAR} address {FAR_MAC} netns {}",
        lab.far.0
    ));
    lab.address();
    lab.count_again(&lab.plan_here(), &mut parked);
    lab.assert_counts_from_zero();
}

/// Nothing is in its way, and it leaves nothing.
#[test]
fn parking_what_is_not_there() {
    let lab = Lab::new(Setup::default());
    let nobody: EndpointId = "nobody".parse().unwrap();
    assert!(lab.counters.park(&nobody).unwrap().is_empty());
    assert_eq!(entries(&lab.bpffs()), [lab.endpoint.as_str()]);
    assert!(matches!(read(&lab.bpffs(), &nobody), Err(Error::NotCounted { .. })));
    lab.assert_counts_from_zero();
}

/// A reader that was slow must not take the next endpoint's figures for those of the one that it asked about.
#[test]
fn a_slow_reader_is_told_that_the_endpoint_is_over() {
    let lab = Lab::new(Setup::default());
    lab.assert_counts_from_zero();
    let opened = Reader::new(lab.bpffs()).open(&lab.endpoint).unwrap();
    assert_eq!(opened.read().unwrap().counters.tx.packets, 10);
    let mut parked = lab.park();
    let next: EndpointId = "next".parse().unwrap();
    lab.container.within(|| lab.counters.attach_with(&next, &lab.plan_here(), &mut parked)).unwrap();
    lab.udp(From::Container, [100; 3]);
    assert!(matches!(opened.read(), Err(Error::NotCounted { .. })));
    assert_eq!(read(&lab.bpffs(), &next).unwrap().counters.tx.packets, 3);
    lab.counters.detach(&next).unwrap();
}

/// The same of what a driver keeps, and nothing is kept of an endpoint that is over.
#[test]
fn what_is_kept_of_an_endpoint_ends_with_it() {
    let lab = Lab::new(Setup::default());
    lab.assert_counts_from_zero();
    let (reader, id) = (lab.counters.reader(), &lab.endpoint);
    assert!(reader.known(id).is_none());
    let opened = reader.open(id).unwrap();
    reader.keep(id, &opened);
    let known = reader.known(id).unwrap();
    assert_eq!(lab.container.within(|| known.attached_here()), Some(lab.container.ifindex(DUT)));
    assert_eq!(known.attached_here(), None);
    assert_eq!(reader.read(id, &known), Some(opened.read().unwrap()));

    let mut parked = lab.park();
    let next: EndpointId = "next".parse().unwrap();
    lab.container.within(|| lab.counters.attach_with(&next, &lab.plan_here(), &mut parked)).unwrap();
    lab.udp(From::Container, [100; 3]);
    assert_eq!(reader.read(id, &known), None);
    // By a reader that was slow.
    reader.keep(id, &opened);
    assert!(reader.known(id).is_none());

    reader.keep(&next, &reader.open(&next).unwrap());
    let known = reader.known(&next).unwrap();
    assert_eq!(reader.read(&next, &known).unwrap().counters.tx.packets, 3);
    lab.counters.detach(&next).unwrap();
    assert!(reader.known(&next).is_none());
}

/// Whoever removes the pins by hand ends the counting: no link is kept.
#[test]
fn what_is_kept_holds_no_link() {
    let lab = Lab::new(Setup::default());
    let (reader, id) = (lab.counters.reader(), &lab.endpoint);
    reader.keep(id, &reader.open(id).unwrap());
    let known = reader.known(id).unwrap();
    std::fs::remove_file(lab.bpffs().join(id.as_str()).join("tx")).unwrap();
    eventually_none(|| lab.container.within(|| known.attached_here()));
}

/// A link ends some time after its last reference.
#[track_caller]
fn eventually_none(what: impl Fn() -> Option<u32>) {
    for _ in 0..100 {
        if what().is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("it is still attached");
}

/// What the first attempt did not need, the second has: native XDP may be refused.
#[test]
fn an_attempt_that_fails_uses_nothing_up() {
    let lab = Lab::new(Setup::default());
    lab.container.ip("link add br0 type bridge");
    let (id, ifindex): (EndpointId, _) = ("bridge".parse().unwrap(), lab.container.ifindex("br0"));
    let attach = |rx_hook, parked: &mut Parked| {
        let plan = Plan { ifindex, rx_hook, ..lab.plan };
        lab.container.within(|| lab.counters.attach_with(&id, &plan, parked))
    };
    let attached = || ["id", "prog_id"].map(|field| lab.of_links(&id, field));
    attach(Hook::Tcx, &mut Parked::default()).unwrap();
    let before = attached();
    let mut parked = lab.counters.park(&id).unwrap();
    let refused = attach(Hook::Xdp, &mut parked);
    assert!(matches!(refused, Err(Error::NativeXdp { .. })), "{refused:?}");
    attach(Hook::Tcx, &mut parked).unwrap();
    assert_eq!(attached(), before);
    lab.counters.detach(&id).unwrap();
}

/// A hook has no program twice, nor is one needed twice.
#[test]
fn links_of_two_can_wait_at_one_netdev() {
    let lab = Lab::new(Setup::default());
    let first = lab.park();
    lab.count_again(&lab.plan_here(), &mut Parked::default());
    let second = lab.park();
    assert_eq!((first.is_empty(), second.is_empty()), (false, false));
    assert_eq!(lab.at_hooks(), ["passthru_idle"; 4]);
    drop((first, second));
    assert!(lab.at_hooks().is_empty());
}
