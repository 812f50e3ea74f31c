//! Announces what is being done, and that it is still being done.
use std::io::{IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

const WIDTH: usize = 100;

/// A piece of work that says what it is, that it is alive, and how long it took.
pub struct Step {
    started: Instant,
    /// When something was last shown.
    shown: Instant,
    /// A terminal has our status line on it.
    drawn: bool,
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
        Self { started: now, shown: now, drawn: false }
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
        let line: String =
            format!("    {} s  {}", elapsed.as_secs(), doing.trim()).chars().take(WIDTH).collect();
        if on_terminal() {
            eprint!("\r\x1b[2K{line}");
            self.drawn = true;
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    /// Passes on a line that a child wrote.
    pub fn pass(&mut self, stream: Stream, line: &str) {
        self.wipe();
        self.shown = Instant::now();
        match stream {
            Stream::Out => println!("{line}"),
            Stream::Err => eprintln!("{line}"),
        }
    }

    /// Says how long it took, if anyone had to wait.
    pub fn done(mut self) {
        self.wipe();
        let seconds = self.started.elapsed().as_secs_f32();
        if seconds > 2.0 {
            note(&format!("done in {seconds:.0} s"));
        }
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[2K");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.wipe();
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
