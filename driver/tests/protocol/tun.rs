//! A netdev whose link layer is not Ethernet: no header, no hardware address, and counted all the same.
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::libc;
use serde_json::json;

use crate::support::{
    address4, assert_names, command, docker_id,
    driver::Driver,
    eventually,
    look::{Look, Place},
    netns::Netns,
    nic::Traffic,
    simulated,
    tcx::within,
    trials, unique,
};

trials![tun_is_counted_and_comes_home];

const PORT: u16 = 4000;
/// IPv4 and UDP.
const HEADERS: usize = 20 + 8;

/// What reads and writes the packets of a new netdev without a link layer.
#[track_caller]
fn tun(name: &str) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN_NO_PI: u16 = 0x0001 | 0x1000;
    let tun = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
    // SAFETY: as long as struct ifreq, and laid out so.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(made, 0, "TUNSETIFF: {}", io::Error::last_os_error());
    tun
}

/// An IPv4 packet with a datagram.
fn packet(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = |headers: usize| u16::try_from(headers + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(length(HEADERS));
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend([from.octets(), to.octets()].concat());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("no more than one carry");
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend([PORT.to_be_bytes(), PORT.to_be_bytes(), length(8), [0, 0]].concat());
    header.extend(payload);
    header
}

fn tun_is_counted_and_comes_home() {
    let driver = Driver::start();
    let n = unique();
    let name = format!("tun{n}");
    let mut tun = tun(&name);
    command::ip(&format!("link set {name} mtu 1400 txqueuelen 77 alias tunnel"));
    let look = || Look::at(&Place::Host, &name);
    let before = look().unwrap();
    assert_eq!(before.mac, "");
    let network = simulated::create_network_with(&driver, &json!({"netdevice": name}));

    let mac = "02:5e:00:00:00:01";
    let refused = driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), mac));
    assert_names(&refused, &["--mac-address", mac, &name, "has no Ethernet address"]);
    assert_eq!(look().unwrap(), before);

    let endpoint = docker_id();
    let created = driver.done("CreateEndpoint", &simulated::endpoint(&network, &endpoint, ""));
    assert_eq!(created["Interface"]["MacAddress"].as_str().unwrap_or_default(), "", "{created}");
    let netns = Netns::new(format!("c{}", &endpoint[..8]));
    netns.run("busybox sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
    let join = simulated::join(&network, &endpoint, &netns);
    assert_eq!(driver.done("Join", &join)["InterfaceName"]["SrcName"], name.as_str());
    command::ip(&format!("link set {name} netns {}", netns.name()));
    let [near, far]: [Ipv4Addr; 2] = [2, 1].map(|host| address4(n, host).parse().unwrap());
    for line in [
        format!("link set {name} name eth0"),
        format!("addr add {near}/24 dev eth0"),
        "link set eth0 up".into(),
    ] {
        netns.ip(&line);
    }
    let socket = within(&netns.path(), || UdpSocket::bind((near, PORT)).expect("a socket"));
    socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("a timeout");
    socket.connect((far, PORT)).expect("an address");

    let mut expected = Traffic::default();
    let mut buffer = [0; 2048];
    for n in 0..200 {
        let payload = vec![0x55; n * 7919 % 1300];
        let length = (HEADERS + payload.len()) as u64;
        socket.send(&payload).expect("sent");
        // It comes out as it was sent, without a header of a link layer.
        let read = tun.read(&mut buffer).expect("a packet");
        assert_eq!((read as u64, buffer[0], buffer[9]), (length, 0x45, 17));
        expected.tx_packets += 1;
        expected.tx_bytes += length;
        if n % 3 == 0 {
            tun.write_all(&packet(far, near, &payload)).expect("written");
            assert_eq!(socket.recv(&mut buffer).expect("it arrives"), payload.len());
            expected.rx_packets += 1;
            expected.rx_bytes += length;
        }
    }
    let stats = eventually("all of it is counted", || {
        let stats = driver.stats_of(&name);
        if stats.traffic() == expected { Ok(stats) } else { Err(format!("{stats:?}, not {expected:?}")) }
    });
    assert_eq!((stats.rx_hook.as_str(), stats.tx_hook.as_str(), stats.spoofed()), ("tcx", "tcx", 0));

    let ids = simulated::ids(&network, &endpoint);
    driver.done("Leave", &ids);
    for line in
        ["link set eth0 down", &format!("link set eth0 name {name}"), &format!("link set {name} netns 1")]
    {
        netns.ip(line);
    }
    driver.done("DeleteEndpoint", &ids);
    assert_eq!(look().unwrap(), before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
