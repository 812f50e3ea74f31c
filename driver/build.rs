//! Finds the BPF object that `cargo xtask build-ebpf` made, for `include_bytes_aligned!`.
use std::path::Path;

fn main() {
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/docker-passthrough.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.exists() {
        println!("cargo::rustc-env=BPF_OBJECT={}", object.display());
    } else {
        println!(
            "cargo::error=the BPF object is not built yet: run `cargo xtask build-ebpf`, or `cargo xtask build` for everything"
        );
    }
}
