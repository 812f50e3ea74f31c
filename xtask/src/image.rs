//! `image` and `plugin`: the driver packed for an engine, without a registry.
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{self, command};
use crate::step::note;
use crate::{build, notices, workspace};

const LIMIT: Duration = Duration::from_mins(5);
/// What is promised of the image.
const MAX_SIZE: u64 = 30 << 20;

/// Packs the driver as an image.
pub fn make(tag: &str) -> Result<()> {
    let driver = build::driver(true)?;
    let archive = workspace::target("docker-passthrough-image.tar");
    let mut make = command(workspace::root().join("contrib/image/make.sh"));
    make.arg(driver).arg(tag).arg(&archive).env("NOTICES", notices::write()?);
    process::step(&format!("Packing the image {tag}"), &mut make, LIMIT)?;
    let size = fs::metadata(&archive).with_context(|| archive.display().to_string())?.len();
    ensure!(size <= MAX_SIZE, "{}: {} MiB, more than {}", archive.display(), size >> 20, MAX_SIZE >> 20);
    note(&format!("{} MiB; docker load --input {}", size >> 20, archive.display()));
    Ok(())
}

/// Packs the driver as a managed plugin.
pub fn make_plugin() -> Result<()> {
    let driver = build::driver(true)?;
    let folder = workspace::target("docker-passthrough-plugin");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let mut make = command(workspace::root().join("contrib/plugin/make.sh"));
    make.arg(driver).arg(&folder).env("NOTICES", notices::write()?);
    process::step("Packing the plugin", &mut make, LIMIT)?;
    note(&format!(
        "docker plugin create passthrough {0} && docker plugin enable passthrough",
        folder.display()
    ));
    Ok(())
}
