//! No fault point is forgotten by the walks.
use std::{collections::BTreeSet, fs, path::Path};

use crate::support::trials;

use super::{
    scene::{Call, Stage},
    walk,
};

trials![every_point_is_walked];

/// Those that only a VF's way passes, or that of a bond: the suite `sriov` and the kernel's bond have them.
const ELSEWHERE: [&str; 4] = ["vf", "pf", "standin", "watch.looking"];

fn every_point_is_walked() {
    let written = written(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(written.len() > 20, "{written:?}");
    let stage = Stage::new();
    let mut walked = BTreeSet::new();
    for call in [
        Call::CreateNetwork,
        Call::CreateEndpoint,
        Call::Join,
        Call::DeleteMoved,
        Call::DeleteUnmoved,
        Call::DeleteAway,
        Call::DeleteNetwork,
        Call::DeleteNetworkInUse,
    ] {
        walked.extend(walk::points(&stage, call).into_iter().map(|(point, _)| point));
    }
    let elsewhere = |point: &&String| ELSEWHERE.iter().any(|room| point.contains(room));
    let missed: Vec<_> = written.difference(&walked).filter(|point| !elsewhere(point)).collect();
    assert!(missed.is_empty(), "no call passes {missed:?}");
    stage.driver.finish();
}

/// The points that the source has.
fn written(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("the source").flatten() {
        if entry.path().is_dir() {
            found.extend(written(&entry.path()));
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
