//! No fault point is forgotten by the walks.
use std::collections::BTreeSet;

use crate::support::trials;

use super::{fate, nic::stage, plan, scene::Call};

trials![every_point_is_walked];

/// No call passes these, but looks at all endpoints, and what the kernel tells: `twice` and `hang`.
const UNASKED: [&str; 4] = ["watch.looking", "look.network", "look.endpoint", "tidy.strays"];

fn every_point_is_walked() {
    let written = plan::written();
    assert!(written.len() > 20, "{written:?}");
    let stage = stage();
    let mut walked = BTreeSet::new();
    for call in Call::ALL {
        walked.extend(fate::points(&stage, call).into_iter().map(|(point, _)| point));
    }
    let elsewhere = |point: &str| plan::needs_hardware(point) || UNASKED.contains(&point);
    let missed: Vec<_> = written.difference(&walked).filter(|point| !elsewhere(point)).collect();
    assert!(missed.is_empty(), "no call passes {missed:?}");
    stage.driver.finish();
}
