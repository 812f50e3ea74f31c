//! Clients that stay, dawdle or hang up, while the engine has work to do.
use serde_json::json;

use crate::support::{
    driver::Driver,
    eventually,
    http::{self, Connection},
    nic::Nic,
    simulated::{self, Container},
    trials,
};

trials![a_thousand_idle_connections_hold_up_nobody];

fn a_thousand_idle_connections_hold_up_nobody() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let round = || {
        let idle = dawdlers(&driver);
        for _ in 0..3 {
            let container = Container::start(&driver, &nic, &network);
            nic.ping(&nic.near4(2), 1);
            container.stop();
        }
        drop(idle);
    };
    // The memory for so many stays with the process, and serves the next.
    round();
    let before = eventually("the connections end", || {
        let now = driver.footprint();
        if now.fds < 100 { Ok(now) } else { Err(format!("{now:?}")) }
    });
    round();
    driver.settles_at(before);
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}

fn dawdlers(driver: &Driver) -> Vec<Connection> {
    let dawdler = |n| {
        let mut connection = Connection::open(&driver.socket).unwrap();
        let head = http::head("POST", "/NetworkDriver.CreateNetwork", 100);
        match n % 4 {
            // Silent, in the middle of a head or of a body, and kept for a next request that never comes.
            0 => {}
            1 => connection.send(&head.as_bytes()[..30]),
            2 => connection.send(format!("{head}{{").as_bytes()),
            _ => {
                connection.send_request("POST", "/Plugin.Activate", b"");
                assert_eq!(connection.read_answer().unwrap().status, 200, "connection {n}");
            }
        }
        connection
    };
    (0..1000).map(dawdler).collect()
}
