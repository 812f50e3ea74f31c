//! The counters of VFs are exact, to the frame and the byte.
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::libc;

use crate::support::{
    command,
    driver::Driver,
    eventually,
    frames::{self, within},
    look::Place,
    nic::Traffic,
    scrape::{self, Scrape},
    trials,
};

use super::{
    bench::{Bench, Segment, bench},
    frames::mac_of,
    tenant::{INSIDE, Network, Tenant, Wish},
};

trials![datagrams_both_ways, bulk_both_ways, metrics_of_a_vf_and_its_pf];

/// Ethernet, IPv4 and UDP.
const HEADERS: u64 = 14 + 20 + 8;
/// As many as any ring has room for.
const BURST: usize = 32;
/// How much a transfer has in it.
const BULK: usize = 20 << 20;

/// A tenant in VLAN 100, where nobody but the tests speaks, and who knows everybody's MAC.
struct Pair<'a> {
    tenant: Tenant<'a>,
    side: Segment<'a>,
}

impl<'a> Pair<'a> {
    #[track_caller]
    fn new(bench: &'a Bench, network: &'a Network<'a>) -> Self {
        let (tenant, side) = (network.start(&Wish::default()), Segment::new(bench, 100));
        tenant.address(&side.host(2));
        let far = mac_of(&side.place(), side.netdev());
        tenant.netns.ip(&format!("neigh replace {} lladdr {far} dev {INSIDE} nud permanent", side.gateway()));
        let (own, far_dev) = (&tenant.mac, side.netdev());
        bench.wire.ip(&format!("neigh replace {} lladdr {own} dev {far_dev} nud permanent", side.host(2)));
        let pair = Self { tenant, side };
        // The carrier comes a little later than the netdev is up.
        pair.side.ping(&pair.side.host(2), 1);
        pair
    }

