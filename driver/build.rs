//! Finds the BPF objects that `cargo xtask build-ebpf` made, for `include_bytes_aligned!`.
use std::fs;
use std::path::Path;

#[path = "build/sources.rs"]
mod sources;

/// By the variables that tell where they are.
const OBJECTS: [(&str, &str); 2] =
    [("BPF_OBJECT", "docker-passthrough.o"), ("BPF_OBJECT_LOG", "docker-passthrough-log.o")];
const HOW: &str = "run `cargo xtask build-ebpf`, or `cargo xtask build` for everything";

fn main() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = workspace.join("target/bpf");
    for part in sources::OF_OBJECTS {
        println!("cargo::rerun-if-changed={}", workspace.join(part).display());
    }
    let kept = folder.join(sources::KEPT);
    println!("cargo::rerun-if-changed={}", kept.display());
    let mut all_built = true;
    for (variable, name) in OBJECTS {
        let object = folder.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if object.exists() {
            println!("cargo::rustc-env={variable}={}", object.display());
        } else {
            all_built = false;
            println!("cargo::error={name} is not built yet: {HOW}");
        }
    }
    let is_current = || Some(sources::read(&workspace).ok()? == fs::read(&kept).ok()?);
    if all_built && is_current() != Some(true) {
        println!(
            "cargo::error=the BPF objects in target/bpf are not of the sources that driver-ebpf and driver-common have now: {HOW}"
        );
    }
}
