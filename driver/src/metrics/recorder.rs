//! How long Docker's calls took, and how many failed.
use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};

/// A call without anything to do takes none; one with a netdev some 30 ms; after 10 s Docker has its answer.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The call's name.
pub type CallLabel = [(&'static str, &'static str); 1];

/// Told of each call by whoever answers it; costs a lock that nobody holds for long.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub(super) durations: Family<CallLabel, Histogram>,
    pub(super) errors: Family<CallLabel, Counter>,
}

impl Recorder {
    /// For these calls: each is there from the beginning, so that the first failure is an increase.
    pub fn new(calls: impl IntoIterator<Item = &'static str>) -> Self {
        let recorder = Self {
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            errors: Family::default(),
        };
        for call in calls {
            drop(recorder.durations.get_or_create(&[("call", call)]));
            drop(recorder.errors.get_or_create(&[("call", call)]));
        }
        recorder
    }

    /// A call was answered.
    pub fn answered(&self, call: &'static str, took: Duration, failed: bool) {
        self.durations.get_or_create(&[("call", call)]).observe(took.as_secs_f64());
        if failed {
            self.errors.get_or_create(&[("call", call)]).inc();
        }
    }
}
