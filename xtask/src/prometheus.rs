//! Prometheus and its promtool, for the tests of the metrics.
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need};
use crate::{process, unpack, workspace};

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Gets them if they are missing: unpacked, as the installed package would start a server.
pub fn ensure() -> Result<()> {
    if found() {
        return Ok(());
    }
    if packages::candidate_version(PACKAGE).is_none() {
        let need = Need::program("apt-get", &["apt"]);
        packages::ensure("testing the metrics", &[need])?;
        packages::update()?;
    }
    let folder = workspace::target("prometheus");
    unpack::into(&folder, &[PACKAGE.to_owned()]).context("the tests of the metrics need Prometheus")?;
    ensure!(found(), "the package {PACKAGE} has no {}", PROGRAMS.join(" or no "));
    Ok(())
}

/// The tests look in the same places.
fn found() -> bool {
    let unpacked = |name: &str| -> PathBuf { workspace::target("prometheus/usr/bin").join(name) };
    PROGRAMS.into_iter().all(|name| unpacked(name).is_file() || process::find(name).is_some())
}
