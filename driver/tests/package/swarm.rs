//! The plugin under Swarm, which makes bridges on its host: not in the machine of the suite `engine`.
use crate::support::{
    assert_names,
    docker::{Engine, IMAGE},
    eventually,
    nic::Nic,
    packed::Plugin,
    trials,
};

trials![a_service_on_a_network_of_each_nodes_own];

fn a_service_on_a_network_of_each_nodes_own() {
    let engine = Engine::start(&[]);
    let folder = tempfile::tempdir_in("/run").unwrap();
    let plugin = Plugin::enable(&engine, folder.path());
    let nic = Nic::new();
    let before = nic.look();
    let (netdevice, subnet, gateway) = (format!("netdevice={}", nic.name), nic.net4(), nic.far4());
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    // What differs from node to node is in a network of each node's own.
    let own = ["--config-only", "-o", &netdevice, "-o", "mode=passthrough"];
    let addresses = ["--subnet", &subnet, "--gateway", &gateway];
    engine.docker(&[&["network", "create"], &own[..], &addresses, &["node"]].concat());
    let everywhere = ["-d", &plugin.driver(), "--scope", "swarm", "--config-from", "node", "fabric"];
    engine.docker(&[&["network", "create"], &everywhere[..]].concat());
    let service = ["service", "create", "-d", "--no-resolve-image", "--stop-grace-period", "1s"];
    let what = ["--name", "web", "--network", "fabric", IMAGE, "sleep", "1000000"];
    engine.docker(&[&service[..], &what].concat());
    let tasks = || engine.docker(&["ps", "-q", "--filter", "label=com.docker.swarm.service.name=web"]);
    let why = ["service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "web"];
    eventually("its task runs", || match tasks().lines().count() {
        1 => Ok(()),
        _ => Err(format!("{}\n{}", engine.docker(&why), engine.log())),
    });
    nic.ping(&nic.near4(2), 3);
    for (is_told, status) in [(true, "ok"), (false, "warning")] {
        let (found, said) = plugin.finding(is_told, "swarm");
        assert_eq!(found, status, "{said}");
        assert_names(&said, &["managed plugin", &plugin.driver()]);
    }
    engine.docker(&["service", "rm", "web"]);
    eventually("its task ends", || if tasks().is_empty() { Ok(()) } else { Err(tasks()) });
    eventually("the NIC is home", || if nic.look() == before { Ok(()) } else { Err(engine.log()) });
    eventually("the network goes", || engine.attempt(&["network", "rm", "fabric"]));
    engine.docker(&["network", "rm", "node"]);
    engine.docker(&["swarm", "leave", "--force"]);
}
