//! Runs other programs, each for a bounded time, and says what is missing.
use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Child, Command, Output, Stdio},
};

/// Seconds a command may take: the engine's own retries towards a dead plugin take 15 each.
const LIMIT: &str = "120";

/// The Debian package that has a program.
fn package(program: &str) -> &'static str {
    match program {
        "ip" | "tc" => "iproute2",
        "nsenter" | "unshare" | "mount" => "util-linux",
        "busybox" => "busybox-static",
        "bpftool" => "bpftool",
        "tar" => "tar",
        path if path.contains("docker") => "docker.io",
        _ => "of the same name",
    }
}

/// Standard output, or what the command complained of.
pub fn attempt(program: &str, args: &[impl AsRef<OsStr>]) -> Result<String, String> {
    finish(program, &mut prepared(program, args))
}

/// Standard output; panics if the command fails.
#[track_caller]
pub fn run(program: &str, args: &[impl AsRef<OsStr>]) -> String {
    let mut command = prepared(program, args);
    finish(program, &mut command).unwrap_or_else(|complaint| panic!("{command:?}: {complaint}"))
}

/// A command under a time limit, for a caller that sets more of it before [`finish`].
pub fn prepared(program: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", LIMIT, program]).args(args).stdin(Stdio::null());
    command
}

/// Runs a [`prepared`] command to its end.
pub fn finish(program: &str, command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap_or_else(|e| panic!("timeout (package coreutils): {e}"));
    outcome(program, command, output)
}

/// The same with something to read for it: less than a pipe takes at once.
pub fn finish_with(program: &str, command: &mut Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("timeout (package coreutils): {e}"));
    // One that has ended does not read, and says why itself.
    let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("its output");
    outcome(program, command, output)
}

fn outcome(program: &str, command: &Command, output: Output) -> Result<String, String> {
    let Output { status, stdout, stderr } = output;
    let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
    let absent = status.code() == Some(127) && stderr.starts_with("timeout:");
    assert!(!absent, "{program} is missing: install the package {}", package(program));
    assert_ne!(status.code(), Some(124), "{command:?} did not end within {LIMIT} s: {stderr}");
    if status.success() {
        Ok(String::from_utf8_lossy(&stdout).trim_end().to_owned())
    } else {
        Err(format!("{status}: {stderr}{}", String::from_utf8_lossy(&stdout).trim()))
    }
}

/// Panics unless the program can be started at all.
pub fn require(program: &str, version_flag: &str) {
    let output = Command::new(program).arg(version_flag).output();
    if let Err(e) = output {
        panic!("{program} is missing ({e}): install the package {}", package(program));
    }
}

/// `ip` with the words of `line`.
#[track_caller]
pub fn ip(line: &str) -> String {
    run("ip", &line.split_whitespace().collect::<Vec<_>>())
}

/// Many lines of `ip` in one go, up to the first that fails; in a named namespace, if any.
pub fn ip_batch(netns: Option<&str>, lines: &[String]) -> Result<String, String> {
    let mut command = prepared("ip", &[""; 0]);
    command.args(netns.into_iter().flat_map(|name| ["-n", name])).args(["-batch", "-"]);
    finish_with("ip", &mut command, &lines.join("\n"))
}

/// A process that ends when this goes out of scope.
pub struct Background(Child);

impl Background {
    /// Starts `command`, its output thrown away.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
