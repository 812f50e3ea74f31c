//! What the driver knows after it was killed, and what its state folder may have in it.
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    thread,
};

use serde_json::json;

use crate::support::{
    assert_names, command, docker_id,
    driver::Driver,
    http,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    trials,
};

trials![
    who_waits_at_its_socket_is_told_of_damaged_state,
    killed_between_any_two_steps,
    knows_who_has_what_after_a_restart,
    counters_go_on_while_it_is_down,
    stray_files_do_not_stop_it,
    damaged_state_is_refused_by_name,
    lost_state_loses_no_device,
    crash_on_the_way_to_an_endpoint_is_made_good,
    pins_that_nobody_remembers_are_no_obstacle,
    started_again_and_again_in_one_life,
];

fn killed_between_any_two_steps() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link set {} up", nic.name));
    let before = nic.look();
    let network = simulated::create_network(&driver, &nic);
    restart(&driver);
    let container = Container::create(&driver, &nic, &network);
    let (ids, create) = (container.ids(), simulated::endpoint(&network, &container.endpoint, ""));
    restart(&driver);
    // The engine may have seen no answer, and asks again.
    driver.done("CreateEndpoint", &create);
    container.join();
    restart(&driver);
    container.join();
    container.move_in();
    restart(&driver);
    driver.done("ProgramExternalConnectivity", &ids);
    nic.ping(&nic.near4(2), 1);
    restart(&driver);
    driver.done("RevokeExternalConnectivity", &ids);
    restart(&driver);
    driver.done("Leave", &ids);
    restart(&driver);
    driver.done("Leave", &ids);
    container.move_out();
    restart(&driver);
    driver.done("DeleteEndpoint", &ids);
    assert_eq!(nic.look(), before);
    restart(&driver);
    driver.done("DeleteEndpoint", &ids);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    restart(&driver);
    driver.refused("CreateEndpoint", &create);
    assert_eq!(nic.look(), before);
    driver.finish();
}

fn restart(driver: &Driver) {
    driver.kill();
    driver.serve();
}

