//! `fuzz`: all fuzz targets side by side, for as long as one asks.
//!
//! libFuzzer comes with a crate, and the compiler's own passes instrument every function: the stable toolchain
//! does, without a sanitizer, which safe code needs less. `cargo fuzz`, where it is installed, runs the same targets.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::cargo;
use crate::process;
use crate::step::{note, say};
use crate::{bpf, workspace};

const BUILDING: Duration = Duration::from_mins(30);
/// All that there are: `driver/fuzz/targets`.
const TARGETS: [&str; 5] = ["request", "options", "tag", "state", "netlink"];
/// What `cargo fuzz` passes, without its sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
const HOST: &str = "x86_64-unknown-linux-gnu";

/// What the fuzzer takes.
#[derive(Args)]
pub struct Options {
    /// Which to run [default: all]
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Put inputs that reach something new into the committed corpus, the smallest that do
    #[arg(long)]
    keep: bool,
}

/// Builds the targets and runs them at the same time; an input that fails one is kept, and named.
pub fn run(options: &Options) -> Result<()> {
    bpf::build(None)?;
    let programs = build()?;
    let mut targets = options.targets.clone();
    if targets.is_empty() {
        targets = TARGETS.map(str::to_owned).to_vec();
    }
    say(&format!("Fuzzing for {} s: {}", options.seconds, targets.join(", ")));
    let results: Vec<_> = std::thread::scope(|scope| {
        let running = targets.iter().map(|target| {
            let program = programs.join(target);
            scope.spawn(move || (target, fuzz(target, &program, options)))
        });
        let running: Vec<_> = running.collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    crate::interrupt::check()?;
    let mut bad = Vec::new();
    for (target, result) in &results {
        match result {
            Ok(summary) => note(&format!("{target:8} {summary}")),
            Err(error) => {
                crate::step::show(error);
                bad.push(target.as_str());
            }
        }
    }
    if !bad.is_empty() || results.len() < targets.len() {
        bail!("the fuzzer found something in {}", bad.join(", "));
    }
    Ok(())
}

fn build() -> Result<PathBuf> {
    let target = workspace::target("fuzz");
    let mut build = cargo();
    build.current_dir(workspace::root().join("driver/fuzz")).env("RUSTFLAGS", FLAGS);
    build.args(["build", "--release", "--locked", "--target", HOST, "--target-dir"]).arg(&target);
    process::step("Building the fuzz targets", &mut build, BUILDING)?;
    Ok(target.join(HOST).join("release"))
}

/// Runs one on a copy of its corpus, and says how far it came.
fn fuzz(target: &str, program: &Path, options: &Options) -> Result<String> {
    let committed = workspace::root().join("driver/fuzz/corpus").join(target);
    let work = workspace::target("fuzz").join("run").join(target);
    let (grown, found) = (work.join("corpus"), work.join("found"));
    for folder in [&committed, &grown, &found] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let mut fuzz = fuzzer(program, &work);
    fuzz.arg(format!("-max_total_time={}", options.seconds));
    fuzz.arg(format!("-artifact_prefix={}/", found.display()));
    fuzz.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    let words = workspace::root().join(format!("driver/fuzz/{target}.dict"));
    if words.is_file() {
        fuzz.arg(format!("-dict={}", words.display()));
    }
    let said = finished(fuzz.arg(&grown).arg(&committed), options.seconds)
        .with_context(|| format!("{target}: an input that fails is in {}", found.display()))?;
    if options.keep {
        let mut merge = fuzzer(program, &work);
        merge.arg("-merge=1").arg(&committed).arg(&grown);
        finished(&mut merge, 600)?;
    }
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
        line.map_or("?", str::trim).to_owned()
    };
    Ok(format!("{} inputs, {} a second", stat("number_of_executed_units"), stat("average_exec_per_sec")))
}

/// A target with its errors in its output, where all that it says is, and a folder for its files.
fn fuzzer(program: &Path, work: &Path) -> Command {
    let mut shell = process::command("sh");
    shell.args(["-c", r#"exec "$@" 2>&1"#, "sh"]).arg(program).env("TMPDIR", work);
    shell
}

fn finished(command: &mut Command, seconds: u32) -> Result<String> {
    process::text_within(Duration::from_secs(u64::from(seconds) + 120), command)
}
