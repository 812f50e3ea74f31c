//! What the program is made of, and under which licences: `target/deb/third-party.txt`.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::cargo;
use crate::{process, workspace};

/// Writes the list, with each library's own licence text.
pub fn write() -> Result<PathBuf> {
    let used = used()?;
    let mut ask = cargo();
    ask.args(["metadata", "--format-version", "1", "--locked"]);
    let metadata = process::text_within(Duration::from_mins(5), &mut ask)?;
    let metadata: Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
    let mut sections = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let title = format!("{} v{}", field("name"), field("version"));
        // Ours have no source, and the licence of all of this.
        if package["source"].is_null() || !used.contains(&title) {
            continue;
        }
        let folder = Path::new(field("manifest_path")).parent().unwrap_or(Path::new("/"));
        let mut text = format!("{title}\n{}\n{}\n", field("license"), field("repository"));
        for file in licences(folder)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let body = fs::read(&file).with_context(|| file.display().to_string())?;
            let body = String::from_utf8_lossy(&body);
            text.extend(["\n--- ", &name, " ---\n", body.trim_end(), "\n"]);
        }
        sections.push(text);
    }
    sections.sort();
    let folder = workspace::target("deb");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let file = folder.join("third-party.txt");
    let head = "Libraries that are linked into docker-passthrough, with their licences.\n";
    let rule = format!("\n{}\n\n", "=".repeat(80));
    fs::write(&file, format!("{head}{rule}{}", sections.join(&rule)))
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// `name vVERSION` of what is linked, and of what makes code at build time.
fn used() -> Result<Vec<String>> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "--package",
        "docker-passthrough",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--locked",
    ]);
    let tree = process::text_within(Duration::from_mins(5), &mut tree)?;
    let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(tree.lines().map(words).collect())
}

fn licences(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"].iter().any(|start| name.starts_with(start))
    });
    files.sort();
    Ok(files)
}
