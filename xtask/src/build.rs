//! `build`: the driver with its BPF object.
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bpf;
use crate::process::{self, command};
use crate::workspace;

const LIMIT: Duration = Duration::from_mins(30);

/// The cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    if crate::step::on_terminal() {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    cargo
}

/// Builds the BPF object, then the driver, and says where that is.
pub fn driver(release: bool) -> Result<PathBuf> {
    bpf::build(None)?;
    let profile = if release { "release" } else { "debug" };
    let mut build = cargo();
    build.args(["build", "--package", "docker-passthrough"]);
    if release {
        build.arg("--release");
    }
    process::step(&format!("Building the driver ({profile})"), &mut build, LIMIT)?;
    let driver = target_dir()?.join(profile).join("docker-passthrough");
    crate::step::say(&driver.display().to_string());
    Ok(driver)
}

fn target_dir() -> Result<PathBuf> {
    let metadata = process::text(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?.into())
}
