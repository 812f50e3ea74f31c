//! Debian packages unpacked into `target/`, where installing them would take others away.
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{self, command};

const LIMIT: Duration = Duration::from_mins(10);

/// Fetches packages and unpacks them into a folder.
pub fn into(folder: &Path, packages: &[String]) -> Result<()> {
    with(command("apt-get"), folder, packages)
}

/// The same with an `apt-get` that has options of its own.
pub fn with(mut fetch: Command, folder: &Path, packages: &[String]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fetch.current_dir(folder).args(["-o", "Acquire::Retries=3", "download"]).args(packages);
    process::step(&format!("Unpacking {} into {}", packages.join(" "), folder.display()), &mut fetch, LIMIT)?;
    for file in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let file = file.with_context(|| format!("reading {}", folder.display()))?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            process::text(command("dpkg").arg("-x").arg(&file).arg(folder))?;
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

/// The packages themselves and all that they depend on, whose names begin with one of `prefixes`.
pub fn with_dependencies(packages: &[&str], prefixes: &[&str]) -> Result<Vec<String>> {
    let mut ask = command("apt-cache");
    ask.args(["depends", "--recurse", "--important", "--no-conflicts", "--no-breaks", "--no-replaces"]);
    let answer = process::text(ask.args(packages))?;
    let names = answer.lines().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    Ok(names.map(str::to_owned).collect())
}
