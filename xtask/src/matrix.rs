//! Engines of other Debian releases, unpacked into `target/engines`: the installed one is only one of those
//! that are in use.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::{step, unpack, vm, workspace};

const LIMIT: Duration = Duration::from_mins(10);
const PACKAGES: [&str; 4] = ["docker.io", "docker-cli", "containerd", "runc"];
/// What the release's own packages are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Debian's releases, and the engine that each had when this was written.
const RELEASES: [(&str, &str); 3] = [("bookworm", "20.10"), ("trixie", "26.1"), ("forky", "28.5")];

/// The release under whose engine the driver has its systemd unit's capabilities, and no others.
const CONFINED: &str = "trixie";

/// An engine to test with.
pub struct Engine {
    /// The release it is from; none if it is the installed one.
    release: Option<&'static str>,
    /// As it says itself, such as `28.5.2+dfsg4`.
    version: String,
    dockerd: PathBuf,
    /// The client that came with it, if that runs here.
    docker: Option<PathBuf>,
}

/// An engine that was asked for: what it is called, and itself, or why it can't be had here.
pub type Asked = (String, Result<Engine>);

/// The installed engine, and those of the other releases; only those whose version or release begins with
/// one of `wanted`, if there are any.
pub fn engines(wanted: &[String]) -> Result<Vec<Asked>> {
    let host = vm::release()?;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.starts_with(wanted));
    let mut asked = Vec::new();
    let installed = installed()?;
    if is_wanted(&installed.version) || is_wanted(&host) || is_wanted("installed") {
        asked.push((installed.name(), Ok(installed)));
    }
    for (release, usual) in RELEASES.into_iter().filter(|(release, _)| *release != host) {
        if is_wanted(release) || is_wanted(usual) {
            let engine = unpacked(release, &host);
            crate::interrupt::check()?;
            asked.push((engine.as_ref().map_or_else(|_| usual.to_owned(), Engine::name), engine));
        }
    }
    let known = RELEASES.map(|(release, usual)| format!("{usual} ({release})")).join(", ");
    ensure!(!asked.is_empty(), "no engine {}; there are: {known}", wanted.join(", "));
    Ok(asked)
}

impl Engine {
    /// The part of its version that matters: `28.5`.
    fn name(&self) -> String {
        self.version.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    /// What it is and where it is from.
    pub fn about(&self) -> String {
        let whence = self.release.map_or_else(|| "installed".into(), |release| format!("Debian {release}"));
        let rights = if self.confines() { ", the driver with its unit's capabilities alone" } else { "" };
        format!("{}, {whence}{rights}", self.version)
    }

    fn confines(&self) -> bool {
        self.release == Some(CONFINED)
    }

    /// Has a test program take this engine.
    pub fn choose(&self, test: &mut Command) {
        if self.confines() {
            test.env("DOCKER_PASSTHROUGH_TEST_CONFINED", "1");
        }
        if self.release.is_some() {
            test.env("DOCKER_PASSTHROUGH_TEST_DOCKERD", &self.dockerd);
            if let Some(docker) = &self.docker {
                test.env("DOCKER_PASSTHROUGH_TEST_DOCKER", docker);
            }
        }
    }
}

/// The one that the suite takes by itself.
fn installed() -> Result<Engine> {
    let own = std::env::var_os("DOCKER_PASSTHROUGH_TEST_DOCKERD").map(PathBuf::from);
    let dockerd = own.or_else(|| process::find("dockerd")).context("there is no `dockerd` in PATH")?;
    Ok(Engine { release: None, version: version(&dockerd)?, dockerd, docker: None })
}

/// That of a release, fetched if it is not there.
fn unpacked(release: &'static str, host: &str) -> Result<Engine> {
    let folder = workspace::target("engines").join(release);
    let bin = folder.join("bin");
    if !bin.is_dir() {
        fetch(release, host, &folder).with_context(|| format!("no engine of Debian {release}"))?;
    }
    let dockerd = bin.join("dockerd");
    let docker = Some(bin.join("docker")).filter(|docker| runs(docker));
    Ok(Engine { release: Some(release), version: version(&dockerd)?, dockerd, docker })
}

/// What the release has now, with all its programs in `bin` when it is whole.
fn fetch(release: &str, host: &str, folder: &Path) -> Result<()> {
    let keyring = Need::new(KEYRING, &["debian-archive-keyring"], || Path::new(KEYRING).is_file());
    packages::ensure("fetching engines of other releases", &[keyring])?;
    let mirror = vm::mirror(host)?.context("apt names no mirror of this release")?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let apt = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial", "preferences"] {
        fs::create_dir_all(apt.join(part)).with_context(|| format!("creating {}", apt.display()))?;
    }
    let sources = format!("deb [signed-by={KEYRING}] {mirror} {release} main\n");
    fs::write(apt.join("sources"), sources).context("writing the list of sources")?;
    fs::write(apt.join("status"), "").context("writing an empty list of packages")?;
    let mut update = private(&apt);
    update.arg("update");
    process::step(&format!("Fetching the lists of Debian {release}"), &mut update, LIMIT)?;
    let root = folder.join("root");
    unpack::with(private(&apt), &root, &PACKAGES.map(str::to_owned))?;
    fs::remove_dir_all(&apt).with_context(|| format!("removing {}", apt.display()))?;
    link(&root, &folder.join("bin"))
}

