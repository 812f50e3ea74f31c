//! What the driver's fault points are told, and which it has passed: `src/fault.rs` says how.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    thread,
};

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
    /// Nothing, until there is another plan.
    Hold,
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
            Action::Hold => "hold",
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
        self.arm_all([fault.clone()]);
    }

    /// The same of several.
    pub fn arm_all(&self, faults: impl IntoIterator<Item = Fault>) {
        self.disarm();
        let faults: Vec<_> = faults.into_iter().map(|fault| fault.to_string()).collect();
        fs::write(self.0.join("plan"), format!("{DEAF}{}\n", faults.join("\n"))).expect("a plan");
    }

    /// What the kernel tells is heeded by a driver that starts now. Has this happen, if anything.
    pub fn listen(&self, fault: Option<&Fault>) {
        self.disarm();
        let plan = fault.map(ToString::to_string).unwrap_or_default();
        fs::write(self.0.join("plan"), plan).expect("a plan");
    }

    /// Has it happen the first `times` times that the point is passed.
    pub fn arm_each(&self, point: &str, action: Action, times: usize) {
        self.arm_all((1..=times).map(|nth| Fault { point: point.to_owned(), nth, action }));
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

/// The points that the source has.
pub fn written() -> BTreeSet<String> {
    written_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn written_in(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("the source").flatten() {
        if entry.path().is_dir() {
            found.extend(written_in(&entry.path()));
            continue;
        }
        let text = fs::read_to_string(entry.path()).expect("a source file");
        for opening in ["fault::point!(\"", "fault::step!(\"", "fault::reach(\""] {
            let points = text.split(opening).skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(points.map(str::to_owned));
        }
    }
    found
}

/// Points that only a VF's way passes, or that of a bond: they are walked in the guest that has both.
pub fn needs_hardware(point: &str) -> bool {
    ["vf.", "vfs.", "pf.", "standin.", "release.vf_"].iter().any(|room| point.starts_with(room))
}
