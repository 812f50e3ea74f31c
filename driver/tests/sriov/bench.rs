//! The hardware: a PF whose VFs are handed out, and on the same wire another, which is everybody else.
use std::{collections::BTreeMap, fs, sync::OnceLock, thread};

use serde_json::Value;

use crate::support::{
    address4, command, eventually,
    look::{Look, Place},
    netns::Netns,
    unique,
};

use super::{
    frames::{Port, hush},
    pf::Pf,
};

/// What the tests run, and what tells whether it is there.
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "-V"), ("nsenter", "--version"), ("busybox", "--help"), ("tar", "--version")];

static BENCH: OnceLock<Bench> = OnceLock::new();

/// The PF under test and the other end of its wire.
pub struct Bench {
    pub pf: Pf,
    /// The namespace that has the other PF.
    pub wire: Netns,
    /// The other PF.
    pub port: String,
}

/// Takes the hardware; panics if the machine has none that is idle.
#[track_caller]
pub fn bench() -> &'static Bench {
    BENCH.get_or_init(Bench::take)
}

/// Gives the hardware back: statics are not dropped.
pub fn give_back() {
    if let Some(bench) = BENCH.get() {
        bench.pf.set_count(0);
        let _ = command::attempt("ip", &["netns", "del", bench.wire.name()]);
    }
}

impl Bench {
    fn take() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this suite changes NICs and needs root");
        for (program, flag) in PROGRAMS {
            command::require(program, flag);
        }
        let mut idle = Pf::all();
        idle.retain(|pf| pf.count() == 0 && pf.look().addresses.is_empty() && pf.look().master.is_none());
        let names: Vec<_> = idle.iter().map(|pf| pf.name.clone()).collect();
        assert!(
            names.len() >= 2,
            "this suite needs two SR-IOV PFs on one wire that have no VFs and no addresses, and there are \
             {names:?}: `cargo xtask vm` has a machine that does"
        );
        fs::create_dir_all("/run/docker/plugins").expect("the plugins' folder");
        let wire = Netns::new("wire".into());
        let (pf, port) = (idle.remove(0), names[1].clone());
        hush(&wire.place());
        command::ip(&format!("link set {port} netns {}", wire.name()));
        wire.ip(&format!("link set {port} up"));
        Self { pf, wire, port }
    }

    /// The whole wire.
    #[track_caller]
    pub fn listen(&self) -> Port {
        Port::open(&self.wire.place(), &self.port).promiscuous()
    }

    /// The PF with all of its VFs, as an administrator would have made them.
    #[track_caller]
    pub fn with_vfs(&self) -> Vfs<'_> {
        let pf = &self.pf;
        pf.raise();
        if pf.count() != pf.total() {
            pf.set_count(0);
            pf.set_count(pf.total());
        }
        Vfs::of(pf)
    }

    /// The PF without a VF, and down.
    #[track_caller]
    pub fn without_vfs(&self) -> Vfs<'_> {
        self.pf.set_count(0);
        command::ip(&format!("link set {} down", self.pf.name));
        Vfs::of(&self.pf)
    }
}

/// A PF and its VFs as a test found them. After a failure they are all taken away, so that the next test
/// starts from fresh ones.
pub struct Vfs<'a> {
    pub pf: &'a Pf,
    before: Everything,
}

/// All that anybody could notice of a PF and its VFs.
#[derive(Debug, PartialEq, Eq)]
pub struct Everything {
    pf: Look,
    probing: bool,
    rows: Vec<Value>,
    netdevs: BTreeMap<u32, Option<Look>>,
    drivers: BTreeMap<u32, Option<String>>,
}

impl Everything {
    #[track_caller]
    pub fn of(pf: &Pf) -> Self {
        let vfs = 0..pf.count();
        let netdev = |vf| Look::at(&Place::Host, &pf.netdev(vf)?);
        Self {
            pf: pf.look(),
            probing: pf.is_probing(),
            rows: pf.rows(),
            netdevs: vfs.clone().map(|vf| (vf, netdev(vf))).collect(),
            drivers: vfs.map(|vf| (vf, pf.driver(vf))).collect(),
        }
    }
}

