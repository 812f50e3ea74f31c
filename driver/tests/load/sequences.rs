//! Random sequences of operations, faults and restarts. One that fails is made as short as possible and printed,
//! and is tried first from then on.
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, FileFailurePersistence, TestRunner},
};

use super::world::{NICS, Step, World};
use crate::{number, support::trials};

trials![nothing_is_lost_whatever_happens_in_whatever_order];

/// Seeds of those that failed once.
const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/load/sequences.seeds");

/// The usual is likelier, or most sequences would come to nothing.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => Just(Step::Start),
        2 => Just(Step::CreateNetwork),
        1 => Just(Step::DeleteNetwork),
        2 => Just(Step::CreateEndpoint),
        2 => Just(Step::Join),
        2 => Just(Step::MoveIn),
        3 => Just(Step::Ping),
        2 => Just(Step::Rename),
        2 => Just(Step::ChangeMac),
        2 => Just(Step::Nest),
        2 => Just(Step::Leave),
        2 => Just(Step::MoveOut),
        3 => Just(Step::DeleteEndpoint),
        2 => Just(Step::Die),
        1 => Just(Step::Destroy),
        2 => Just(Step::Kill),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseState),
    ]
}

fn nothing_is_lost_whatever_happens_in_whatever_order() {
    let cases = number("DOCKER_PASSTHROUGH_TEST_CASES", 48);
    let limit = Duration::from_secs(number("DOCKER_PASSTHROUGH_TEST_SECONDS", 75).into());
    let config = Config {
        cases,
        max_shrink_iters: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(KNOWN))),
        ..Config::default()
    };
    let (begun, failed) = (Instant::now(), AtomicBool::new(false));
    let sequences = vec((step(), 0..NICS), 4..16);
    let counter = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&sequences, |sequence| {
        // A busy machine tries fewer, but a failure is always made short.
        if begun.elapsed() > limit && !failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let guard = Failing(&failed);
        let mut world = World::new();
        for (step, at) in sequence {
            world.take(step, at);
        }
        world.finish();
        std::mem::forget(guard);
        counter.set(counter.get() + 1);
        Ok(())
    });
    let done = counter.get();
    println!("{done} of {cases} sequences in {:.0} s", begun.elapsed().as_secs_f32());
    if let Err(error) = outcome {
        panic!("{error}");
    }
    assert!(done > 0, "no sequence was tried");
}

/// Notes that the case it is in has panicked.
struct Failing<'a>(&'a AtomicBool);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
