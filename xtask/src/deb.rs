//! `deb`: a Debian package, by cargo-deb.
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{self, cargo};
use crate::packages::{self, Need};
use crate::process::{self, command, path};
use crate::step::say;
use crate::{notices, workspace};

const VERSION: &str = "3.8.0";
const LIMIT: Duration = Duration::from_mins(30);

/// Builds the package with the driver of a profile, `release` or `dev`, and says where it is.
pub fn make(profile: &str) -> Result<()> {
    packages::ensure("making a package", &[Need::program("dpkg-shlibdeps", &["dpkg-dev"])])?;
    let tool = tool()?;
    // By cargo itself: with cargo-deb's own settings everything would be built again.
    let driver = build::driver(profile == "release")?;
    let parts = workspace::target("deb");
    if parts.exists() {
        fs::remove_dir_all(&parts).with_context(|| format!("removing {}", parts.display()))?;
    }
    notices::write()?;
    process::text(command(driver).arg("generate").arg(&parts))?;
    changelog()?;
    let mut deb = command(tool);
    deb.current_dir(workspace::root()).env("PATH", path());
    deb.args(["--package", "docker-passthrough", "--profile", profile, "--no-build", "--strip", "--output"]);
    deb.arg(workspace::target("debian/docker-passthrough.deb"));
    process::step("Making the package", &mut deb, LIMIT)?;
    say(&workspace::target("debian/docker-passthrough.deb").display().to_string());
    Ok(())
}

/// The driver as the package has it, unpacked.
pub fn unpacked() -> Result<PathBuf> {
    let root = workspace::target("debian/root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    process::text(
        command("dpkg-deb")
            .arg("--extract")
            .arg(workspace::target("debian/docker-passthrough.deb"))
            .arg(&root),
    )?;
    Ok(root.join("usr/bin/docker-passthrough"))
}

/// cargo-deb, built once.
fn tool() -> Result<PathBuf> {
    let root = workspace::target("cargo-deb");
    let tool = root.join("bin/cargo-deb");
    let current = || {
        tool.is_file()
            && process::text(command(&tool).arg("--version")).is_ok_and(|version| version.contains(VERSION))
    };
    if !current() {
        let mut install = cargo();
        install.args(["install", "cargo-deb", "--locked", "--force", "--version", VERSION, "--root"]);
        install.arg(&root).arg("--target-dir").arg(root.join("build"));
        process::step(&format!("Building cargo-deb {VERSION}, once"), &mut install, LIMIT)?;
        fs::remove_dir_all(root.join("build")).context("removing what cargo-deb was built in")?;
    }
    Ok(tool)
}

/// Debian's form of it: what has changed is in CHANGELOG.md, which is beside it as changelog.gz.
fn changelog() -> Result<()> {
    let file = workspace::target("deb/changelog");
    let (version, authors) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_AUTHORS"));
    let text = format!(
        "docker-passthrough ({version}-1) unstable; urgency=medium\n\n  * Version {version}: see changelog.gz.\n\n \
         -- {authors}  Thu, 01 Jan 2026 00:00:00 +0000\n"
    );
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}
