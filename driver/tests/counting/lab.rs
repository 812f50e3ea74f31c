//! Namespaces, a veth pair between them, and counters on one end: all of it gone when dropped.
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use docker_passthrough::{
    counters::{self, ByClass, Counters, Hook, Plan, Reading, SpoofCheck},
    device::mac::Mac,
    state::{id::EndpointId, model::CounterSet},
};
use driver_common::Detailed;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns},
};
use serde_json::Value;

use super::traffic::{ETHTOOL_SGRO, ETHTOOL_STXCSUM, From, ethtool};

pub const DUT: &str = "dut0";
pub const FAR: &str = "far0";
pub const DUT_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const FAR_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub const DUT_IP: &str = "10.9.0.1";
pub const FAR_IP: &str = "10.9.0.2";
pub const DUT_IP6: &str = "fd09::1";
pub const FAR_IP6: &str = "fd09::2";

/// Runs a command line without quotes; panics with what it says if it fails.
#[track_caller]
pub fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
pub fn json(line: &str) -> Value {
    serde_json::from_str(&sh(line)).expect("JSON")
}

fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A network namespace of our own.
pub struct Netns(pub String);

impl Netns {
    pub fn new(role: &str, ipv6: bool) -> Self {
        let netns = Self(unique(&format!("dptest-{role}-")));
        sh(&format!("ip netns add {}", netns.0));
        netns.within(|| {
            // What the stack sends by itself would blur the count.
            for conf in ["all", "default"] {
                let folder = format!("/proc/sys/net/ipv6/conf/{conf}");
                fs::write(format!("{folder}/disable_ipv6"), if ipv6 { "0" } else { "1" }).unwrap();
                fs::write(format!("{folder}/router_solicitations"), "0").unwrap();
            }
            // An engine on the host has it on, and new namespaces with it.
            fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        });
        netns
    }

    /// Runs `f` on a thread in this namespace.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| self.spawn(scope, f).join().expect("no panic in the namespace"))
    }

    pub fn spawn<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> thread::ScopedJoinHandle<'scope, T> {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// `ip` in this namespace.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        sh(&format!("ip -n {} {args}", self.0))
    }

    pub fn ifindex(&self, name: &str) -> u32 {
        let links = json(&format!("ip -n {} -j link show dev {name}", self.0));
        u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
    }

    /// What the netdev itself has counted.
    pub fn statistics(&self, name: &str) -> Statistics {
        let links = json(&format!("ip -n {} -j -s link show dev {name}", self.0));
        let side = |side: &str| {
            let side = &links[0]["stats64"][side];
            Frames { packets: side["packets"].as_u64().unwrap(), bytes: side["bytes"].as_u64().unwrap() }
        };
        Statistics { rx: side("rx"), tx: side("tx") }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    pub packets: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Frames {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl std::ops::Sub for Frames {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { packets: self.packets - other.packets, bytes: self.bytes - other.bytes }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    pub rx: Frames,
    pub tx: Frames,
}

/// A BPF file system of our own.
pub struct Bpffs {
    folder: tempfile::TempDir,
}

impl Bpffs {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("these tests need root, to mount a BPF file system");
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("passthrough")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}

/// How a lab is to be.
#[derive(Clone, Copy)]
pub struct Setup {
    pub rx_hook: Hook,
    pub spoof_check: SpoofCheck,
    pub mtu: u32,
    pub ipv6: bool,
    pub counters: CounterSet,
    /// Whether received frames are merged.
    pub gro: bool,
    /// Whether packets are handed to the other end unsegmented. If not, the netdevs' own counters count what
    /// would be on a wire.
    pub offloads: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            rx_hook: Hook::Tcx,
            spoof_check: SpoofCheck::Drop(DUT_MAC),
            mtu: 1500,
            ipv6: false,
            counters: CounterSet::Basic,
            gro: false,
            offloads: true,
        }
    }
}

/// `dut0`, made in `host`, counted, and then moved into `container`; its other end `far0` is in `far`.
pub struct Lab {
    pub container: Netns,
    pub far: Netns,
    pub host: Netns,
    pub counters: Counters,
    pub endpoint: EndpointId,
    pub plan: Plan,
    pub bpffs: Bpffs,
    gro: bool,
}

impl Lab {
    pub fn new(setup: Setup) -> Self {
        let Setup { rx_hook, spoof_check, mtu, ipv6, counters: counted, gro, offloads } = setup;
        let host = Netns::new("host", ipv6);
        let container = Netns::new("container", ipv6);
        let far = Netns::new("far", ipv6);
        host.ip(&format!(
            "link add {DUT} mtu {mtu} address {DUT_MAC} type veth \
             peer name {FAR} mtu {mtu} address {FAR_MAC} netns {}",
            far.0
        ));
        let bpffs = Bpffs::new();
        let counters = Counters::new(bpffs.path());
        counters.prepare().unwrap();
        let endpoint: EndpointId = unique("endpoint").parse().unwrap();
        let plan = Plan { ifindex: host.ifindex(DUT), rx_hook, spoof_check, frags: true, counters: counted };
        host.within(|| counters.attach(&endpoint, &plan)).unwrap();
        host.ip(&format!("link set {DUT} netns {}", container.0));
        let lab = Self { container, far, host, counters, endpoint, plan, bpffs, gro };
        if gro {
            lab.container.within(|| ethtool(DUT, ETHTOOL_SGRO, 1));
        }
        if !offloads {
            lab.container.within(|| ethtool(DUT, ETHTOOL_STXCSUM, 0));
            lab.far.within(|| ethtool(FAR, ETHTOOL_STXCSUM, 0));
        }
        lab.address();
        lab
    }

