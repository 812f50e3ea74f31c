//! Where things are.
use std::path::{Path, PathBuf};

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A path under the workspace's own `target/`, wherever cargo was told to build.
///
/// `driver/build.rs` looks for the BPF object there, so it can't follow `CARGO_TARGET_DIR`.
pub fn target(path: &str) -> PathBuf {
    root().join("target").join(path)
}
