//! bpf-linker, built once into `target/bpf-linker`.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::compiler::{Compiler, Origin};
use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::workspace;

const VERSION: &str = "0.13.0";
/// The LLVM versions it has features for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// The folder that has a bpf-linker for the compiler.
pub fn ensure(compiler: &Compiler) -> Result<PathBuf> {
    let root = workspace::target("bpf-linker");
    let bin = root.join("bin");
    let linker = bin.join("bpf-linker");
    let stamp = root.join("built");
    let wanted = format!("{VERSION} with LLVM {}", compiler.llvm);
    if fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) && runs(&linker) {
        return Ok(bin);
    }
    // The releases that its README recommends follow nightly's LLVM.
    if compiler.origin == Origin::Nightly
        && let Some(found) = process::find("bpf-linker").filter(|found| runs(found))
    {
        return Ok(found.parent().map(Path::to_owned).unwrap_or_default());
    }
    build(compiler, &root)?;
    if !runs(&linker) {
        bail!("{} was built, but does not run", linker.display());
    }
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(bin)
}

fn runs(linker: &Path) -> bool {
    linker.is_file() && process::succeeds(command(linker).arg("--version"))
}

fn build(compiler: &Compiler, root: &Path) -> Result<()> {
    let llvm = compiler.llvm;
    if !LLVM.contains(&llvm) {
        bail!(
            "{compiler} needs a bpf-linker with LLVM {llvm}, and version {VERSION} knows LLVM {} to {}; \
             put a bpf-linker that fits into PATH and use --toolchain nightly",
            LLVM.start(),
            LLVM.end()
        );
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let file = |what: &str, package: &str, path: PathBuf| Need::new(what, &[package], move || path.exists());
    let mut needs = vec![
        file("LLVM", &format!("llvm-{llvm}-dev"), prefix.join("lib/libLLVM.so")),
        file("LLVM's headers", &format!("llvm-{llvm}-dev"), prefix.join("include/llvm-c/Core.h")),
        file("Polly", &format!("libpolly-{llvm}-dev"), prefix.join("lib/libPolly.a")),
        file("zlib", "zlib1g-dev", "/usr/include/zlib.h".into()),
        file("zstd", "libzstd-dev", "/usr/include/zstd.h".into()),
        Need::program("c++", &["g++"]),
    ];
    if compiler.origin == Origin::Nightly {
        needs.push(Need::program("cc", &["gcc"]));
    }
    packages::ensure("building bpf-linker", &needs)?;
    let build = root.join("build");
    let mut cargo = compiler.cargo();
    cargo.env("LLVM_PREFIX", &prefix);
    cargo.args(["install", "bpf-linker", "--locked", "--force", "--version", VERSION]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    cargo.arg("--root").arg(root).arg("--target-dir").arg(&build);
    let what = format!("Building bpf-linker {VERSION} for LLVM {llvm}, once");
    process::step(&what, &mut cargo, Duration::from_mins(20))?;
    // Ten times the size of what it was for.
    fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))
}
