//! A machine of the suite's own, out of namespaces: network, mounts and processes.
//!
//! The test binary runs itself again inside of it. There `/run` and `/sys/fs/bpf` are empty, no netdev
//! but loopback exists, and everything (engine, containers, driver, mounts) is gone with the last
//! process, however the suite ends. Nothing is written to the disk. Killed with -9, it leaves empty control
//! groups of containers behind, and nothing else.
use std::{
    env,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Trial};

use super::{command, docker};

/// Set inside.
const MARK: &str = "DOCKER_PASSTHROUGH_TEST_MACHINE";

/// Runs as the machine's first process, and stays: it reaps what loses its parent.
/// The control groups stay the host's, engines need them writable.
const BOOT: &str = r#"
set -e
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -l /run/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/docker/plugins /run/netns
ip link set lo up
set +e
"$@"
exit $?
"#;

/// The `main` of a suite.
pub fn main(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    if !arguments.list && env::var_os(MARK).is_none() {
        boot();
    }
    // Most of a test is waiting for others.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let conclusion = libtest_mimic::run(&arguments, trials);
    docker::stop_shared();
    conclusion.exit_code()
}

/// Becomes `unshare`, which starts this binary again inside.
fn boot() -> ! {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this suite makes namespaces and netdevs and needs root: run it as root, or `sudo -E cargo test`"
    );
    for (program, flag) in
        [("unshare", "--version"), ("ip", "-V"), ("busybox", "--help"), ("tar", "--version")]
    {
        command::require(program, flag);
    }
    assert!(Path::new("/sys/fs/bpf").exists(), "this kernel has no BPF file system");
    let test = env::current_exe().expect("the path of this binary");
    let error = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation=private"])
        .args(["sh", "-c", BOOT, "sh"])
        .arg(test)
        .args(env::args_os().skip(1))
        .env(MARK, "1")
        .exec();
    panic!("unshare (package util-linux): {error}");
}
