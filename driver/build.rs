//! Finds the BPF objects that `cargo xtask build-ebpf` made, for `include_bytes_aligned!`.
use std::path::Path;

/// By the variables that tell where they are.
const OBJECTS: [(&str, &str); 2] =
    [("BPF_OBJECT", "docker-passthrough.o"), ("BPF_OBJECT_LOG", "docker-passthrough-log.o")];

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf");
    for (variable, name) in OBJECTS {
        let object = folder.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if object.exists() {
            println!("cargo::rustc-env={variable}={}", object.display());
        } else {
            println!(
                "cargo::error={name} is not built yet: run `cargo xtask build-ebpf`, or `cargo xtask build` for everything"
            );
        }
    }
}
