//! Finds, or installs, a compiler that can make BPF programs.
//!
//! Two are served: Debian's, which has a `core` ready for BPF, and rustup's nightly with rust-src,
//! which builds one.
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::packages::{self, Need};
use crate::process::{self, command};

/// The target, and the folder of its `core` in a sysroot.
pub const TARGET: &str = "bpfel-unknown-none";
/// driver-ebpf is written in edition 2024.
const OLDEST: (u32, u32) = (1, 85);
/// Debian's compiler, cargo and BPF `core`: for its browsers in a stable release, else the usual ones.
const DEBIAN: [[&str; 3]; 2] =
    [["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"], ["rustc", "cargo", "libstd-rust-dev-bpf"]];

/// Whose compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// Debian's, from its packages.
    Debian,
    /// rustup's nightly toolchain with the component rust-src.
    Nightly,
}

/// A compiler for BPF programs.
pub struct Compiler {
    /// Whose it is.
    pub origin: Origin,
    /// The compiler.
    pub rustc: PathBuf,
    /// The cargo that goes with it.
    pub cargo: PathBuf,
    /// Where its libraries are.
    pub sysroot: PathBuf,
    /// Its version.
    pub release: String,
    /// The major version of its LLVM, which bpf-linker's must equal.
    pub llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.origin {
            Origin::Debian => "Debian's",
            Origin::Nightly => "rustup's nightly",
        };
        write!(f, "{whose} rustc {} (LLVM {})", self.release, self.llvm)
    }
}

impl Compiler {
    /// Its cargo, with nothing of the cargo that runs us: neither toolchain nor flags.
    pub fn cargo(&self) -> Command {
        let mut cargo = command(&self.cargo);
        for (key, _) in std::env::vars_os() {
            let key = key.to_string_lossy();
            let network = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "RUSTUP_HOME"];
            let foreign = key.starts_with("CARGO") || key.starts_with("RUST") || key == "LD_LIBRARY_PATH";
            if foreign && !network.iter().any(|prefix| key.starts_with(prefix)) {
                cargo.env_remove(&*key);
            }
        }
        // Empty switches off a wrapper that the user's configuration may name.
        cargo.env("RUSTC", &self.rustc).env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
        cargo
    }
}

/// The one to take: what is there already, else Debian's, installed.
pub fn choose(wanted: Option<Origin>) -> Result<Compiler> {
    match wanted {
        Some(Origin::Nightly) => nightly(),
        Some(Origin::Debian) => debian().or_else(|_| install()),
        None => debian().or_else(|_| nightly()).or_else(|_| install()),
    }
}

fn debian() -> Result<Compiler> {
    let rustc = Path::new("/usr/bin/rustc");
    let compiler = asked(Origin::Debian, rustc, Path::new("/usr/bin/cargo"))?;
    let core = compiler.sysroot.join("lib/rustlib").join(TARGET);
    if !core.is_dir() {
        bail!("{compiler} has no {}", core.display());
    }
    Ok(compiler)
}

fn nightly() -> Result<Compiler> {
    let which = |program| {
        let asked = process::text(command("rustup").args(["which", "--toolchain", "nightly", program]));
        asked.map(|path| PathBuf::from(path.trim()))
    };
    let mend = "type\n    rustup toolchain install nightly --component rust-src";
    let rustc = which("rustc").with_context(|| format!("rustup has no nightly toolchain; {mend}"))?;
    let compiler = asked(Origin::Nightly, &rustc, &which("cargo")?)?;
    let source = compiler.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !source.is_file() {
        bail!("{compiler} has no rust-src; {mend}");
    }
    Ok(compiler)
}

fn asked(origin: Origin, rustc: &Path, cargo: &Path) -> Result<Compiler> {
    let ask = |question: &[&str]| {
        // Not what the cargo that runs us would use.
        process::text(
            command(rustc).args(question).env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN"),
        )
    };
    let about = ask(&["-vV"])?;
    let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:").with_context(|| format!("{} -vV names no release", rustc.display()))?;
    if version(release) < Some(OLDEST) {
        bail!("{} is {release}; at least {}.{} is needed", rustc.display(), OLDEST.0, OLDEST.1);
    }
    let llvm = field("LLVM version:").and_then(|text| text.split('.').next()?.parse().ok());
    Ok(Compiler {
        origin,
        rustc: rustc.into(),
        cargo: cargo.into(),
        sysroot: ask(&["--print", "sysroot"])?.trim().into(),
        release: release.into(),
        llvm: llvm.with_context(|| format!("{} -vV names no LLVM version", rustc.display()))?,
    })
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn install() -> Result<Compiler> {
    let purpose = "building BPF programs (rustup's nightly with rust-src would do as well)";
    let fresh = || {
        let knows = |family: &&[&'static str; 3]| {
            packages::candidate_version(family[2]).is_some_and(|found| version(&found) >= Some(OLDEST))
        };
        DEBIAN.iter().find(knows)
    };
    let mut family = fresh();
    if family.is_none() && packages::may_install() {
        packages::update()?;
        family = fresh();
    }
    let family = family.unwrap_or(&DEBIAN[0]);
    let needs = family.map(|package| Need::new(package, &[package], || debian().is_ok()));
    packages::ensure(purpose, &needs)?;
    debian()
}