fn knows_who_has_what_after_a_restart() {
    let driver = Driver::start();
    let (nic, other) = (Nic::new(), Nic::new());
    let options = json!({"netdevice": nic.name, "prefix": "wan", "mtu": "1300"});
    let network = simulated::create_network_with(&driver, &options);
    let container = Container::create(&driver, &nic, &network);
    let joined = container.join();
    container.move_in();
    for graceful in [false, true] {
        if graceful {
            driver.terminate();
        } else {
            driver.kill();
        }
        driver.serve();
        assert_eq!(container.join(), joined);
        let second = driver.refused("CreateEndpoint", &simulated::endpoint(&network, &docker_id(), ""));
        assert_names(&second, &["in use by"]);
        let taken = simulated::network(&docker_id(), &json!({"netdevice": nic.name}));
        assert_names(&driver.refused("CreateNetwork", &taken), &[&network[..12]]);
        let free = simulated::create_network(&driver, &other);
        driver.done("DeleteNetwork", &json!({"NetworkID": free}));
        assert_eq!(driver.stats_of(&nic.name).network_id, network);
    }
    container.stop();
    assert_eq!(nic.look().unwrap().mtu, 1500);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn counters_go_on_while_it_is_down() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 5);
    let first = driver.agrees_with(&nic, Traffic::default()).traffic();
    driver.kill();
    nic.ping(&nic.near4(2), 5);
    let down = driver.agrees_with(&nic, Traffic::default()).traffic();
    assert!(down.rx_packets >= first.rx_packets + 5, "{first:?}, {down:?}");
    driver.serve();
    nic.ping(&nic.near4(2), 5);
    let after = driver.agrees_with(&nic, Traffic::default()).traffic();
    assert!(after.rx_packets >= down.rx_packets + 5, "{down:?}, {after:?}");
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn stray_files_do_not_stop_it() {
    let driver = Driver::without_engine();
    let nic = Nic::new();
    let litter = |driver: &Driver| {
        let at = |name: &str| driver.state_dir.join(name);
        fs::create_dir_all(&driver.state_dir).unwrap();
        fs::write(at("garbage"), b"\xff\xfe\0garbage").unwrap();
        fs::write(at("empty.json"), "").unwrap();
        fs::write(at("state.json.new"), "{\"version\": 1, \"netwo").unwrap();
        fs::write(at("config.json"), "{}").unwrap();
        fs::create_dir_all(at("3f00ba").join("config.json")).unwrap();
        let _ = symlink("/nonexistent", at("dangling"));
    };
    litter(&driver);
    driver.serve();
    let network = simulated::create_network(&driver, &nic);
    driver.kill();
    litter(&driver);
    driver.serve();
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

/// Systemd holds the socket, and Docker would wait there for ever.
fn who_waits_at_its_socket_is_told_of_damaged_state() {
    let driver = Driver::without_engine();
    let file = driver.state_dir.join("state.json");
    fs::create_dir_all(&driver.state_dir).unwrap();
    fs::set_permissions(&driver.state_dir, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(&file, "{").unwrap();
    fs::create_dir_all(driver.socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&driver.socket).unwrap();
    thread::scope(|scope| {
        let calls = [(); 3].map(|()| {
            scope.spawn(|| http::request(&driver.socket, "POST", "/NetworkDriver.Join", b"{}").unwrap())
        });
        // As systemd does for whoever waits.
        while calls.iter().any(|call| !call.is_finished()) {
            driver.begin_activated(listener.try_clone().unwrap());
            assert_eq!(driver.wait().code(), Some(3), "{}", driver.log());
        }
        for call in calls {
            let answer = call.join().expect("an answer");
            assert_eq!(answer.status, 500);
            let reason = answer.json()["Err"].as_str().unwrap_or_default().to_owned();
            assert_names(&reason, &[file.to_str().unwrap(), "mend the file"]);
        }
    });
    fs::remove_file(&driver.socket).unwrap();
}

fn damaged_state_is_refused_by_name() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    driver.terminate();
    let file = driver.state_dir.join("state.json");
    let whole = fs::read(&file).unwrap();
    for damaged in [&b""[..], &whole[..whole.len() / 2], b"\xff\xfe", b"null", b"{\"version\": 999}"] {
        fs::write(&file, damaged).unwrap();
        let ended = driver.command("serve").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(3), "{said}");
        assert_names(&said, &[file.to_str().unwrap()]);
        assert_eq!(fs::read(&file).unwrap(), damaged, "what is there is the operator's to mend");
        assert!(!driver.socket.exists(), "Docker would wait for a driver that isn't there");
    }
    fs::write(&file, whole).unwrap();
    driver.serve();
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn lost_state_loses_no_device() {
    let driver = Driver::start();
    let nic = Nic::new();
    command::ip(&format!("link set {} alias mine", nic.name));
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    let (ids, netns) = (container.ids(), &container.netns);
    driver.kill();
    fs::remove_dir_all(&driver.state_dir).unwrap();
    // Home under the name it had in the container, as hardware comes home from a dead namespace.
    netns.ip("link set eth0 down");
    netns.ip("link set eth0 name lost0");
    netns.ip("link set lost0 netns 1");
    driver.serve();
    driver.done("Leave", &ids);
    driver.done("DeleteEndpoint", &ids);
    let home = nic.look().unwrap_or_else(|| panic!("it is still called {:?}", nic.name_now()));
    let alias = home.alias.unwrap_or_default();
    assert!(!alias.contains(ids["EndpointID"].as_str().unwrap()), "still tagged: {alias}");
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    // It can be used again.
    let network = simulated::create_network(&driver, &nic);
    Container::start(&driver, &nic, &network).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn crash_on_the_way_to_an_endpoint_is_made_good() {
    let driver = Driver::start();
    // How far it had come, as the kernel shows it: nothing changed yet, and all but the counters.
    for tagged in [false, true] {
        let nic = Nic::new();
        command::ip(&format!("link set {} up alias mine", nic.name));
        let before = nic.look();
        let network = simulated::create_network(&driver, &nic);
        let container = Container::create(&driver, &nic, &network);
        driver.kill();
        fs::remove_dir_all(driver.bpffs.join(&container.endpoint)).unwrap();
        if !tagged {
            command::ip(&format!("link set {} up alias mine", nic.name));
        }
        driver.serve();
        // The engine saw no answer, and asks again.
        driver.done("CreateEndpoint", &simulated::endpoint(&network, &container.endpoint, ""));
        assert_eq!(driver.pins(&container.endpoint), ["counters", "rx", "tx"], "tagged: {tagged}");
        assert!(!nic.look().unwrap().is_up());
        let since = nic.far_counters();
        container.join();
        container.move_in();
        nic.ping(&nic.near4(2), 3);
        driver.agrees_with(&nic, since);
        container.stop();
        assert_eq!(nic.look(), before, "tagged: {tagged}");
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
    driver.finish();
}

fn pins_that_nobody_remembers_are_no_obstacle() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = docker_id();
    // The hook that takes one program only.
    let options = json!({"netdevice": nic.name, "rx_hook": "xdp"});
    driver.done("CreateNetwork", &simulated::network(&network, &options));
    let file = driver.state_dir.join("state.json");
    let early = fs::read(&file).unwrap();
    let lost = Container::create(&driver, &nic, &network);
    driver.kill();
    fs::write(&file, early).unwrap();
    driver.serve();
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 3);
    driver.agrees_with(&nic, Traffic::default());
    assert_eq!(driver.pins(&lost.endpoint), [""; 0]);
    container.stop();
    assert_eq!(nic.look().and_then(|look| look.alias), None);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn started_again_and_again_in_one_life() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    for n in 0..20 {
        if n % 2 == 0 {
            driver.kill();
        } else {
            driver.terminate();
        }
        driver.serve();
    }
    nic.ping(&nic.near4(2), 5);
    driver.agrees_with(&nic, Traffic::default());
    assert_eq!(driver.stats().len(), 1);
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