    /// Waits until nothing moves any more.
    #[track_caller]
    fn settled(&self) -> Traffic {
        let mut last = None;
        eventually("the traffic has ended", || {
            thread::sleep(Duration::from_millis(100));
            let now = self.tenant.stats().traffic();
            if last.replace(now) == Some(now) { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    /// What the VF's netdev has counted itself.
    #[track_caller]
    fn netdev(&self) -> Traffic {
        netdev_of(&self.tenant.place()).0
    }

    #[track_caller]
    fn end(self) {
        self.tenant.stop();
    }

    fn udp(&self) -> [UdpSocket; 2] {
        let bind = |address: String| UdpSocket::bind(format!("{address}:4000")).expect("a socket");
        let inside = within(&self.tenant.place(), || bind(self.side.host(2)));
        let outside = within(&self.side.place(), || bind(self.side.gateway()));
        for socket in [&inside, &outside] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        }
        inside.connect(format!("{}:4000", self.side.gateway())).expect("an address");
        outside.connect(format!("{}:4000", self.side.host(2))).expect("an address");
        [inside, outside]
    }
}

/// What a container's netdev has counted itself, and what it has not sent.
#[track_caller]
pub fn netdev_of(place: &Place) -> (Traffic, u64) {
    let answer = place.run(&format!("ip -s -j link show dev {INSIDE}"));
    let links: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let number = |side: &str, what: &str| links[0]["stats64"][side][what].as_u64().expect("a statistic");
    let traffic = Traffic {
        rx_packets: number("rx", "packets"),
        rx_bytes: number("rx", "bytes"),
        tx_packets: number("tx", "packets"),
        tx_bytes: number("tx", "bytes"),
    };
    (traffic, number("tx", "dropped"))
}

/// Sends datagrams of these sizes, no faster than they arrive; what they are on the wire.
#[track_caller]
pub fn send(from: &UdpSocket, to: &UdpSocket, sizes: &[usize]) -> (u64, u64) {
    let payload = [0x55; 1472];
    let mut buffer = [0; 2048];
    for burst in sizes.chunks(BURST) {
        for &size in burst {
            assert_eq!(from.send(&payload[..size]).expect("sent"), size);
        }
        for &size in burst {
            assert_eq!(to.recv(&mut buffer).expect("lost on the way"), size);
        }
    }
    let bytes: usize = sizes.iter().sum();
    (sizes.len() as u64, bytes as u64 + HEADERS * sizes.len() as u64)
}

fn datagrams_both_ways() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    for options in [&[("vlan", "100")][..], &[("vlan", "100"), ("rx_hook", "tcx"), ("privileged", "1")]] {
        let network = Network::create(&driver, vfs.pf, options);
        let pair = Pair::new(bench, &network);
        let [inside, outside] = pair.udp();
        // A frame on the wire has 46 bytes of payload at least, so the smallest is not padded.
        let sizes: Vec<usize> = (0..2000).map(|n| 18 + n * 7919 % 1455).collect();
        let before = pair.settled();
        let sent = send(&inside, &outside, &sizes);
        let received = send(&outside, &inside, &sizes[..1234]);
        let now = pair.settled() - before;
        assert_eq!((now.tx_packets, now.tx_bytes), sent);
        assert_eq!((now.rx_packets, now.rx_bytes), received);
        let stats = pair.tenant.stats();
        // igbvf has no native XDP.
        assert_eq!((stats.rx_hook.as_str(), stats.tx_hook.as_str()), ("tcx", "tcx"));
        assert_eq!((stats.mode.as_str(), stats.spoofed()), ("sriov", 0));
        assert_eq!((&stats.netdevice, &stats.network_id), (&pair.tenant.netdev, &network.id));
        pair.end();
        network.remove();
    }
    driver.finish();
    vfs.assert_as_before();
}

/// What a socket has sent.
struct Sent {
    segments: u64,
    /// Of payload.
    bytes: u64,
    /// How many of the segments were sent once more.
    again: u64,
}

impl Sent {
    #[track_caller]
    fn by(stream: &TcpStream) -> Self {
        // struct tcp_info (include/uapi/linux/tcp.h)
        let mut info = [0_u8; 256];
        let mut size = 256;
        // SAFETY: the kernel writes at most `size` bytes.
        let read = unsafe {
            let to = info.as_mut_ptr().cast();
            libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut size)
        };
        assert!(read == 0 && size >= 208, "this kernel's struct tcp_info has no tcpi_bytes_sent");
        let word = |at| u32::from_ne_bytes(info[at..at + 4].try_into().expect("4 bytes"));
        Self {
            segments: word(136).into(),
            bytes: u64::from_ne_bytes(info[200..208].try_into().expect("8 bytes")),
            again: word(100).into(),
        }
    }

    /// On the wire: Ethernet, IPv4, TCP and timestamps; the SYN has 8 bytes more.
    fn on_the_wire(&self) -> (u64, u64) {
        (self.segments, self.bytes + self.segments * (14 + 20 + 20 + 12) + 8)
    }
}

/// Sends [`BULK`] by TCP, from one place to another; both ends of the connection.
#[track_caller]
fn transfer(pair: &Pair, out: bool) -> [TcpStream; 2] {
    let (tenant, wire) = (pair.tenant.place(), pair.side.place());
    let (from, to, address) =
        if out { (tenant, wire, pair.side.gateway()) } else { (wire, tenant, pair.side.host(2)) };
    let address = format!("{address}:{}", if out { 4001 } else { 4002 });
    let listener = within(&to, || TcpListener::bind(&address).expect("a listener"));
    let mut sender = within(&from, || TcpStream::connect(&address).expect("a connection"));
    let (mut receiver, _) = listener.accept().expect("a connection");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = BULK;
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                let read = receiver.read(&mut buffer).expect("data");
                assert_ne!(read, 0, "{left} bytes are missing");
                left -= read;
            }
        });
        let chunk = vec![0x55; 1 << 16];
        for _ in 0..BULK / chunk.len() {
            sender.write_all(&chunk).expect("room for data");
        }
    });
    [sender, receiver]
}

