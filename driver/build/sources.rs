//! What the BPF objects are made from: `cargo xtask build-ebpf` keeps it beside them, and the driver's build
//! compares. An object of older sources would fail only when it is loaded.
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Folders and files below the workspace.
pub const OF_OBJECTS: [&str; 5] = [
    "driver-common/Cargo.toml",
    "driver-common/src",
    "driver-ebpf/Cargo.lock",
    "driver-ebpf/Cargo.toml",
    "driver-ebpf/src",
];

/// The file that has them, beside the objects.
pub const KEPT: &str = "sources";

/// All of them, with their names.
pub fn read(workspace: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for part in OF_OBJECTS {
        for file in files(&workspace.join(part))? {
            let name = file.strip_prefix(workspace).unwrap_or(&file).display().to_string();
            text.extend(format!("==> {name}\n").into_bytes());
            text.extend(fs::read(&file)?);
        }
    }
    Ok(text)
}

fn files(of: &Path) -> io::Result<Vec<PathBuf>> {
    if !of.is_dir() {
        return Ok(vec![of.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(of)? {
        files.extend(self::files(&entry?.path())?);
    }
    files.sort();
    Ok(files)
}
