//! What the hardware refuses: asked for by the user, it fails the start, and nothing of it is left.
use crate::support::{assert_names, command, docker::Engine, driver::Driver, driver::entries, trials};

use super::{
    bench::{Segment, bench},
    docker::DockerNetwork,
    tenant::{Network, Wish},
};

trials![refused_settings_fail_the_start, refused_settings_under_docker];

fn refused_settings_fail_the_start() {
    let bench = bench();
    let mut vfs = bench.with_vfs();
    // Each setting of a VF that is to be put back.
    vfs.pf.set(1, "vlan 7 qos 2");
    vfs.pf.set(1, "trust on");
    vfs.settle();
    let driver = Driver::start();
    for (options, parts) in [
        (&[("link_state", "enable")][..], &["link_state enable", "Operation not supported"][..]),
        (&[("link_state", "disable")], &["link_state disable", "Operation not supported"]),
        (&[("vlan_proto", "802.1ad")], &["802.1ad", "Protocol not supported"]),
        (&[("min_tx_rate", "10")], &["min_tx_rate 10", "Invalid argument"]),
        (&[("max_tx_rate", "100000")], &["max_tx_rate 100000", "Invalid argument"]),
        (&[("mtu", "60000")], &["mtu 60000", "Invalid argument"]),
        (&[("rx_hook", "xdp")], &["XDP"]),
    ] {
        // Much that has been done before it is refused.
        let others = [("vlan", "100"), ("vlan_qos", "3"), ("privileged", "1"), ("spoofchk", "off")];
        let network = Network::create(&driver, vfs.pf, &[options, &others].concat());
        let complaint = network.refuses(&Wish { mac: "02:5e:00:00:00:01".into(), vf: Some(1) });
        assert_names(&complaint, parts);
        vfs.assert_as_before();
        assert!(driver.stats().is_empty());
        assert_eq!(entries(&driver.bpffs), [""; 0]);
        network.remove();
    }
    // What it has anyway needs no setting.
    let network = Network::create(&driver, vfs.pf, &[("link_state", "auto"), ("min_tx_rate", "0")]);
    network.start(&Wish::vf(1)).stop();
    network.remove();
    // A rate needs a PF that is up.
    let network = Network::create(&driver, vfs.pf, &[("max_tx_rate", "100")]);
    command::ip(&format!("link set {} down", vfs.pf.name));
    assert_names(&network.refuses(&Wish::vf(1)), &["max_tx_rate 100", "Invalid argument"]);
    vfs.pf.raise();
    vfs.assert_as_before();
    network.start(&Wish::vf(1)).stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
    vfs.pf.set_count(0);
}

fn refused_settings_under_docker() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let side = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &side, &["link_state=enable"]);
    let complaint = network.try_run("refused", &[]).err().expect("the hardware has no such setting");
    assert_names(&complaint, &["remote:", "link_state enable", "Operation not supported"]);
    vfs.assert_as_before();
    network.remove();
    driver.finish();
}
