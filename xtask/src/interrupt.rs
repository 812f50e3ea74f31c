//! Ctrl-C and its relatives end the work, not the clean-up.
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// The user asked to stop.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes SIGINT, SIGTERM and SIGHUP from here on. Call before any thread or child is started:
/// threads inherit the mask, and std clears it in children.
pub fn watch() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("blocking SIGINT, SIGTERM and SIGHUP")?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            ASKED.store(true, Ordering::SeqCst);
            eprintln!("\n{signal}: cleaning up, then stopping");
        }
    });
    Ok(())
}

/// An error once the user asked to stop; whatever waits calls it now and then.
pub fn check() -> Result<(), Interrupted> {
    if ASKED.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
}
