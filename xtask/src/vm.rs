//! `vm`: runs a program in a QEMU guest that has real SR-IOV NICs, emulated.
//!
//! The guest's root is a Debian of its own, made once. It sees this repository at its own path, so a
//! test that cargo has built runs there as it is: `vm` can be cargo's runner.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::daemon::unique;
use crate::packages::{self, Need};
use crate::process::{self, Ended, command};
use crate::{must_be_root, workspace};

/// What the guest has. Another list is another root.
const PACKAGES: &str = "linux-image-amd64,qemu-system-x86,virtiofsd,docker.io,docker-cli,iptables,iproute2,\
                        iputils-ping,ethtool,kmod,tcpdump,bpftool,busybox-static";
/// The first release with all of them.
const OLDEST: &str = "trixie";
/// Hosts older than that.
const OLD: [&str; 2] = ["bullseye", "bookworm"];

/// Which kernel a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// The root's own
    Own,
    /// Debian bookworm's Linux 6.1, which has no TCX
    #[value(name = "6.1")]
    Bookworm,
}

/// What a guest boots from.
pub struct Guest {
    root: PathBuf,
    /// A folder with another kernel than the root's.
    kernel: Option<PathBuf>,
    /// Whether systemd and udev run there, as they do on a host.
    systemd: bool,
}

impl Guest {
    /// The same with systemd, which takes longer to boot.
    pub fn with_systemd(self, systemd: bool) -> Self {
        Self { systemd, ..self }
    }
}

/// Makes the guest's root and its kernel, if they are not there; an error says why no guest can be had here.
pub fn prepare(kernel: Kernel) -> Result<Guest> {
    must_be_root("vm -- PROGRAM", "it mounts what the guest sees")?;
    if std::env::consts::ARCH != "x86_64" {
        bail!("the guest is an x86_64 machine with igb NICs, and this is {}", std::env::consts::ARCH);
    }
    let root = root()?;
    let kernel = match kernel {
        Kernel::Own => None,
        Kernel::Bookworm => Some(bookworm(&root)?),
    };
    Ok(Guest { root, kernel, systemd: false })
}

/// Runs a program, given by its path there and its arguments, in a guest of its own.
pub fn run(guest: &Guest, program: &[String], limit: Duration) -> Result<Ended> {
    run_as("", guest, program, limit)
}

/// The same beside others: a label stands before each line.
pub fn run_as(label: &str, guest: &Guest, program: &[String], limit: Duration) -> Result<Ended> {
    let folder = workspace::target("vm").join(format!("run-{}", unique()?));
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let folder = Folder(folder);
    fs::write(folder.0.join("command"), words(program)?).context("writing the guest's command")?;
    if guest.systemd {
        fs::write(folder.0.join("systemd"), "").context("writing what the guest's init is")?;
    }
    let mut run = command(workspace::root().join("xtask/vm/run.sh"));
    run.arg(workspace::root()).arg(&guest.root).arg(&folder.0).args(&guest.kernel);
    process::show_as(label, "Booting a guest with two SR-IOV NICs", &mut run, limit)
}

/// Folder, environment, program and arguments for the guest's init.
fn words(program: &[String]) -> Result<Vec<u8>> {
    let here = std::env::current_dir().context("asking for the current folder")?;
    // Elsewhere the guest has no such folder.
    let here = if here.starts_with(workspace::root()) { here } else { workspace::root().to_owned() };
    let ours = ["DOCKER_PASSTHROUGH_", "RUST_", "CARGO_MANIFEST_DIR"];
    let environment = std::env::vars().filter(|(key, _)| ours.iter().any(|prefix| key.starts_with(prefix)));
    let environment = environment.map(|(key, value)| format!("{key}={value}"));
    let words = std::iter::once(here.display().to_string()).chain(environment).chain(program.iter().cloned());
    Ok(words.flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect())
}

/// The guest's root, made if it is not there.
fn root() -> Result<PathBuf> {
    let vm = workspace::target("vm");
    let (root, stamp) = (vm.join("root"), vm.join("packages"));
    let host = release()?;
    // Programs that were linked here must find as new a libc there.
    let suite = if OLD.contains(&host.as_str()) { OLDEST } else { &host };
    let wanted = format!("{suite}: {PACKAGES}");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(root);
    }
    packages::ensure("making the guest", &[Need::program("mmdebstrap", &["mmdebstrap"])])?;
    for old in [&root, &vm.join("root.new")] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    fs::create_dir_all(&vm).with_context(|| format!("creating {}", vm.display()))?;
    let fresh = vm.join("root.new");
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=minbase", &format!("--include={PACKAGES}"), suite]);
    mmdebstrap.arg(&fresh).args(mirror(&host)?);
    process::step(
        &format!("Making the guest's root, a Debian {suite}, once"),
        &mut mmdebstrap,
        Duration::from_mins(15),
    )?;
    fs::rename(&fresh, &root).with_context(|| format!("renaming {}", fresh.display()))?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(root)
}

/// Bookworm's kernel for guests with this root, made if it is not there.
fn bookworm(root: &Path) -> Result<PathBuf> {
    let vm = workspace::target("vm");
    ensure!(
        vm.starts_with(workspace::root()),
        "the guest's machine sees this repository alone, and {} is outside: unset CARGO_TARGET_DIR",
        vm.display()
    );
    let folder = vm.join("kernel-6.1");
    // It is there whole or not at all.
    if folder.exists() {
        return Ok(folder);
    }
    packages::ensure("making the guest", &[Need::program("mmdebstrap", &["mmdebstrap"])])?;
    let fresh = vm.join("kernel-6.1.new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
    }
    let script = workspace::root().join("xtask/vm/kernel.sh");
    let hook = format!("'{}' '{}' \"$1\"", script.display(), root.display());
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=custom", &format!("--customize-hook={hook}"), "bookworm"]);
    mmdebstrap.arg(&fresh).args(mirror(&release()?)?);
    process::step("Fetching Linux 6.1, once", &mut mmdebstrap, Duration::from_mins(10))?;
    fs::rename(&fresh, &folder).with_context(|| format!("renaming {}", fresh.display()))?;
    Ok(folder)
}

/// The host's release, by its code name.
pub fn release() -> Result<String> {
    let about = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    // Testing and unstable have none.
    Ok(name.unwrap_or("sid").trim_matches('"').to_owned())
}

/// Where this host gets its own packages.
pub fn mirror(host: &str) -> Result<Option<String>> {
    let mut ask = command("apt-get");
    ask.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]);
    let answer = process::text(ask.arg(format!("Codename: {host}")))?;
    Ok(answer.lines().next().map(str::to_owned))
}

/// What one run needs, removed with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