    /// Up, with addresses, and without a need to ask for each other's MAC.
    pub fn address(&self) {
        let ends = [
            // The far end first: what is sent to a netdev that is down is counted, and lost.
            (&self.far, FAR, FAR_IP, FAR_IP6, DUT_IP, DUT_IP6, DUT_MAC),
            (&self.container, DUT, DUT_IP, DUT_IP6, FAR_IP, FAR_IP6, FAR_MAC),
        ];
        for (netns, name, ip, ip6, peer, peer6, mac) in ends {
            netns.ip("link set lo up");
            netns.ip(&format!("link set {name} up"));
            netns.ip(&format!("address replace {ip}/24 dev {name}"));
            netns.ip(&format!("neighbour replace {peer} lladdr {mac} dev {name} nud permanent"));
            if !self.is_without_ipv6() {
                netns.ip(&format!("address replace {ip6}/64 dev {name} nodad"));
                netns.ip(&format!("neighbour replace {peer6} lladdr {mac} dev {name} nud permanent"));
            }
        }
    }

    fn is_without_ipv6(&self) -> bool {
        self.container.within(|| {
            fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").unwrap().starts_with('1')
        })
    }

    pub fn bpffs(&self) -> PathBuf {
        self.bpffs.path()
    }

    /// The plan for the netdev as it is numbered in the container.
    pub fn plan_here(&self) -> Plan {
        Plan { ifindex: self.container.ifindex(DUT), ..self.plan }
    }

    pub fn read(&self) -> Reading {
        counters::read(&self.bpffs(), &self.endpoint).unwrap()
    }

    pub fn rx(&self) -> Frames {
        let rx = self.read().counters.rx;
        Frames { packets: rx.packets, bytes: rx.bytes }
    }

    pub fn tx(&self) -> Frames {
        let tx = self.read().counters.tx;
        Frames { packets: tx.packets, bytes: tx.bytes }
    }

    /// What went one way, by class: counted at this end.
    pub fn classes(&self, from: From) -> Detailed {
        let ByClass { rx, tx } = self.read().detailed.expect("counters=detailed");
        match from {
            From::Container => tx,
            From::Far => rx,
        }
    }

    /// Counts the far end's netdev as well, by class and without a merge of what it receives. Its counters end
    /// with the lab.
    pub fn count_far_end(&self) -> EndpointId {
        let endpoint: EndpointId = unique("far").parse().unwrap();
        let plan = Plan {
            ifindex: self.far.ifindex(FAR),
            rx_hook: Hook::Tcx,
            spoof_check: SpoofCheck::Count(FAR_MAC),
            counters: CounterSet::Detailed,
            ..self.plan
        };
        self.far.within(|| self.counters.attach(&endpoint, &plan)).unwrap();
        endpoint
    }

    pub fn spoofed(&self) -> u64 {
        self.read().counters.tx.spoofed
    }

    /// Waits until nothing moves any more.
    pub fn settle(&self) {
        let state = || (self.read().counters, self.far.statistics(FAR));
        let mut last = state();
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(30));
            let now = state();
            if now == last {
                return;
            }
            last = now;
        }
        panic!("traffic goes on: {last:?}");
    }

    /// Our counters equal those of the netdev and of the one at the other end, where the frames on the
    /// wire are what is counted.
    #[track_caller]
    pub fn assert_agrees_with_netdevs(&self) {
        let look = || {
            self.settle();
            (self.netdevs(), Statistics { rx: self.rx(), tx: self.tx() })
        };
        let mut found = look();
        // IPv6 reports its multicast groups when it likes, also between two readings.
        while found != look() {
            found = look();
        }
        let ((dut, far), ours) = found;
        assert_eq!(ours, dut, "our counters and the netdev's own");
        assert_eq!(ours, Statistics { rx: far.tx, tx: far.rx }, "our counters and the far end's");
    }

    /// What both netdevs have counted.
    pub fn netdevs(&self) -> (Statistics, Statistics) {
        let (mut dut, mut far) = (self.container.statistics(DUT), self.far.statistics(FAR));
        if self.plan.rx_hook == Hook::Xdp || self.gro {
            // For XDP and GRO veth receives by NAPI, and then both ends count these frames without
            // their Ethernet header.
            dut.rx.bytes += 14 * dut.rx.packets;
            far.tx.bytes += 14 * far.tx.packets;
        }
        (dut, far)
    }

    /// The ids of both links.
    pub fn link_ids(&self) -> [u64; 2] {
        self.of_links(&self.endpoint, "id")
    }

    /// The ids of the programs that they run.
    pub fn program_ids(&self) -> [u64; 2] {
        self.of_links(&self.endpoint, "prog_id")
    }

    /// What bpftool tells of an endpoint's links.
    pub fn of_links(&self, endpoint: &EndpointId, field: &str) -> [u64; 2] {
        ["rx", "tx"].map(|name| {
            let path = self.bpffs().join(endpoint.as_str()).join(name);
            let link = json(&format!("bpftool --json link show pinned {}", path.display()));
            link[field].as_u64().unwrap()
        })
    }
}

/// What is left below a folder.
pub fn entries(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