/// The sender's socket knows what it sent, whoever cut it into segments; what is lost before it gets to
/// the VF, it sends again.
fn bulk_both_ways() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let pair = Pair::new(bench, &network);
    for out in [true, false] {
        let (before, netdev_before) = (pair.settled(), pair.netdev());
        let ends = transfer(&pair, out);
        let (now, netdev) = (pair.settled() - before, pair.netdev() - netdev_before);
        let sent = Sent::by(&ends[0]);
        assert!(sent.bytes >= BULK as u64);
        if out {
            assert_eq!((now.tx_packets, now.tx_bytes), sent.on_the_wire());
        } else {
            let arrived = sent.segments - sent.again..=sent.segments;
            assert!(arrived.contains(&now.rx_packets), "{arrived:?}, {now:?}");
        }
        // The netdev's own counters see each frame on the wire, too.
        assert_eq!(now, netdev, "out: {out}");
        drop(ends);
    }
    pair.end();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// How many VFs the PF has, containers have, and are free; none if nobody hands it out.
fn pool(scrape: &Scrape, pf: &str) -> Option<[u64; 3]> {
    let of = [("pf", pf)];
    if scrape.all("pf_vfs", &of).is_empty() {
        return None;
    }
    Some(["pf_vfs", "pf_vfs_used", "pf_vfs_free"].map(|name| scrape.value(name, &of)))
}

fn metrics_of_a_vf_and_its_pf() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::without_engine();
    scrape::serve(&driver);
    // What gathering began before may be told once more.
    let await_pool = |wanted| {
        eventually("the VFs are counted", || match pool(&Scrape::of(&driver), &vfs.pf.name) {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}, not {wanted:?}")),
        });
    };
    await_pool(None);
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    await_pool(Some([7, 0, 7]));
    // The last one is the host's.
    let taken = vfs.pf.netdev(6).unwrap();
    command::ip(&format!("link set {taken} up"));
    command::ip(&format!("addr add 192.0.2.1/24 dev {taken}"));
    let pair = Pair::new(bench, &network);
    await_pool(Some([7, 1, 5]));
    // What the VF's netdev sends and our hook does not see.
    frames::bypass_the_qdisc(&pair.tenant.place(), INSIDE, 40);
    let of = [("endpoint", pair.tenant.endpoint.as_str())];
    let scrape = eventually("what went past the hook is seen", || {
        let scrape = Scrape::of(&driver);
        // There is no series as long as its netdev's own counters can't be had.
        let bypass = scrape.all("transmit_bypass_packets", &of).first().map(|sample| sample.value);
        if bypass == Some(40.0) { Ok(scrape) } else { Err(format!("{bypass:?}")) }
    });
    let (vf, address) = (pair.tenant.vf, vfs.pf.address(pair.tenant.vf));
    let series = scrape.one("transmit_packets_total", &of);
    assert_eq!(
        ["pf", "vf", "pciAddr", "netdevice"].map(|label| series.label(label)),
        [vfs.pf.name.as_str(), &vf.to_string(), &address, &pair.tenant.netdev]
    );
    let sent = |name| scrape.value(name, &of);
    assert_eq!(sent("netdev_transmit_packets_total"), sent("transmit_packets_total") + 40);
    // Nothing counts in the emulated hardware: that is no series, not 0.
    let hardware = scrape.0.iter().find(|sample| sample.name.starts_with("docker_passthrough_vf_"));
    assert_eq!(hardware, None);
    assert_eq!(driver.stats_json()[0]["vf"]["supported"], false);
    pair.end();
    await_pool(Some([7, 0, 6]));
    command::ip(&format!("addr flush dev {taken}"));
    command::ip(&format!("link set {taken} down"));
    network.remove();
    await_pool(None);
    driver.finish();
    vfs.assert_as_before();
}
