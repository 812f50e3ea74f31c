//! What the kernel tells the driver about forged frames, if it is asked to.
use std::{thread, time::Instant};

use serde_json::json;

use crate::support::{
    driver::Driver,
    eventually,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    trials,
};

trials![forged_macs_are_reported_on_demand, running_containers_report_after_a_restart];

const FORGED: &str = "02:ee:ee:ee:ee:01";
const REPORTING: [&str; 1] = ["--bpf-log"];

/// What it has logged about forged frames.
fn reports(driver: &Driver) -> Vec<String> {
    driver.log().lines().filter(|line| line.contains(FORGED)).map(str::to_owned).collect()
}

/// Sends frames with a forged MAC, then has its own again.
fn forge(container: &Container, nic: &Nic, frames: u32) {
    let (inside, far) = (Container::INSIDE, nic.far4());
    container.netns.ip(&format!("link set {inside} address {FORGED}"));
    // Nobody has to be asked, and nobody answers.
    container.netns.ip(&format!("neigh replace {far} lladdr 02:fa:00:00:00:ff dev {inside}"));
    let ping = format!("busybox ping -c {frames} -i 0.01 -W 1 {far}");
    container.netns.place().attempt(&ping).expect_err("an answer to a forged frame");
    container.netns.ip(&format!("neigh del {far} dev {inside}"));
    container.netns.ip(&format!("link set {inside} address {}", nic.mac()));
}

/// Forges a frame, and waits until it is reported.
#[track_caller]
fn assert_reports(driver: &Driver, container: &Container, nic: &Nic) {
    let before = reports(driver).len();
    forge(container, nic, 1);
    let line = eventually("the forged frame is reported", || {
        reports(driver).into_iter().nth(before).ok_or_else(|| driver.log())
    });
    for part in [&container.endpoint, FORGED, &nic.mac(), "WARN"] {
        assert!(line.contains(part), "{line:?} does not say {part:?}");
    }
}

/// Forges a frame that is counted, and not reported.
#[track_caller]
fn assert_silent(driver: &Driver, container: &Container, nic: &Nic) {
    let (before, spoofed) = (reports(driver), driver.stats_of(&nic.name).spoofed());
    forge(container, nic, 1);
    assert!(driver.stats_of(&nic.name).spoofed() > spoofed);
    assert_eq!(reports(driver), before);
    assert_eq!(driver.open_maps(), 0);
}

fn forged_macs_are_reported_on_demand() {
    let driver = Driver::without_engine();
    driver.serve_with(&REPORTING);
    for hook in ["xdp", "tcx"] {
        let nic = Nic::new();
        let options = json!({"netdevice": nic.name, "rx_hook": hook});
        let network = simulated::create_network_with(&driver, &options);
        let container = Container::start(&driver, &nic, &network);
        nic.ping(&nic.near4(2), 3);
        driver.agrees_with(&nic, Traffic::default());
        assert_eq!(reports(&driver).iter().filter(|line| line.contains(&container.endpoint)).count(), 0);
        assert_reports(&driver, &container, &nic);
        assert_eq!(driver.open_maps(), 1);
        container.stop();
        eventually("its ring is closed", || match driver.open_maps() {
            0 => Ok(()),
            more => Err(format!("{more} maps are open")),
        });
        driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    }
    driver.finish();
}

fn running_containers_report_after_a_restart() {
    let driver = Driver::start();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    assert_silent(&driver, &container, &nic);
    for options in [&REPORTING[..], &REPORTING[..], &[], &REPORTING[..]] {
        let adoptions = |driver: &Driver| driver.log().matches("with this driver's programs").count();
        let before = adoptions(&driver);
        driver.kill();
        driver.serve_with(options);
        eventually("the programs are replaced", || {
            if adoptions(&driver) > before { Ok(()) } else { Err(driver.log()) }
        });
        if options.is_empty() {
            assert_silent(&driver, &container, &nic);
        } else {
            assert_reports(&driver, &container, &nic);
        }
        nic.ping(&nic.near4(2), 3);
        driver.agrees_with(&nic, Traffic::default());
    }
    // Many frames are not as many reports: one a second and CPU, begun or ended ones included.
    let (before, began) = (reports(&driver).len(), Instant::now());
    forge(&container, &nic, 300);
    let most = (began.elapsed().as_secs() + 2) * thread::available_parallelism().unwrap().get() as u64;
    let more = reports(&driver).len() - before;
    assert!(more as u64 <= most, "{more} reports, not {most} at most");
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    driver.finish();
}