impl<'a> Vfs<'a> {
    #[track_caller]
    fn of(pf: &'a Pf) -> Self {
        Self { pf, before: Everything::of(pf) }
    }

    /// Takes what is there now for what has to be there again.
    #[track_caller]
    pub fn settle(&mut self) {
        self.before = Everything::of(self.pf);
    }

    /// Panics unless all is as it was.
    #[track_caller]
    pub fn assert_as_before(&self) {
        let now = Everything::of(self.pf);
        let (mut lost, mut found) = (Vec::new(), Vec::new());
        for vf in 0..now.rows.len().max(self.before.rows.len()) {
            let key = u32::try_from(vf).expect("a number");
            let part = |all: &Everything| {
                (all.rows.get(vf).cloned(), all.netdevs.get(&key).cloned(), all.drivers.get(&key).cloned())
            };
            if part(&self.before) != part(&now) {
                lost.push(part(&self.before));
                found.push(part(&now));
            }
        }
        assert!(lost.is_empty(), "VFs are not as before.\nBefore: {lost:#?}\nNow: {found:#?}");
        assert_eq!(self.before, now);
    }
}

impl Drop for Vfs<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.pf.give_up();
        }
    }
}

/// The host at the other end of the wire, in one VLAN; 0 is none.
pub struct Segment<'a> {
    bench: &'a Bench,
    pub vlan: u16,
    netdev: String,
    n: u16,
}

impl<'a> Segment<'a> {
    /// Its own subnet, and its first address.
    #[track_caller]
    pub fn new(bench: &'a Bench, vlan: u16) -> Self {
        let n = unique();
        let port = &bench.port;
        let netdev = if vlan == 0 { port.clone() } else { format!("vlan{vlan}") };
        if vlan != 0 {
            bench.wire.ip(&format!("link add link {port} name {netdev} type vlan id {vlan}"));
            bench.wire.ip(&format!("link set {netdev} up"));
        }
        let segment = Self { bench, vlan, netdev, n };
        bench.wire.ip(&format!("addr add {}/24 dev {}", segment.gateway(), segment.netdev));
        segment
    }

    /// An address in its subnet.
    pub fn host(&self, host: u8) -> String {
        address4(self.n, host)
    }

    /// Its own address.
    pub fn gateway(&self) -> String {
        self.host(1)
    }

    /// Its subnet.
    pub fn subnet(&self) -> String {
        format!("{}/24", self.host(0))
    }

    /// Its netdev.
    pub fn netdev(&self) -> &str {
        &self.netdev
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.bench.wire.place()
    }

    /// Panics unless there is an answer from `address`, `count` times.
    #[track_caller]
    pub fn ping(&self, address: &str, count: u32) {
        // The first may have to wait for a carrier.
        eventually("an answer", || {
            let answer =
                self.place().attempt(&format!("busybox ping -c 1 -W 1 -I {} {address}", self.netdev));
            // Its container may have another VF than before, and the old one's MAC is believed for up to 45 s.
            answer.inspect_err(|_| drop(self.place().attempt(&format!("ip neigh flush dev {}", self.netdev))))
        });
        self.bench.wire.run(&format!("busybox ping -c {count} -i 0.02 -W 5 -I {} {address}", self.netdev));
    }
}

impl Drop for Segment<'_> {
    fn drop(&mut self) {
        let wire = self.bench.wire.name();
        let undo = if self.vlan == 0 {
            vec!["-n", wire, "addr", "flush", "dev", &self.netdev]
        } else {
            vec!["-n", wire, "link", "del", &self.netdev]
        };
        let _ = command::attempt("ip", &undo);
    }
}
