//! Fault points: places between two steps, at which a test has the driver die, fail or hang. Only with the
//! feature `faults`, which no released build has; without it they are nothing at all.
//!
//! `DOCKER_PASSTHROUGH_FAULTS` names a folder. Each point that is passed is a line of `passed` there; `plan`
//! has a line `POINT kill|fail|hang|hold NTH` for each fault that is to happen, at the NTH time that `passed` has
//! the point. So a test learns from one run where the next can be told to go wrong.

/// A point in an async function: may not return, or return an error.
#[cfg(feature = "faults")]
macro_rules! point {
    ($name:literal) => {
        $crate::fault::reach($name).await?
    };
}
#[cfg(not(feature = "faults"))]
macro_rules! point {
    ($name:literal) => {};
}
pub(crate) use point;

/// The same in a function that may block.
#[cfg(feature = "faults")]
macro_rules! step {
    ($name:literal) => {
        $crate::fault::reach_blocking($name)?
    };
}
#[cfg(not(feature = "faults"))]
macro_rules! step {
    ($name:literal) => {};
}
pub(crate) use step;

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature `faults` is for tests: a release has no fault points");

#[cfg(feature = "faults")]
mod injected {
    use std::{
        env, fs, future,
        io::{self, Write as _},
        path::{Path, PathBuf},
        process, thread,
        time::Duration,
    };

    use nix::sys::signal::{Signal, raise};

    const FOLDER: &str = "DOCKER_PASSTHROUGH_FAULTS";

    /// The error of a point that was told to fail.
    #[derive(Debug, thiserror::Error)]
    #[error("fault point {0}")]
    pub struct Injected(&'static str);

    impl From<Injected> for io::Error {
        fn from(injected: Injected) -> Self {
            Self::other(injected)
        }
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Fate {
        Pass,
        Fail,
        Hang,
        /// As long as the plan says so.
        Hold,
    }

    const POLL: Duration = Duration::from_millis(20);

    /// Passes the point, or not.
    pub async fn reach(point: &'static str) -> Result<(), Injected> {
        match fate(point) {
            Fate::Pass => Ok(()),
            Fate::Fail => Err(Injected(point)),
            Fate::Hang => future::pending().await,
            Fate::Hold => {
                while is_held(point) {
                    tokio::time::sleep(POLL).await;
                }
                Ok(())
            }
        }
    }

    /// The same, on a thread that may block.
    pub fn reach_blocking(point: &'static str) -> Result<(), Injected> {
        match fate(point) {
            Fate::Pass => Ok(()),
            Fate::Fail => Err(Injected(point)),
            Fate::Hang => loop {
                thread::sleep(Duration::from_hours(1));
            },
            Fate::Hold => {
                while is_held(point) {
                    thread::sleep(POLL);
                }
                Ok(())
            }
        }
    }

    fn fate(point: &str) -> Fate {
        let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return Fate::Pass };
        let times = note(&folder, point);
        let plan = fs::read_to_string(folder.join("plan")).unwrap_or_default();
        let planned = plan.lines().find_map(|line| {
            let mut words = line.split(' ');
            let this = words.next() == Some(point);
            let (action, nth) = (words.next()?, words.next()?.parse().ok());
            (this && nth == times).then_some(action)
        });
        match planned {
            None => Fate::Pass,
            Some("fail") => Fate::Fail,
            Some("hang") => Fate::Hang,
            Some("hold") => Fate::Hold,
            Some(_) => {
                let _ = raise(Signal::SIGKILL);
                process::abort()
            }
        }
    }

    fn is_held(point: &str) -> bool {
        let plan = env::var_os(FOLDER).map(|folder| PathBuf::from(folder).join("plan"));
        let plan = plan.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        plan.lines().any(|line| line.starts_with(&format!("{point} hold ")))
    }

    /// Notes that the point was reached, and answers how often that is now.
    fn note(folder: &Path, point: &str) -> Option<usize> {
        let path = folder.join("passed");
        let mut passed = fs::File::options().create(true).append(true).open(&path).ok()?;
        passed.write_all(format!("{point}\n").as_bytes()).ok()?;
        let all = fs::read_to_string(&path).ok()?;
        Some(all.lines().filter(|line| *line == point).count())
    }
}
#[cfg(feature = "faults")]
pub use injected::{Injected, reach, reach_blocking};