/// `apt-get` that knows one release alone, trusts its keys alone, and leaves the machine's own as it is.
fn private(apt: &Path) -> Command {
    let mut command = command("apt-get");
    let at = |option: &str, name: &str| format!("{option}={}", apt.join(name).display());
    for option in [
        at("Dir::State", ""),
        at("Dir::State::Lists", "lists"),
        at("Dir::State::status", "status"),
        at("Dir::Cache", "cache"),
        at("Dir::Etc::SourceList", "sources"),
        at("Dir::Etc::Preferences", "preferences/none"),
        at("Dir::Etc::PreferencesParts", "preferences"),
        "Dir::Etc::SourceParts=-".into(),
        "Acquire::AllowInsecureRepositories=false".into(),
        "APT::Get::AllowUnauthenticated=false".into(),
        // Without it, lists that can't be fetched are a warning.
        "APT::Update::Error-Mode=any".into(),
        "Acquire::Languages=none".into(),
        "Acquire::Retries=3".into(),
        // The user that fetches otherwise may not enter this folder.
        "APT::Sandbox::User=root".into(),
        // What a desktop reads beside the packages.
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
    ] {
        command.args(["-o", &option]);
    }
    command
}

/// All programs in one folder, which appears when it is whole: the engine finds the others beside itself.
fn link(root: &Path, bin: &Path) -> Result<()> {
    let fresh = bin.with_extension("new");
    fs::create_dir_all(&fresh).with_context(|| format!("creating {}", fresh.display()))?;
    for folder in ["usr/bin", "usr/sbin"].map(|folder| root.join(folder)) {
        for program in fs::read_dir(&folder).into_iter().flatten() {
            let program = program.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = program.file_name().context("a name")?;
            // A link to another of these folders comes twice.
            let link = fresh.join(name);
            if link.symlink_metadata().is_err() {
                symlink(&program, &link).with_context(|| format!("linking {}", program.display()))?;
            }
        }
    }
    let runc = fresh.join("runc");
    if !runs(&runc) {
        // A newer release's wants a newer libc than the host's.
        let own = process::find("runc").context("there is no `runc` in PATH")?;
        fs::remove_file(&runc).context("removing the release's runc")?;
        symlink(&own, &runc).with_context(|| format!("linking {}", own.display()))?;
        step::note(&format!("its runc does not run here: taking {}", own.display()));
    }
    fs::rename(&fresh, bin).with_context(|| format!("renaming {}", fresh.display()))
}

fn runs(program: &Path) -> bool {
    program.is_file() && process::succeeds(command(program).arg("--version"))
}

/// What `dockerd --version` says.
fn version(dockerd: &Path) -> Result<String> {
    let said = process::text(command(dockerd).arg("--version"))?;
    let version = said.strip_prefix("Docker version ").and_then(|rest| rest.split(',').next());
    Ok(version.with_context(|| format!("{} names no version: {said}", dockerd.display()))?.to_owned())
}
