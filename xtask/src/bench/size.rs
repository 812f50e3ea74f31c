//! What is on the disk.
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::driver::Common;
use super::figures::table;
use crate::workspace;

/// What is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    let Common { measured, peer } = &options.common;
    let mut files = vec![("the driver, stripped", measured.binary()?)];
    files.push(("of it: BPF object", workspace::target("bpf/docker-passthrough.o")));
    files.push(("of it: BPF object that reports", workspace::target("bpf/docker-passthrough-log.o")));
    files.extend(peer.clone().map(|peer| ("the Go successor", peer)));
    let sized = |(what, path): &(&'static str, std::path::PathBuf)| anyhow::Ok((*what, bytes(path)?));
    let files: Vec<_> = files.iter().map(sized).collect::<Result<_>>()?;
    if measured.json {
        let files: Vec<Value> =
            files.iter().map(|(what, bytes)| json!({"file": what, "bytes": bytes})).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"size": files}))?);
        return Ok(());
    }
    let mut lines = vec![["FILE", "BYTES", "MIB"].map(str::to_owned).to_vec()];
    for (what, bytes) in files {
        let hundredths = bytes * 100 / (1 << 20);
        lines.push(vec![
            what.into(),
            bytes.to_string(),
            format!("{}.{:02}", hundredths / 100, hundredths % 100),
        ]);
    }
    println!("{}", table(&lines));
    Ok(())
}

fn bytes(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("the size of {}", path.display()))?.len())
}
