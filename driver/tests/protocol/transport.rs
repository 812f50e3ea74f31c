//! The socket and HTTP, below any operation.
use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    thread,
};

use serde_json::json;

use crate::support::{
    assert_names, docker_id,
    driver::Driver,
    http::{self, Connection},
    nic::Nic,
    simulated, trials,
};

trials![
    activate_and_capabilities,
    unknown_path_is_404,
    wrong_method_is_405,
    body_over_a_mebibyte_is_413,
    connection_is_kept_for_the_next_request,
    half_closed_connection_gets_its_answer,
    slow_clients_hold_up_nobody,
    socket_is_for_root_only,
    stale_socket_is_replaced,
    live_socket_is_refused,
    socket_comes_from_systemd,
    sigterm_finishes_what_is_under_way,
    sigterm_waits_for_no_idle_connection,
];

fn activate_and_capabilities() {
    let driver = Driver::start();
    let answer = driver.post("/Plugin.Activate", b"");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"Implements": ["NetworkDriver"]}));
    // The engine sends an empty body; a proxy or a person may send an empty object.
    for body in ["", "{}"] {
        let answer = driver.post("/NetworkDriver.GetCapabilities", body.as_bytes()).json();
        let local = json!({"Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": true});
        assert_eq!(answer, local);
    }
    driver.finish();
}

fn unknown_path_is_404() {
    let driver = Driver::start();
    for path in ["/NetworkDriver.Nonsense", "/", "/networkdriver.join", "/NetworkDriver.Join/x", "/%2e%2e"] {
        assert_eq!(driver.post(path, b"{}").status, 404, "{path}");
    }
    driver.finish();
}

