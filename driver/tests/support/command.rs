//! Runs other programs, each for a bounded time, and says what is missing.
//!
//! None runs by way of another, `timeout` or `nsenter`: where all is emulated, starting a program is most of
//! what it takes.
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a command may take: the engine's own retries towards a dead plugin take 15 s each.
const LIMIT: Duration = Duration::from_mins(2);

/// The Debian package that has a program.
fn package(program: &str) -> &'static str {
    match program {
        "ip" | "tc" => "iproute2",
        "nsenter" | "unshare" | "mount" => "util-linux",
        "busybox" => "busybox-static",
        "bpftool" => "bpftool",
        "groff" => "groff-base",
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

/// A command for a caller that sets more of it before [`finish`].
pub fn prepared(program: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// The same in the network namespace at `path`, or why that can't be entered.
pub fn prepared_in(path: &Path, program: &str, args: &[impl AsRef<OsStr>]) -> Result<Command, String> {
    let netns = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = prepared(program, args);
    // SAFETY: one system call, which neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || setns(&netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
    }
    Ok(command)
}

/// Runs a [`prepared`] command to its end.
pub fn finish(program: &str, command: &mut Command) -> Result<String, String> {
    finish_with(program, command, "")
}

/// The same with something to read for it: less than a pipe takes at once.
pub fn finish_with(program: &str, command: &mut Command, input: &str) -> Result<String, String> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{program} is missing: install the package {}", package(program))
        }
        Err(error) => return Err(format!("starting {program}: {error}")),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended does not read, and says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
    let (ended, is_over) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late = is_over.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill(pid, Signal::SIGKILL);
        }
        late
    });
    let output = child.wait_with_output().expect("its output");
    drop(ended);
    let late = watch.join().expect("no panic in there");
    let Output { status, stdout, stderr } = output;
    let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
    assert!(!late, "{command:?} did not end within {LIMIT:?}: {stderr}");
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

/// Many lines of `ip` in one go, up to the first that fails; in the network namespace at a path, if any.
pub fn ip_batch(netns: Option<&Path>, lines: &[String]) -> Result<String, String> {
    let args = ["-batch", "-"];
    let mut command = match netns {
        Some(path) => prepared_in(path, "ip", &args)?,
        None => prepared("ip", &args),
    };
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

impl Background {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
