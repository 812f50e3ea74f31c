//! The driver run by the engine that it serves: as a container, as a managed plugin.
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::support::{
    assert_names, command,
    container::Network,
    docker::Engine,
    driver::{Stats, entries},
    eventually,
    nic::{Nic, Traffic},
    packed::{CAPABILITIES, Packed, Plugin},
    trials,
};

trials![as_a_container_with_what_it_needs, as_a_managed_plugin];

fn as_a_container_with_what_it_needs() {
    let engine = Engine::start(&[]);
    let mut options = vec!["--cap-drop=ALL", "--security-opt=apparmor=unconfined"];
    let capabilities = CAPABILITIES.map(|capability| format!("--cap-add={capability}"));
    options.extend(capabilities.iter().map(String::as_str));
    let packed = Packed::run(&engine, &options);
    let driver = &packed.driver;
    let nic = Nic::new();
    let network = Network::create(&engine, driver, &nic, &["-o", "mode=passthrough"]);
    let tenant = network.run("tenant", &["--cap-add", "NET_ADMIN"]);
    nic.ping(&nic.near4(2), 5);
    // From outside and from inside, and as the far end has it.
    let stats = driver.agrees_with(&nic, Traffic::default());
    driver.names(&nic.name, &tenant.name);
    let inside: Vec<Stats> = serde_json::from_str(&packed.inside(&["stats", "--json"])).unwrap();
    assert!(matches!(&inside[..], [one] if one.endpoint_id == stats.endpoint_id), "{inside:?}");
    // The namespace of the container is looked into for these.
    let netdev: Value = serde_json::from_str(&packed.inside(&["stats", "--json"])).unwrap();
    assert!(netdev[0]["netdev"]["rx_packets"].is_u64(), "{netdev}");

    doctor_looks(&engine, &packed);

    // It ends, and is started again; the tenant is not touched.
    kill(Pid::from_raw(packed.pid()), Signal::SIGKILL).unwrap();
    nic.ping(&nic.near4(2), 5);
    eventually(
        "it is started again",
        || if packed.engine_says_running() { Ok(()) } else { Err(packed.log()) },
    );
    packed.wait();
    nic.ping(&nic.near4(2), 5);
    let after = driver.agrees_with(&nic, Traffic::default());
    assert_eq!(after.endpoint_id, stats.endpoint_id);
    assert!(after.traffic().rx_packets >= 15, "{after:?}");

    // What only the container's namespace has is brought home out of it.
    tenant.sh("ip link set eth0 down; ip link set eth0 name hidden");
    drop(tenant);
    network.wait_home();
    let again = network.run("again", &[]);
    nic.ping(&nic.near4(2), 1);
    drop(again);
    network.remove();
    assert_eq!(entries(&driver.bpffs), [""; 0]);
}

/// From outside and from inside nothing is amiss; in containers that lack something, that is named.
#[track_caller]
fn doctor_looks(engine: &Engine, packed: &Packed) {
    let program = ["exec", &packed.container, "/usr/bin/docker-passthrough", "doctor", "--json"];
    let outside = packed.driver.command("doctor").arg("--json").output().unwrap();
    for text in [String::from_utf8(outside.stdout).unwrap(), either(engine.attempt(&program))] {
        let findings = shared(&text);
        assert!(matches!(&findings[..], [(check, status)] if check == "shared" && status == "ok"), "{text}");
    }
    let docker = format!("{}:/var/run/docker.sock", engine.socket().display());
    let run = |options: &[&str]| {
        let start =
            ["run", "--rm", "--cap-add=SYS_PTRACE", "--security-opt=apparmor=unconfined", "-v", &docker];
        let start = [&start, options, &[&packed.image, "doctor", "--json"]].concat();
        either(engine.attempt(&start))
    };
    let all = [
        ("shared namespaces", "error"),
        ("shared network", "error"),
        ("shared pins", "warning"),
        ("shared sockets", "error"),
        ("shared state", "error"),
        ("shared sysfs", "warning"),
    ];
    let none = run(&["--network=none", "--pid=host"]);
    let mut findings = shared(&none);
    findings.sort();
    assert_eq!(findings, all.map(|(check, status)| (check.to_owned(), status.to_owned())), "{none}");
    // Each as docs/installing.md has it, but for one.
    let parts = ["--net=host", "--pid=host", "-v=/sys:/sys", "-v=/run/docker:/run/docker:rslave"];
    let parts = [&parts[..], &["-v=/run/state:/var/lib/docker-passthrough"]].concat();
    for (part, instead, check, mend) in [
        ("--pid=host", None, "shared processes", "--pid=host"),
        (
            "-v=/run/docker:/run/docker:rslave",
            Some("-v=/run/docker:/run/docker"),
            "shared namespaces",
            ":rslave",
        ),
    ] {
        let others = parts.iter().copied().filter(|other| *other != part).chain(instead);
        let text = run(&others.collect::<Vec<_>>());
        let findings = shared(&text);
        assert!(matches!(&findings[..], [(found, _)] if found == check), "without {part}: {text}");
        assert_names(&text, &[mend]);
    }
}

