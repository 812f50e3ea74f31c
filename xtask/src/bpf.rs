//! `build-ebpf`: the BPF objects that the driver carries.
//!
//! The same source gives the same bytes, wherever it lies: paths are remapped, functions' names do not
//! depend on the folder (`bpf-rustc.sh`), and DWARF, which says the most about the machine, is left
//! out. BTF, which the kernel reads, stays.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::compiler::{self, Compiler, Origin, TARGET};
use crate::daemon::{Scratch, unique};
use crate::linker;
use crate::process::{self, command};
use crate::sources;
use crate::step::{note, say};
use crate::workspace;

const LIMIT: Duration = Duration::from_mins(10);

/// One object: its name and the features of driver-ebpf it is built with.
struct Object {
    name: &'static str,
    features: &'static [&'static str],
}

/// What is built: the programs, and those that also log.
const OBJECTS: [Object; 2] = [
    Object { name: "docker-passthrough", features: &[] },
    Object { name: "docker-passthrough-log", features: &["log"] },
];

/// A source tree and where its objects go.
struct Tree<'a> {
    root: &'a Path,
    output: &'a Path,
}

/// Builds the objects into `target/bpf`.
pub fn build(wanted: Option<compiler::Origin>) -> Result<()> {
    let (compiler, bin) = tools(wanted)?;
    let tree = Tree { root: workspace::root(), output: &workspace::target("bpf") };
    build_tree(&compiler, &bin, &tree)
}

/// Builds the objects and, from a copy of the source in another folder, again: they must be equal.
pub fn build_twice(wanted: Option<compiler::Origin>) -> Result<()> {
    let (compiler, bin) = tools(wanted)?;
    let output = workspace::target("bpf");
    build_tree(&compiler, &bin, &Tree { root: workspace::root(), output: &output })?;
    let scratch = Scratch::new(&format!("docker-passthrough-{}", unique()?))?;
    let copy = scratch.path().join("some/where/else");
    fs::create_dir_all(&copy).with_context(|| format!("creating {}", copy.display()))?;
    for part in ["driver-ebpf", "driver-common", "Cargo.toml"] {
        // driver-ebpf/target may lie there from builds by hand.
        let mut tar = command("tar");
        tar.arg("-C").arg(workspace::root()).args(["--exclude=target", "-cf"]);
        let archive = scratch.path().join("part.tar");
        process::text(tar.arg(&archive).arg(part))?;
        process::text(command("tar").arg("-C").arg(&copy).arg("-xf").arg(&archive))?;
    }
    let second = scratch.path().join("objects");
    build_tree(&compiler, &bin, &Tree { root: &copy, output: &second })?;
    for Object { name, .. } in &OBJECTS {
        let file = format!("{name}.o");
        if read(&output.join(&file))? != read(&second.join(&file))? {
            bail!("{file} differs from one built in another folder: something of the folder is left in it");
        }
        note(&format!("{file} is the same, byte for byte, from another folder"));
    }
    Ok(())
}

fn tools(wanted: Option<compiler::Origin>) -> Result<(Compiler, PathBuf)> {
    let compiler = compiler::choose(wanted)?;
    let bin = linker::ensure(&compiler)?;
    Ok((compiler, bin))
}

fn build_tree(compiler: &Compiler, bin: &Path, tree: &Tree) -> Result<()> {
    fs::create_dir_all(tree.output).with_context(|| format!("creating {}", tree.output.display()))?;
    // As they are before the compiler reads them: what changes meanwhile is not taken for built.
    let sources = sources::read(tree.root).context("reading the sources of the BPF objects")?;
    OBJECTS.iter().try_for_each(|object| build_object(compiler, bin, tree, object))?;
    let kept = tree.output.join(sources::KEPT);
    if fs::read(&kept).is_ok_and(|old| old == sources) {
        return Ok(());
    }
    fs::write(&kept, sources).with_context(|| format!("writing {}", kept.display()))
}

fn build_object(compiler: &Compiler, bin: &Path, tree: &Tree, object: &Object) -> Result<()> {
    let build = tree.output.join("build");
    let crate_dir = tree.root.join("driver-ebpf");
    let mut cargo = compiler.cargo();
    cargo.current_dir(&crate_dir).args([
        "build",
        "--release",
        "--bin",
        "docker-passthrough",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(&build).args(["--features", &object.features.join(",")]);
    if crate_dir.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    match compiler.origin {
        // aya-ebpf and the programs alone may use what is unstable; with `1` aya-ebpf's build script would ask
        // for build-std.
        Origin::Debian => cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,docker_passthrough"),
        Origin::Nightly => cargo.args(["-Z", "build-std=core"]),
    };
    cargo.env("RUSTC_WRAPPER", workspace::root().join("xtask/bpf-rustc.sh"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(compiler, tree, &build)?.join("\x1f"));
    let mut folders = vec![bin.to_owned()];
    folders.extend(std::env::split_paths(&process::path()));
    cargo.env("PATH", std::env::join_paths(folders).context("bpf-linker's folder has a colon in its name")?);
    process::step(&format!("Building {}.o with {compiler}", object.name), &mut cargo, LIMIT)?;
    let linked = build.join(TARGET).join("release").join("docker-passthrough");
    place(compiler, &linked, &tree.output.join(format!("{}.o", object.name)))
}

fn flags(compiler: &Compiler, tree: &Tree, build: &Path) -> Result<Vec<String>> {
    let mut flags: Vec<_> = ["-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf", "-Clinker=bpf-linker"]
        .map(ToString::to_string)
        .into();
    // The layout of pt_regs, which follows the machine that loads the program.
    let arch = match std::env::consts::ARCH {
        riscv if riscv.starts_with("riscv64") => "riscv64",
        arch => arch,
    };
    flags.push(format!("--cfg=bpf_target_arch=\"{arch}\""));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME says where crates are kept")?;
    // No folder has such a name: where bpf-linker finds a source it copies its lines into the object.
    // The last that fits wins: narrow ones after wide ones.
    let places =
        [(&*home, "/-/cargo"), (&*compiler.sysroot, "/-/rust"), (tree.root, "/-/src"), (build, "/-/build")];
    flags.extend(places.map(|(place, name)| format!("--remap-path-prefix={}={name}", place.display())));
    Ok(flags)
}

/// Puts the object in its place, without DWARF; and leaves one alone that is the same, so that the
/// driver is not built again.
fn place(compiler: &Compiler, linked: &Path, object: &Path) -> Result<()> {
    let fresh = object.with_extension("o.new");
    let strip = PathBuf::from(format!("/usr/lib/llvm-{}/bin/llvm-strip", compiler.llvm));
    if strip.is_file() {
        process::text(command(&strip).arg("-g").arg("-o").arg(&fresh).arg(linked))?;
    } else {
        note(&format!("there is no {}: DWARF stays in", strip.display()));
        fs::copy(linked, &fresh)
            .with_context(|| format!("copying {} to {}", linked.display(), fresh.display()))?;
    }
    let bytes = read(&fresh)?;
    let same = fs::read(object).is_ok_and(|old| old == bytes);
    if same {
        fs::remove_file(&fresh).with_context(|| format!("removing {}", fresh.display()))?;
    } else {
        fs::rename(&fresh, object)
            .with_context(|| format!("renaming {} to {}", fresh.display(), object.display()))?;
    }
    let sum = process::text(command("sha256sum").arg(object))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let state = if same { "unchanged" } else { "new" };
    say(&format!("{}: {} bytes, {state}, sha256 {sum}", object.display(), bytes.len()));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
