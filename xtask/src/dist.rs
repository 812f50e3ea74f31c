//! `dist`: what a package of the driver has in it, in `target/dist`.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{self, command};
use crate::step::{note, say};
use crate::{build, notices, workspace};

/// Builds it optimized, and lays it out: binary, licences, man pages, completions.
pub fn run() -> Result<()> {
    let binary = build::driver(true)?;
    let folder = workspace::target("dist");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let program = folder.join("docker-passthrough");
    copy(&binary, &program)?;
    for file in ["LICENSE", "README.md", "CHANGELOG.md"] {
        copy(&workspace::root().join(file), &folder.join(file))?;
    }
    copy(&notices::write()?, &folder.join("third-party.txt"))?;
    process::text(command(&program).arg("generate").arg(&folder))?;
    say(&format!("{}: to install it, as root:", folder.display()));
    for line in [
        "install docker-passthrough /usr/local/bin/",
        "install -D -m 644 -t /usr/local/share/man/man8 man/*.8",
        "install -D -m 644 completions/bash/docker-passthrough.bash /usr/share/bash-completion/completions/docker-passthrough",
        "install -D -m 644 -t /usr/share/zsh/vendor-completions completions/zsh/_docker-passthrough",
        "install -D -m 644 -t /usr/share/fish/vendor_completions.d completions/fish/docker-passthrough.fish",
        "mkdir -p /usr/local/lib/docker/cli-plugins",
        "ln -s /usr/local/bin/docker-passthrough /usr/local/lib/docker/cli-plugins/",
    ] {
        note(line);
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