fn wrong_method_is_405() {
    let driver = Driver::start();
    for method in ["GET", "PUT", "DELETE"] {
        for path in ["/Plugin.Activate", "/NetworkDriver.DeleteNetwork"] {
            let answer = http::request(&driver.socket, method, path, b"").unwrap();
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
    driver.finish();
}

fn body_over_a_mebibyte_is_413() {
    const LIMIT: usize = 1 << 20;
    let driver = Driver::start();
    let path = "/NetworkDriver.CreateNetwork";
    let mut body = vec![b' '; LIMIT];
    body[0] = b'{';
    let at_limit = driver.post(path, &body);
    assert_ne!(at_limit.status, 413);
    at_limit.complaint();

    body.push(b' ');
    assert_eq!(driver.post(path, &body).status, 413);

    // A length that is announced only, then one that is never announced.
    let mut connection = Connection::open(&driver.socket).unwrap();
    connection.send(http::head("POST", path, usize::MAX / 2).as_bytes());
    assert_eq!(connection.read_answer().unwrap().status, 413);
    let mut connection = Connection::open(&driver.socket).unwrap();
    connection
        .send(format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes());
    for _ in 0..20 {
        connection.send(b"10000\r\n");
        connection.send(&vec![b' '; 0x10000]);
        connection.send(b"\r\n");
    }
    assert_eq!(connection.read_answer().unwrap().status, 413);
    driver.assert_alive();
    driver.finish();
}

fn connection_is_kept_for_the_next_request() {
    let driver = Driver::start();
    let mut connection = Connection::open(&driver.socket).unwrap();
    for path in ["/Plugin.Activate", "/NetworkDriver.GetCapabilities", "/NetworkDriver.Nonsense"] {
        connection.send_request("POST", path, b"");
        connection.read_answer().unwrap();
    }
    // After a bad request, too: the engine keeps one connection for all of them.
    connection.send_request("POST", "/NetworkDriver.Join", b"not JSON");
    connection.read_answer().unwrap().complaint();
    connection.send_request("POST", "/Plugin.Activate", b"");
    assert_eq!(connection.read_answer().unwrap().status, 200);
    driver.finish();
}

fn half_closed_connection_gets_its_answer() {
    let driver = Driver::start();
    let mut connection = Connection::open(&driver.socket).unwrap();
    connection.send_request("POST", "/Plugin.Activate", b"");
    connection.shut_write();
    assert_eq!(connection.read_answer().unwrap().json(), json!({"Implements": ["NetworkDriver"]}));

    // One that promises a body and closes instead: no answer is due, but no harm either.
    let mut connection = Connection::open(&driver.socket).unwrap();
    connection.send(http::head("POST", "/NetworkDriver.CreateNetwork", 100).as_bytes());
    connection.send(b"{\"NetworkID\"");
    connection.shut_write();
    let _ = connection.read_answer();
    // And ones that go away without a word, or within the head.
    drop(UnixStream::connect(&driver.socket).unwrap());
    let mut connection = Connection::open(&driver.socket).unwrap();
    connection.send(b"POST /Plug");
    drop(connection);
    driver.assert_alive();
    driver.finish();
}

fn slow_clients_hold_up_nobody() {
    let driver = Driver::start();
    let nic = Nic::new();
    let slow: Vec<Connection> = (0..200)
        .map(|n| {
            let mut connection = Connection::open(&driver.socket).unwrap();
            let head = http::head("POST", "/NetworkDriver.CreateNetwork", 100);
            match n % 3 {
                0 => {}
                1 => connection.send(&head.as_bytes()[..30]),
                _ => connection.send(format!("{head}{{").as_bytes()),
            }
            connection
        })
        .collect();
    driver.assert_alive();
    let network = simulated::create_network(&driver, &nic);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    drop(slow);
    driver.finish();
}

fn socket_is_for_root_only() {
    let driver = Driver::start();
    let mode = fs::metadata(&driver.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "{mode:o}");
    driver.finish();
}

fn stale_socket_is_replaced() {
    let driver = Driver::start();
    driver.kill();
    assert!(driver.socket.exists(), "kill -9 leaves the socket's file behind");
    assert!(UnixStream::connect(&driver.socket).is_err(), "nobody listens");
    driver.serve();
    driver.finish();
}

fn live_socket_is_refused() {
    let driver = Driver::start();
    let other = Driver::without_engine();
    let second = other.command("serve").arg("--socket").arg(&driver.socket).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(matches!(second.status.code(), Some(1..=100)), "{}: {said}", second.status);
    assert_names(&said, &[driver.socket.to_str().unwrap()]);
    // The first has its socket still.
    driver.assert_alive();

    // Two drivers in one state folder would overwrite each other's, whatever their sockets.
    let elsewhere = other.socket.with_extension("elsewhere");
    let twin = driver.command("serve").arg("--socket").arg(&elsewhere).output().unwrap();
    let said = String::from_utf8_lossy(&twin.stderr).into_owned();
    assert!(matches!(twin.status.code(), Some(1..=100)), "{}: {said}", twin.status);
    assert_names(&said, &[driver.state_dir.to_str().unwrap()]);
    driver.assert_alive();

    // A file that is no socket is nobody's to delete.
    fs::write(&other.socket, "precious").unwrap();
    let third = other.command("serve").output().unwrap();
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(matches!(third.status.code(), Some(1..=100)), "{}: {said}", third.status);
    assert_names(&said, &[other.socket.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&other.socket).unwrap(), "precious");
    fs::remove_file(&other.socket).unwrap();
    other.serve();
    other.finish();
    driver.finish();
}

fn socket_comes_from_systemd() {
    let driver = Driver::without_engine();
    let listener = UnixListener::bind(&driver.socket).unwrap();
    driver.serve_activated(listener.try_clone().unwrap());
    driver.assert_alive();
    driver.terminate();
    // systemd made it, and goes on listening: who connects now waits for the next start.
    assert!(driver.socket.exists(), "the socket is not the driver's to remove");
    let mut early = Connection::open(&driver.socket).unwrap();
    early.send_request("POST", "/Plugin.Activate", b"");
    driver.serve_activated(listener.try_clone().unwrap());
    assert_eq!(early.read_answer().unwrap().status, 200);
    driver.terminate();
    fs::remove_file(&driver.socket).unwrap();
}

fn sigterm_finishes_what_is_under_way() {
    let driver = Driver::start();
    let nic = Nic::new();
    let id = docker_id();
    let body = simulated::network(&id, &json!({"netdevice": nic.name})).to_string();
    let mut connection = Connection::open(&driver.socket).unwrap();
    // The driver says "100 Continue" once it waits for the body: from then on the request is under way.
    connection.send(
        format!(
            "POST /NetworkDriver.CreateNetwork HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    assert_names(&connection.read_head().unwrap(), &["100"]);
    let mut idle = Connection::open(&driver.socket).unwrap();
    idle.send_request("POST", "/Plugin.Activate", b"");
    idle.read_answer().unwrap();
    driver.ask_to_end();
    assert!(idle.is_closed(), "nothing is under way there");
    connection.send(body.as_bytes());
    let answer = connection.read_answer().unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({})));
    let status = driver.wait();
    assert!(status.success(), "{status}");
    assert!(!driver.socket.exists(), "the socket it made is still there");

    // It was finished, not only answered.
    driver.serve();
    simulated::Container::start(&driver, &nic, &id).stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": id}));
    driver.finish();
}

fn sigterm_waits_for_no_idle_connection() {
    let driver = Driver::start();
    let mut kept = Connection::open(&driver.socket).unwrap();
    kept.send_request("POST", "/Plugin.Activate", b"");
    kept.read_answer().unwrap();
    let silent = Connection::open(&driver.socket).unwrap();
    let mut half = Connection::open(&driver.socket).unwrap();
    half.send(b"POST /Plug");
    thread::scope(|scope| {
        scope.spawn(|| driver.finish());
    });
    assert!(kept.is_closed());
    drop(silent);
}
