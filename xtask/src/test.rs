//! `test`: everything, on the kernel and the engine of this machine.
use std::time::Duration;

use anyhow::Result;

use crate::build::cargo;
use crate::packages::{self, Need};
use crate::step::say;
use crate::{bpf, busybox, engine, must_be_root, process};

const BUILDING: Duration = Duration::from_mins(20);
const RUNNING: Duration = Duration::from_mins(15);

/// Sets up what tests need and runs them; `arguments` are for `cargo test`.
pub fn run(arguments: &[String]) -> Result<()> {
    must_be_root("test", "tests make netdevs and start engines")?;
    let mut needs = engine::needs();
    for (program, package) in [
        ("bpftool", "bpftool"),
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("ethtool", "ethtool"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
    ] {
        needs.push(Need::program(program, &[package]));
    }
    packages::ensure("testing", &needs)?;
    busybox::ensure()?;
    bpf::build(None)?;
    let (for_cargo, _) =
        arguments.split_at(arguments.iter().position(|word| word == "--").unwrap_or(arguments.len()));
    let chosen = for_cargo.iter().any(|word| word.starts_with("-p") || word.starts_with("--package"));
    let test = || {
        let mut test = cargo();
        test.arg("test").args((!chosen).then_some("--workspace"));
        test
    };
    process::step("Building the tests", test().arg("--no-run").args(for_cargo), BUILDING)?;
    // What is missing is then a failure, not a reason to skip.
    let mut test = test();
    // Every suite reports, also after one that failed.
    test.arg("--no-fail-fast").args(arguments).env("DOCKER_PASSTHROUGH_TESTS_STRICT", "1");
    process::stream("Running the tests", &mut test, RUNNING)?;
    say("All tests passed");
    Ok(())
}
