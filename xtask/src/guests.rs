//! Programs in guests of their own, several at a time: an emulated guest keeps one core busy.
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::process::Ended;
use crate::step::say;
use crate::vm::{self, Guest};

/// All of it is emulated, and the day's churn is long.
const LIMIT: Duration = Duration::from_mins(45);

/// What one guest runs.
pub struct Job<'a> {
    /// Tells it from the others.
    pub name: String,
    pub guest: &'a Guest,
    /// `VARIABLE=VALUE` for it, the program's path and its arguments.
    pub words: Vec<String>,
}

/// How many guests run side by side here.
pub fn at_a_time() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs them in their order, and tells how each came out.
pub fn run(jobs: &[Job]) -> Vec<Result<Ended>> {
    let lanes = at_a_time().min(jobs.len());
    let waiting = Mutex::new(jobs.iter().enumerate());
    let mut ended: Vec<_> = jobs.iter().map(|job| Err(anyhow!("{} was not run", job.name))).collect();
    thread::scope(|scope| {
        let lane = || {
            let mut ended = Vec::new();
            // The lock is held while the next one is taken, not while it runs.
            while let Some((number, job)) = waiting.lock().ok().and_then(|mut waiting| waiting.next()) {
                say(&format!("Running the tests: {}, in a guest", job.name));
                let label = if lanes > 1 { job.name.as_str() } else { "" };
                ended.push((number, vm::run_as(label, job.guest, &job.words, LIMIT)));
            }
            ended
        };
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        for (number, how) in lanes.into_iter().filter_map(|lane| lane.join().ok()).flatten() {
            ended[number] = how;
        }
    });
    ended
}
