//! Gets what is missing from Debian, by name; or says what to type.
use std::time::Duration;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::process::{self, command};
use crate::step::note;

const LIMIT: Duration = Duration::from_mins(15);

/// Something the work needs, and the packages that have it.
pub struct Need {
    what: String,
    met: Box<dyn Fn() -> bool>,
    /// The first one that apt knows is taken: names change between releases.
    packages: Vec<String>,
}

impl Need {
    /// A program.
    pub fn program(name: &'static str, packages: &[&str]) -> Self {
        Self::new(name, packages, move || process::find(name).is_some())
    }

    /// Anything that can be asked for.
    pub fn new(what: &str, packages: &[&str], met: impl Fn() -> bool + 'static) -> Self {
        let packages = packages.iter().map(ToString::to_string).collect();
        Self { what: what.into(), met: Box::new(met), packages }
    }
}

/// Makes sure that everything is there.
pub fn ensure(purpose: &str, needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.met)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let whats = missing.iter().map(|need| need.what.as_str()).collect::<Vec<_>>().join(", ");
    if process::find("apt-get").is_none() {
        let names = missing.iter().map(|need| need.packages.join(" or ")).collect::<Vec<_>>().join(", ");
        bail!(
            "{purpose} needs {whats}, and there is no apt-get to install it with; Debian has it as {names}"
        );
    }
    let mut updated = false;
    let mut names = chosen(&missing);
    if !may_install() {
        let names = names
            .unwrap_or_else(|| missing.iter().filter_map(|need| need.packages.first().cloned()).collect());
        bail!(
            "{purpose} needs {whats}, and only root may install it; type\n    sudo apt-get install --no-install-recommends {}",
            names.join(" ")
        );
    }
    if names.is_none() {
        update()?;
        updated = true;
        names = chosen(&missing);
    }
    let Some(names) = names else {
        let unknown = missing.iter().filter(|need| candidate(&need.packages).is_none());
        let unknown = unknown.map(|need| need.packages.join(" or ")).collect::<Vec<_>>().join(", ");
        bail!(
            "{purpose} needs {whats}, but apt knows no package {unknown}: it is in Debian 12 (with security updates) and newer"
        );
    };
    if let Err(error) = install(purpose, &names) {
        if updated {
            return Err(error);
        }
        note("that failed; once more with fresh package lists");
        update()?;
        install(purpose, &names)?;
    }
    if let Some(need) = missing.iter().find(|need| !(need.met)()) {
        bail!("{purpose} needs {}, which is still missing after installing {}", need.what, names.join(" "));
    }
    Ok(())
}

/// Whether this user can install packages here.
pub fn may_install() -> bool {
    geteuid().is_root() && process::find("apt-get").is_some()
}

/// The version of a package that apt would install.
pub fn candidate_version(package: &str) -> Option<String> {
    let policy = process::text(command("apt-cache").env("LC_ALL", "C").args(["policy", package])).ok()?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

fn candidate(packages: &[String]) -> Option<String> {
    packages.iter().find(|package| candidate_version(package).is_some()).cloned()
}

fn chosen(missing: &[&Need]) -> Option<Vec<String>> {
    let mut names: Vec<_> = missing.iter().map(|need| candidate(&need.packages)).collect::<Option<_>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

fn apt_get() -> std::process::Command {
    let mut apt_get = command("apt-get");
    apt_get
        .args(["-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    apt_get
}

/// Fetches the lists of packages.
pub fn update() -> Result<()> {
    process::step("Fetching the lists of packages", apt_get().arg("update"), LIMIT)
}

fn install(purpose: &str, names: &[String]) -> Result<()> {
    let what = format!("Installing {} for {purpose}", names.join(" "));
    // Never at the price of a package that somebody wanted.
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(names);
    process::step(&what, &mut install, LIMIT)
}
