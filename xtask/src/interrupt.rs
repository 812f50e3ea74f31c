//! Ctrl-C and its relatives end the work, not the clean-up.
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

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

/// Takes SIGINT, SIGTERM and SIGHUP from here on.
pub fn watch() -> Result<()> {
    // Handlers, not a blocked mask: children would inherit that, and not hear SIGTERM.
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("catching SIGINT, SIGTERM and SIGHUP")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            ASKED.store(true, Ordering::SeqCst);
            eprintln!("\n{}: cleaning up, then stopping", signal_name(signal).unwrap_or("a signal"));
        }
    });
    Ok(())
}

/// An error once the user asked to stop; whatever waits calls it now and then.
pub fn check() -> Result<(), Interrupted> {
    if ASKED.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
}
