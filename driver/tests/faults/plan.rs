//! What the driver's fault points are told, and which it has passed: `src/fault.rs` says how.
use std::{collections::BTreeMap, fmt, fs, path::PathBuf, thread};

use crate::support::driver::Driver;

/// What is to happen at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// An error, where the next step would be.
    Fail,
    /// Nothing more.
    Hang,
}

/// What is to happen, and where.
#[derive(Clone, Debug)]
pub struct Fault {
    pub point: String,
    /// At which time that the point is passed, from 1.
    pub nth: usize,
    pub action: Action,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Kill => "kill",
            Action::Fail => "fail",
            Action::Hang => "hang",
        };
        write!(f, "{} {action} {}", self.point, self.nth)
    }
}

/// Says where a test was when it failed.
pub struct Tell(pub String);

impl Drop for Tell {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- at the fault: {} ---", self.0);
        }
    }
}

/// What the kernel tells is not heeded: the driver would now and then be faster than the call that is to fail.
const DEAF: &str = "watch.looking hang 1\n";

/// The folder that a driver's fault points look into.
pub struct Plan(PathBuf);

impl Plan {
    /// That of a driver, with no faults in it.
    pub fn of(driver: &Driver) -> Self {
        let folder = driver.faults();
        fs::create_dir_all(&folder).expect("a folder for faults");
        let plan = Self(folder);
        plan.disarm();
        plan
    }

    /// Has a fault happen from now on.
    pub fn arm(&self, fault: &Fault) {
        self.disarm();
        fs::write(self.0.join("plan"), format!("{DEAF}{fault}\n")).expect("a plan");
    }

    /// Has none happen, and forgets what was passed.
    pub fn disarm(&self) {
        fs::write(self.0.join("plan"), DEAF).expect("a plan");
        let _ = fs::remove_file(self.0.join("passed"));
    }

    /// Each point that was passed since, and how often it was then.
    pub fn passed(&self) -> Vec<(String, usize)> {
        let mut times = BTreeMap::new();
        let passed = fs::read_to_string(self.0.join("passed")).unwrap_or_default();
        let count = |point: &str| {
            let times = times.entry(point.to_owned()).or_insert(0);
            *times += 1;
            (point.to_owned(), *times)
        };
        passed.lines().filter(|point| !DEAF.starts_with(point)).map(count).collect()
    }
}
