//! Announces what is being done, and that it is still being done.
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

const WIDTH: usize = 100;

/// Whether the terminal has a status line on it: of several pieces of work, there is one terminal.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// A piece of work that says what it is, that it is alive, and how long it took.
pub struct Step {
    started: Instant,
    /// When something was last shown.
    shown: Instant,
    /// What stands before each of its lines, where it is not the only one.
    label: String,
}

/// Which of a child's streams a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Colour, and lines that are drawn over, only where someone looks at them.
pub fn on_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn colour() -> bool {
    on_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Announces something that takes no time worth showing.
pub fn say(what: &str) {
    if colour() {
        eprintln!("\x1b[1;32m==>\x1b[0m \x1b[1m{what}\x1b[0m");
    } else {
        eprintln!("==> {what}");
    }
}

/// Adds to what was announced.
pub fn note(what: &str) {
    eprintln!("    {what}");
}

/// An error and what led to it; without the backtrace that `RUST_BACKTRACE` adds.
pub fn show(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        note(&cause.to_string());
    }
}

impl Step {
    /// Announces the work.
    pub fn begin(what: &str) -> Self {
        say(what);
        let now = Instant::now();
        Self { started: now, shown: now, label: String::new() }
    }

    /// The same for work that goes on beside other work: each line is told by its label.
    pub fn labelled(what: &str, label: &str) -> Self {
        let label = if label.is_empty() { String::new() } else { format!("{label} | ") };
        Self { label: label.clone(), ..Self::begin(&format!("{label}{what}")) }
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Call it often: shows now and then that work goes on, and with what.
    pub fn tick(&mut self, doing: &str) {
        let (elapsed, silent) = (self.started.elapsed(), self.shown.elapsed());
        let due = if on_terminal() {
            elapsed > Duration::from_secs(2) && silent > Duration::from_millis(900)
        } else {
            silent > Duration::from_secs(if elapsed < Duration::from_secs(10) { 3 } else { 10 })
        };
        if !due {
            return;
        }
        self.shown = Instant::now();
        let line = format!("{}    {} s  {}", self.label, elapsed.as_secs(), doing.trim());
        let line: String = line.chars().take(WIDTH).collect();
        if on_terminal() {
            eprint!("\r\x1b[2K{line}");
            DRAWN.store(true, Ordering::Relaxed);
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Passes on a line that a child wrote.
    pub fn pass(&mut self, stream: Stream, line: &str) {
        Self::wipe();
        self.shown = Instant::now();
        match stream {
            Stream::Out => println!("{}{line}", self.label),
            Stream::Err => eprintln!("{}{line}", self.label),
        }
    }

    /// Says how long it took, if anyone had to wait.
    pub fn done(self) {
        Self::wipe();
        let seconds = self.started.elapsed().as_secs_f32();
        if seconds > 2.0 {
            note(&format!("{}done in {seconds:.0} s", self.label));
        }
    }

    fn wipe() {
        if DRAWN.swap(false, Ordering::Relaxed) {
            eprint!("\r\x1b[2K");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        Self::wipe();
    }
}

/// Waits until `ready` says so.
pub fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut step = Step::begin(&format!("Waiting for {what}"));
    while !ready()? {
        interrupt::check()?;
        if step.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        step.tick("waiting");
        thread::sleep(Duration::from_millis(50));
    }
    step.done();
    Ok(())
}
