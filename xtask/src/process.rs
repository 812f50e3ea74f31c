//! Starts programs, bounds them in time and ends them by process id.
//!
//! Every child gets a process group of its own: Ctrl-C reaches us alone, and we decide in which
//! order things end.
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::interrupt;
use crate::step::{Step, Stream};
use crate::workspace;

const TAIL: usize = 40;
/// What `ip`, `apt-cache` and the like may take.
const SHORT: Duration = Duration::from_mins(1);

/// Ours, and the folders that root's own programs are in: `su` without `-` leaves these out.
pub fn path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let unpacked = workspace::target("busybox/bin");
    // An unpacked busybox, because the installed one will not do.
    let first = unpacked.is_dir().then_some(unpacked);
    std::env::join_paths(first.into_iter().chain(std::env::split_paths(&own)).chain(system)).unwrap_or(own)
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A program to start, without anything to read.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path()).stdin(Stdio::null()).process_group(0);
    command
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Announces `what`, runs the command, shows its output only if it fails.
pub fn step(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let mut step = Step::begin(what);
    let watch = Watch { limit, step: Some(&mut step), pass: false, heed: true };
    run(command, watch).with_context(|| format!("failed: {what}"))?;
    step.done();
    Ok(())
}

/// Announces `what`, runs the command with its output passed through, and judges nothing.
pub fn show(what: &str, command: &mut Command, limit: Duration) -> Result<Ended> {
    show_as("", what, command, limit)
}

/// The same beside others: a label stands before each line.
pub fn show_as(label: &str, what: &str, command: &mut Command, limit: Duration) -> Result<Ended> {
    let mut step = Step::labelled(what, label);
    let ended = watched(command, Watch { limit, step: Some(&mut step), pass: true, heed: true })?;
    step.done();
    Ok(ended)
}

/// What a command writes to its standard output.
pub fn text(command: &mut Command) -> Result<String> {
    text_within(SHORT, command)
}

/// What a command, that may take its time, writes to its standard output.
pub fn text_within(limit: Duration, command: &mut Command) -> Result<String> {
    run(command, Watch { limit, step: None, pass: false, heed: true })
}

/// Runs a command that cleans up: also when the user has asked to stop.
pub fn clean_up(command: &mut Command) -> Result<()> {
    run(command, Watch { limit: SHORT, step: None, pass: false, heed: false }).map(drop)
}

/// Whether a command ends well. It must be a harmless question.
pub fn succeeds(command: &mut Command) -> bool {
    text(command).is_ok()
}

/// How a command is watched over.
struct Watch<'a> {
    /// It is ended after this time.
    limit: Duration,
    /// Where its life signs go.
    step: Option<&'a mut Step>,
    /// Show every line at once, not the last ones if it fails.
    pass: bool,
    /// End it when the user asks to stop.
    heed: bool,
}

impl Watch<'_> {
    fn interrupted(&self) -> Result<(), interrupt::Interrupted> {
        if self.heed { interrupt::check() } else { Ok(()) }
    }
}

/// How a command ended.
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// The last lines of both, unless passed through.
    tail: VecDeque<String>,
}

fn run(command: &mut Command, watch: Watch) -> Result<String> {
    let ended = watched(command, watch)?;
    if !ended.status.success() {
        bail!("`{}`: {}{}", shown(command), ended.status, joined(&ended.tail));
    }
    Ok(ended.stdout)
}

fn watched(command: &mut Command, mut watch: Watch) -> Result<Ended> {
    watch.interrupted()?;
    let name = shown(command);
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{name}`"))?;
    let (sender, lines) = mpsc::channel();
    read(child.stdout.take(), Stream::Out, sender.clone());
    read(child.stderr.take(), Stream::Err, sender);
    let (mut stdout, mut tail) = (String::new(), VecDeque::new());
    let mut ended = None;
    let status = loop {
        match (lines.recv_timeout(Duration::from_millis(50)), ended) {
            (Ok((stream, line)), _) => {
                if stream == Stream::Out {
                    stdout.push_str(&line);
                    stdout.push('\n');
                }
                match &mut watch.step {
                    Some(step) if watch.pass => step.pass(stream, &line),
                    _ => {
                        tail.push_back(line);
                        if tail.len() > TAIL {
                            tail.pop_front();
                        }
                    }
                }
            }
            // Also if a grandchild that lives on holds the pipes open.
            (Err(_), Some(status)) => break status,
            (Err(RecvTimeoutError::Disconnected), None) => thread::sleep(Duration::from_millis(5)),
            (Err(RecvTimeoutError::Timeout), None) => {}
        }
        if let Some(step) = &mut watch.step {
            step.tick(tail.back().map_or("still at it", String::as_str));
        }
        if ended.is_none() {
            ended = child.try_wait().with_context(|| format!("waiting for `{name}`"))?;
        }
        let interrupted = watch.interrupted();
        if interrupted.is_err() || started.elapsed() > watch.limit {
            end(&mut child, Duration::from_secs(10));
            interrupted?;
            bail!("`{name}` was ended after {} s{}", watch.limit.as_secs(), joined(&tail));
        }
    };
    Ok(Ended { status, stdout, tail })
}

fn read(pipe: Option<impl Read + Send + 'static>, stream: Stream, lines: Sender<(Stream, String)>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if lines.send((stream, text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}

fn joined(tail: &VecDeque<String>) -> String {
    tail.iter().fold(String::new(), |text, line| text + "\n    " + line)
}

/// Asks a child to end, and insists after `grace`; then nothing of its group is left.
pub fn end(child: &mut Child, grace: Duration) {
    let Ok(id) = i32::try_from(child.id()) else { return };
    let id = Pid::from_raw(id);
    let _ = kill(id, Signal::SIGTERM);
    let asked = Instant::now();
    while asked.elapsed() < grace && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(20));
    }
    let _ = killpg(id, Signal::SIGKILL);
    let _ = child.wait();
}
