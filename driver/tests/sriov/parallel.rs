//! Containers of one network start and end at the same time, and none waits for another's VF.
use std::{collections::BTreeSet, fs, thread};

use crate::support::{assert_names, docker_id, driver::Driver, eventually, simulated, trials};

use super::{
    bench::bench,
    pf::row_mac,
    tenant::{Network, Wish},
};

trials![a_slow_vf_holds_up_no_other, one_address_is_given_once, a_network_goes_after_its_last_assignment];

/// A udev that is never done with a netdev: the driver waits for it, some seconds each.
struct SlowUdev;

impl SlowUdev {
    const CONTROL: &str = "/run/udev/control";

    fn start() -> Self {
        fs::create_dir_all("/run/udev").unwrap();
        fs::write(Self::CONTROL, "").unwrap();
        Self
    }
}

impl Drop for SlowUdev {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::CONTROL);
    }
}

fn a_slow_vf_holds_up_no_other() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("vlan", "100")]);
    let total = vfs.pf.total();
    let udev = SlowUdev::start();
    // One more than there are VFs.
    let wish = Wish::default();
    let answers: Vec<_> = thread::scope(|scope| {
        let starting: Vec<_> = (0..=total).map(|_| scope.spawn(|| network.attempt(&wish))).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    drop(udev);
    let complaints: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).cloned().collect();
    let tenants: Vec<_> = answers.into_iter().flatten().collect();
    let given: BTreeSet<_> = tenants.iter().map(|tenant| tenant.vf).collect();
    assert_eq!((given.len(), tenants.len()), (7, 7), "{complaints:?}");
    assert_eq!(complaints.len(), 1);
    assert_names(&complaints[0], &[&vfs.pf.name, "all 7 VFs are in use", "VF 6: endpoint"]);
    for tenant in &tenants {
        let row = vfs.pf.row(tenant.vf);
        assert_eq!((&row["vlan_list"][0]["vlan"], &row_mac(&row)), (&100.into(), &tenant.mac), "{row}");
    }
    assert_eq!(driver.stats().len(), tenants.len());
    // They go all at once, too, and each netdev has its own name again.
    thread::scope(|scope| {
        let ending: Vec<_> = tenants.into_iter().map(|one| scope.spawn(|| one.stop())).collect();
        for one in ending {
            one.join().unwrap();
        }
    });
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

fn one_address_is_given_once() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[]);
    let udev = SlowUdev::start();
    let wish = Wish::mac("02:5e:00:00:00:7b");
    let answers: Vec<_> = thread::scope(|scope| {
        let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| network.attempt(&wish))).collect();
        starting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    drop(udev);
    let (given, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((given.len(), refused.len()), (1, 2));
    let tenant = given.into_iter().flatten().next().unwrap();
    for complaint in refused.into_iter().filter_map(Result::err) {
        assert_names(&complaint, &["VF 0", "in use by endpoint", &tenant.endpoint[..12]]);
    }
    tenant.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// Docker does not remove a network while it starts a container in it, but another client could ask for it.
fn a_network_goes_after_its_last_assignment() {
    let bench = bench();
    let vfs = bench.without_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("vfs", "2"), ("vlan", "100")]);
    vfs.pf.await_netdevs();
    let endpoint = docker_id();
    let udev = SlowUdev::start();
    thread::scope(|scope| {
        let body = simulated::endpoint(&network.id, &endpoint, "");
        let driver = &driver;
        let creating = scope.spawn(move || driver.call("CreateEndpoint", &body));
        eventually("the assignment has begun", || {
            let log = driver.log();
            if log.contains("chosen") { Ok(()) } else { Err(log) }
        });
        network.remove();
        creating.join().unwrap().unwrap();
    });
    drop(udev);
    assert!(driver.stats().is_empty());
    driver.finish();
    vfs.assert_as_before();
}
