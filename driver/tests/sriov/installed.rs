//! The driver run by the engine that it serves, on VFs: as a privileged container, and as a plugin for Swarm.
use std::fs;

use serde_json::Value;

use crate::support::{
    PATIENCE, command,
    docker::{Engine, IMAGE},
    driver::{Driver, Stats},
    eventually_within,
    packed::{Packed, Plugin},
    trials,
};

use super::{
    bench::{Segment, bench},
    docker::{DockerNetwork, address},
};

trials![as_a_privileged_container, as_a_plugin_under_swarm, a_network_of_the_original_is_taken_over];

fn as_a_privileged_container() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let engine = Engine::start(&[]);
    let packed = Packed::run(&engine, &["--privileged"]);
    let segment = Segment::new(bench, 100);
    // Its VFs are made, and taken away, through the container's sysfs.
    let network = DockerNetwork::create(&engine, &packed.driver, vfs.pf, &segment, &["vfs=2"]);
    assert_eq!(vfs.pf.count(), 2);
    let tenant = network.run("tenant", &[]);
    segment.ping(&address(&tenant), 3);
    engine.docker(&["restart", "-t", "5", &packed.container]);
    packed.wait();
    segment.ping(&address(&tenant), 3);
    let stats = packed.driver.stats();
    assert!(stats.len() == 1 && stats[0].traffic().rx_packets >= 6, "{stats:?}");
    drop(tenant);
    network.remove();
    drop(packed);
    vfs.assert_as_before();
}

fn as_a_plugin_under_swarm() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let engine = Engine::start(&[]);
    let folder = tempfile::tempdir_in("/run").unwrap();
    let plugin = Plugin::enable(&engine, folder.path());
    let segment = Segment::new(bench, 100);
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    let (netdevice, subnet, gateway) =
        (format!("netdevice={}", vfs.pf.name), segment.subnet(), segment.gateway());
    // What differs from node to node is in a network of each node's own.
    engine.docker(&[
        "network",
        "create",
        "--config-only",
        "-o",
        &netdevice,
        "-o",
        "mode=sriov",
        "-o",
        "vlan=100",
        "-o",
        "vfs=2",
        "--subnet",
        &subnet,
        "--gateway",
        &gateway,
        "node",
    ]);
    let create = ["network", "create", "-d", &plugin.driver(), "--scope", "swarm", "--config-from", "node"];
    engine.docker(&[&create[..], &["fabric"]].concat());
    let service = ["service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "2"];
    engine.docker(&[&service[..], &["--network", "fabric", IMAGE, "sleep", "1000000"]].concat());
    let running = || engine.docker(&["ps", "-q", "--filter", "label=com.docker.swarm.service.name=web"]);
    let tasks = eventually_within(4 * PATIENCE, "both tasks run", || match running().lines().count() {
        2 => Ok(running()),
        _ => Err(format!(
            "{}\n{}",
            engine.docker(&[
                "service",
                "ps",
                "--no-trunc",
                "--format",
                "{{.CurrentState}} {{.Error}}",
                "web"
            ]),
            engine.log()
        )),
    });
    for task in tasks.lines() {
        let inspect = ["inspect", "-f", "{{.NetworkSettings.Networks.fabric.IPAddress}}", task];
        segment.ping(&engine.docker(&inspect), 2);
    }
    let (remembered, bpffs) = (plugin.state_dir().display().to_string(), plugin.bpffs.display().to_string());
    let look =
        ["stats", "--json", "--state-dir", &remembered, "--bpffs", &bpffs, "--docker-host", &engine.host()];
    let stats: Vec<Stats> =
        serde_json::from_str(&command::run(env!("CARGO_BIN_EXE_docker-passthrough"), &look)).unwrap();
    assert_eq!(stats.len(), 2, "{stats:?}");
    assert!(stats.iter().all(|one| one.traffic().rx_packets >= 2), "{stats:?}");
    engine.docker(&["service", "rm", "web"]);
    eventually_within(2 * PATIENCE, "the tasks end", || {
        if running().is_empty() { Ok(()) } else { Err(running()) }
    });
    eventually_within(2 * PATIENCE, "the network goes", || engine.attempt(&["network", "rm", "fabric"]));
    eventually_within(2 * PATIENCE, "the VFs are as they were", || match vfs.pf.count() {
        0 => Ok(()),
        count => Err(format!("{count} VFs\n{}", engine.log())),
    });
    engine.docker(&["network", "rm", "node"]);
    engine.docker(&["swarm", "leave", "--force"]);
    drop(plugin);
    vfs.assert_as_before();
}

fn a_network_of_the_original_is_taken_over() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    let segment = Segment::new(bench, 100);
    let network = DockerNetwork::create(engine, &driver, vfs.pf, &segment, &["mode=sriov"]);
    let original = driver.state_dir.parent().unwrap().join("original").join(network.id());
    fs::create_dir_all(&original).unwrap();
    // As the original wrote it.
    let (pf, gateway) = (&vfs.pf.name, segment.gateway());
    let config = format!(
        r#"{{"Version":0,"Netdevice":"{pf}","Mode":"sriov","Subnet":"","Gateway":"{gateway}/24","vlan":100,"Privileged":false}}"#
    );
    fs::write(original.join("config.json"), config).unwrap();
    driver.terminate();
    fs::remove_file(driver.state_dir.join("state.json")).unwrap();
    let mut import = driver.command("import");
    import.arg(original.parent().unwrap()).args(["--json", "--apply"]);
    let rows = command::finish("import", &mut import).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    assert!(rows.len() == 1 && rows[0]["status"] == "imported", "{rows:#?}");
    driver.serve();
    let tenant = network.run("tenant", &[]);
    segment.ping(&address(&tenant), 3);
    assert_eq!(vfs.pf.row(0)["vlan_list"][0]["vlan"], 100);
    assert!(driver.stats()[0].traffic().rx_packets >= 3);
    drop(tenant);
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}
