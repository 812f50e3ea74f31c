//! What both suites stand on: a machine of their own, the driver, NICs with a far end, an engine.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

pub mod command;
pub mod confined;
pub mod container;
pub mod docker;
pub mod documents;
pub mod driver;
pub mod frames;
pub mod http;
pub mod look;
pub mod machine;
pub mod netns;
pub mod nic;
pub mod packed;
pub mod packet;
pub mod prometheus;
pub mod scrape;
pub mod simulated;
pub mod tcx;
pub mod terminal;

use std::{
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before it counts as never: generous, the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Lists a module's tests for `main`; one left out is dead code, and so a warning.
macro_rules! trials {
    ($($test:ident),+ $(,)?) => {
        pub fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$($crate::support::trial(concat!(module_path!(), "::", stringify!($test)), $test)),+]
        }
    };
}
pub(crate) use trials;

/// A test under the last two parts of its path, `module::test`.
pub fn trial(path: &str, test: fn()) -> libtest_mimic::Trial {
    let name: Vec<&str> = path.rsplitn(3, "::").take(2).collect();
    libtest_mimic::Trial::test(format!("{}::{}", name[1], name[0]), move || {
        test();
        Ok(())
    })
}

/// Polls until `check` is content, and returns what it found; panics with its last complaint.
#[track_caller]
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, check)
}

/// The same, for what waits for something itself.
#[track_caller]
pub fn eventually_within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(found) => return found,
            Err(complaint) if Instant::now() > deadline => {
                panic!("{what}: not within {limit:?}: {complaint}")
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A number no other test of this binary has, small enough for a subnet of its own below 10.64.0.0/14.
pub fn unique() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(n < 1024, "this suite has used up its 1023 subnets");
    n
}

/// The IPv4 address `host` in the subnet of that number.
pub fn address4(n: u16, host: u8) -> String {
    let [high, low] = n.to_be_bytes();
    format!("10.{}.{low}.{host}", 64 + high)
}

/// An id like Docker's: 64 hexadecimal digits.
pub fn docker_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // The number comes first: Docker and the driver shorten ids to 12 digits.
    format!("{:08x}{}", NEXT.fetch_add(1, Ordering::Relaxed), "7d".repeat(28))
}

/// Panics unless `text` has every one of `parts` in it.
#[track_caller]
pub fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}
