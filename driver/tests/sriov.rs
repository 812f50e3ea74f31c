//! The real binary on real VFs: two SR-IOV PFs on one wire, one handing out VFs, one listening.
//!
//! The netdevs are those of the machine that this runs on, and VFs are made and taken away on them. So it
//! is meant for a VM, and to be asked for: all of it is ignored otherwise. On a kernel without TCX it is a
//! core of these tests, and others about what counts there.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test reports by panicking")]

mod support;
mod sriov {
    pub mod bench;
    pub mod docker;
    pub mod frames;
    pub mod pf;
    pub mod tenant;

    pub mod bond;
    pub mod choice;
    pub mod churn;
    pub mod clsact;
    pub mod counters;
    pub mod documents;
    pub mod failure;
    pub mod installed;
    pub mod lifecycle;
    pub mod parallel;
    pub mod refusals;
    pub mod systemd;
    pub mod tenants;
    pub mod vlans;
    #[cfg(feature = "faults")]
    pub mod walk;
}
#[cfg(feature = "faults")]
#[allow(dead_code, reason = "each suite uses its own part of it")]
#[path = "faults"]
mod faults {
    pub mod docker;
    pub mod fate;
    pub mod plan;
    pub mod scene;
}

use libtest_mimic::Arguments;

/// Which part of the tests is wanted, if not all.
const PART: &str = "DOCKER_PASSTHROUGH_TEST_PART";

/// Shown beside each test that is not run.
const REASON: &str = "needs SR-IOV: cargo xtask test runs it in a VM";

fn main() -> std::process::ExitCode {
    use sriov::{
        bench, bond, choice, churn, clsact, counters, documents, failure, installed, lifecycle, parallel,
        refusals, systemd, tenants, vlans,
    };

    let mut arguments = Arguments::from_args();
    // They share the hardware.
    arguments.test_threads = Some(1);
    // Guests' work, about as long as each other with what else `cargo xtask test` gives them.
    let first = || {
        // The last is rough with the hardware.
        [
            vlans::trials(),
            choice::trials(),
            refusals::trials(),
            bond::trials(),
            lifecycle::trials(),
            failure::trials(),
        ]
    };
    let second = || [parallel::trials(), tenants::trials(), counters::trials(), churn::trials()];
    let mut trials: Vec<_> = match std::env::var(PART).as_deref() {
        Err(_) => second().into_iter().chain(first()).flatten().collect(),
        Ok("1/2") => first().into_iter().flatten().collect(),
        Ok("2/2") => second().into_iter().flatten().collect(),
        // A suite of its own, as it takes long.
        #[cfg(feature = "faults")]
        Ok("walks") => sriov::walk::trials(),
        // A machine of its own.
        Ok("systemd") => systemd::trials(),
        Ok(part) => panic!("{PART}={part}: must be 1/2, 2/2, systemd or, with fault points, walks"),
    };
    let asked_for = arguments.ignored || arguments.include_ignored;
    let reason = if asked_for { "" } else { REASON };
    if clsact::is_before_tcx() {
        trials.retain(|trial| clsact::CORE.contains(&trial.name()));
        assert_eq!(trials.len(), clsact::CORE.len(), "a test of the core has another name now");
        trials.extend(clsact::trials());
    }
    // A suite of its own, as it takes long.
    if support::packed::is_asked_for() {
        trials = [installed::trials(), documents::trials()].into_iter().flatten().collect();
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true).with_kind(reason)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    support::docker::stop_shared();
    bench::give_back();
    conclusion.exit_code()
}