/// What a command said, however it ended.
fn either(said: Result<String, String>) -> String {
    said.unwrap_or_else(|complaint| complaint)
}

/// The checks of what is shared, and how each came out.
#[track_caller]
fn shared(doctor: &str) -> Vec<(String, String)> {
    let json = doctor.find('[').map_or(doctor, |start| &doctor[start..]);
    let findings: Vec<Value> = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {doctor}"));
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let all = findings.iter().map(|finding| (text(finding, "check"), text(finding, "status")));
    all.filter(|(check, _)| check.starts_with("shared")).collect()
}

fn as_a_managed_plugin() {
    let engine = Engine::start(&[]);
    let folder = tempfile::tempdir_in("/run").unwrap();
    let plugin = Plugin::enable(&engine, folder.path());
    let (found, said) = plugin.finding(true, "engine and driver");
    assert_eq!(found, "ok");
    assert_names(&said, &["has no network of driver", &plugin.driver()]);
    let nic = Nic::new();
    let subnet = ["--subnet", &nic.net4(), "--gateway", &nic.far4()];
    let name = format!("net-{}", nic.name);
    let netdevice = format!("netdevice={}", nic.name);
    let create = ["network", "create", "-d", &plugin.driver(), "-o", &netdevice, "-o", "mode=passthrough"];
    engine.docker(&[&create[..], &subnet, &[&name]].concat());
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "tenant",
        "--network",
        &name,
        crate::support::docker::IMAGE,
        "sleep",
        "1000000",
    ]);
    nic.ping(&nic.near4(2), 5);
    // The host's own program reads what the plugin's driver knows.
    let (remembered, bpffs) = (plugin.state_dir().display().to_string(), plugin.bpffs.display().to_string());
    let look =
        ["stats", "--json", "--state-dir", &remembered, "--bpffs", &bpffs, "--docker-host", &engine.host()];
    let stats = command::run(env!("CARGO_BIN_EXE_docker-passthrough"), &look);
    let stats: Vec<Stats> = serde_json::from_str(&stats).unwrap();
    assert!(stats.len() == 1 && stats[0].container.as_deref() == Some("tenant"), "{stats:?}");
    assert!(stats[0].traffic().rx_packets >= 5, "{stats:?}");
    // Its doctor says what to look at, and finds it well. What the plugin has pinned is not taken for leftovers.
    let (found, said) = plugin.finding(false, "driver");
    assert_eq!(found, "error", "{said}");
    assert_names(
        &said,
        &["there is no socket", &plugin.driver(), "--socket /run/docker/plugins/", &remembered],
    );
    for (check, words) in [
        ("driver", vec!["answers at", "passthrough.sock"]),
        ("engine and driver", vec!["has networks of driver", &plugin.driver()]),
        ("leftovers", vec!["none"]),
    ] {
        let (found, said) = plugin.finding(true, check);
        assert_eq!(found, "ok", "{said}");
        assert_names(&said, &words);
    }
    // This engine has its containers' namespaces elsewhere than in /run/docker. The rest is as it should be.
    assert_eq!(shared(&plugin.doctor(true)), [("shared namespaces".into(), "error".into())]);
    let (found, said) = plugin.finding(false, "leftovers");
    assert_eq!((found.as_str(), said.as_str()), ("ok", "none; "));
    // In use it is not taken away.
    let complaint = engine.attempt(&["plugin", "disable", &plugin.name]).unwrap_err();
    assert_names(&complaint, &["in use"]);
    engine.docker(&["rm", "-f", "tenant"]);
    eventually("the NIC is home", || nic.look().map(drop).ok_or_else(|| engine.log()));
    engine.docker(&["network", "rm", &name]);
    engine.docker(&["plugin", "disable", &plugin.name]);
    engine.docker(&["plugin", "rm", &plugin.name]);
    assert_eq!(entries(&plugin.bpffs), [""; 0]);
}
