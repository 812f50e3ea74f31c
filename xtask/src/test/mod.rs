//! `test`: everything, on the kernel and the engine of this machine, and on VFs in a guest.
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

mod outcome;
mod suite;

use outcome::{Outcome, Tally, conclude};
use suite::Suite;

use crate::build::cargo;
use crate::packages::{self, Need};
use crate::process::{self, Ended, command};
use crate::step::{say, show};
use crate::vm::{self, Guest, Kernel};
use crate::{bpf, busybox, deb, engine, guests, interrupt, matrix, must_be_root, prometheus, workspace};

const BUILDING: Duration = Duration::from_mins(20);
const RUNNING: Duration = Duration::from_mins(15);

/// What the tests take.
#[derive(Args)]
pub struct Options {
    /// Which to run [default: all but package, package-sriov, package-systemd and sriov-walks, which take long]
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Of the suite engine: only with engines whose version, or Debian release, begins with this
    #[arg(long, value_name = "VERSION|RELEASE")]
    engine: Vec<String>,
    /// A suite that can't run here is a failure, as it always is where CI is set
    #[arg(long)]
    strict: bool,
    /// For the test programs: names of tests, --nocapture, …
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Sets up what the suites need, and runs them.
pub fn run(options: &Options) -> Result<()> {
    let mut suites = options.suites.clone();
    if suites.is_empty() {
        suites = Suite::value_variants().to_vec();
        suites.retain(|suite| !suite.is_packed() && *suite != Suite::SriovWalks);
    }
    if suites.contains(&Suite::Package) {
        suites.extend([Suite::PackageSriov, Suite::PackageSystemd]);
    }
    suites.sort_unstable();
    suites.dedup();
    let strict = options.strict || std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    if suites != [Suite::Unit] {
        must_be_root("test", "tests make netdevs and start engines")?;
    }
    packages::ensure("testing", &needs(&suites))?;
    let among = |those: &[Suite]| suites.iter().any(|suite| those.contains(suite));
    if among(&[Suite::Protocol, Suite::Faults, Suite::Load, Suite::Engine, Suite::Package]) {
        busybox::ensure()?;
    }
    if among(&[Suite::Protocol, Suite::Engine]) {
        prometheus::ensure()?;
    }
    let mut guests = BTreeMap::new();
    for suite in &suites {
        if let Some(kernel) = suite.kernel() {
            guests.insert(*suite, guest(*suite, kernel)?);
        }
    }
    let runs = |suite: &Suite| guests.get(suite).is_none_or(Result::is_ok);
    let built: Vec<_> = suites.iter().copied().filter(runs).collect();
    if !built.is_empty() {
        bpf::build(None)?;
        if built.iter().any(|suite| suite.is_packed()) {
            // The tests' own profile: nothing is built twice.
            deb::make("dev")?;
        }
    }
    // One with fault points is another driver.
    let (faults, others) = built.into_iter().partition::<Vec<_>, _>(|suite| suite.has_fault_points());
    for together in [others, faults].into_iter().filter(|suites| !suites.is_empty()) {
        process::step("Building the tests", cargo_test(&together).arg("--no-run"), BUILDING)?;
    }
    let hosted = suites.into_iter().filter(|suite| !guests.contains_key(suite));
    let mut outcomes = on_this_machine(&hosted.collect::<Vec<_>>(), options)?;
    outcomes.extend(in_guests(&guests, &options.arguments)?);
    conclude(&outcomes, strict)
}

/// The suites that need no guest. What has fault points runs beside the others: most of it is waiting.
fn on_this_machine(suites: &[Suite], options: &Options) -> Result<Vec<(String, Outcome)>> {
    let (aside, suites): (Vec<Suite>, Vec<Suite>) = suites.iter().partition(|suite| suite.has_fault_points());
    let mut programs = Vec::new();
    for suite in aside {
        programs.push((suite, faulty(suite, &options.arguments)?));
    }
    thread::scope(|scope| {
        let aside: Vec<_> = programs
            .into_iter()
            .map(|(suite, mut program)| {
                let label = if suites.is_empty() { String::new() } else { suite.to_string() };
                let what = format!("Running the tests: {suite}");
                scope.spawn(move || {
                    (suite.to_string(), judge(process::show_as(&label, &what, &mut program, RUNNING)))
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for suite in suites {
            if suite == Suite::Engine {
                outcomes.extend(under_engines(options)?);
            } else {
                outcomes.push((suite.to_string(), here(suite, &options.arguments)?));
            }
        }
        for suite in aside {
            let (name, outcome) =
                suite.join().map_err(|_| anyhow!("what runs tests beside others panicked"))?;
            outcomes.push((name, outcome?));
        }
        Ok(outcomes)
    })
}

/// The test program of a suite with fault points, and with a driver of its own: those that others are tested with
/// come in the same place.
fn faulty(suite: Suite, arguments: &[String]) -> Result<Command> {
    let program = program(suite)?;
    let folder = workspace::target("faults");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let [built, own] = [workspace::target("debug"), folder].map(|folder| folder.join("docker-passthrough"));
    fs::copy(&built, &own).with_context(|| format!("copying {}", built.display()))?;
    let mut test = command(program);
    test.current_dir(workspace::root().join("driver")).args(arguments);
    test.env("DOCKER_PASSTHROUGH_TEST_BINARY", own);
    Ok(test)
}

/// The suite engine, under one after the other.
fn under_engines(options: &Options) -> Result<Vec<(String, Outcome)>> {
    let mut outcomes = Vec::new();
    for (name, engine) in matrix::engines(&options.engine)? {
        let suite = format!("{} {name}", Suite::Engine);
        let outcome = match engine {
            Ok(engine) => {
                let mut test = cargo_test(&[Suite::Engine]);
                engine.choose(&mut test);
                test.arg("--").args(&options.arguments);
                let what = format!("Running the tests: engine {}", engine.about());
                judge(process::show(&what, &mut test, RUNNING))?
            }
            Err(error) => {
                say(&format!("NO ENGINE {name} CAN BE HAD HERE: the suite engine will not run under it"));
                show(&error);
                Outcome::Skipped(first_line(&error))
            }
        };
        outcomes.push((suite, outcome));
    }
    Ok(outcomes)
}

fn needs(suites: &[Suite]) -> Vec<Need> {
    let mut needs = Vec::new();
    if suites.contains(&Suite::Faults) {
        needs.extend(engine::needs());
    }
    if suites.contains(&Suite::Engine) {
        needs.extend(engine::needs());
        // The documents have them.
        needs.extend([Need::program("curl", &["curl"]), Need::program("jq", &["jq"])]);
    }
    if suites.contains(&Suite::Package) {
        needs.extend(engine::needs());
        needs.push(Need::program("lintian", &["lintian"]));
    }
    if suites.contains(&Suite::Protocol) {
        needs.push(Need::program("systemd-analyze", &["systemd"]));
    }
    if suites.iter().any(|suite| *suite != Suite::Unit && suite.kernel().is_none()) {
        needs.extend([
            Need::program("bpftool", &["bpftool"]),
            Need::program("ip", &["iproute2"]),
            Need::program("tc", &["iproute2"]),
            Need::program("ethtool", &["ethtool"]),
            Need::program("nsenter", &["util-linux"]),
            Need::program("setpriv", &["util-linux"]),
            Need::program("setsid", &["util-linux"]),
            Need::program("groff", &["groff-base"]),
        ]);
    }
    needs
}

/// A guest, or why there is none.
fn guest(suite: Suite, kernel: Kernel) -> Result<Result<Guest, String>> {
    match vm::prepare(kernel) {
        Ok(guest) => Ok(Ok(guest.with_systemd(suite == Suite::PackageSystemd))),
        Err(error) => {
            interrupt::check()?;
            say(&format!("NO GUEST WITH SR-IOV CAN BE HAD HERE: the suite {suite} will not run"));
            show(&error);
            Ok(Err(first_line(&error)))
        }
    }
}

/// `cargo test`, told what of it.
fn cargo_test(suites: &[Suite]) -> Command {
    let mut test = cargo();
    test.arg("test");
    // Targets alone would be looked for in xtask, too.
    if suites.contains(&Suite::Unit) {
        test.args(["--workspace", "--lib", "--bins"]);
    } else {
        test.args(["--package", "docker-passthrough"]);
    }
    if suites.iter().any(|suite| suite.has_fault_points()) {
        test.args(["--features", "faults"]);
    }
    for suite in suites.iter().filter(|suite| **suite != Suite::Unit) {
        test.args(["--test", &suite.target()]);
    }
    test
}

/// Where cargo has put the test program of a suite that is built.
fn program(suite: Suite) -> Result<PathBuf> {
    let mut test = cargo_test(&[suite]);
    test.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let messages = process::text_within(BUILDING, &mut test)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter_map(|message| {
        let ours = message.pointer("/target/name")? == suite.target().as_str();
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    programs.next().with_context(|| format!("cargo built no test program {suite}"))
}

fn here(suite: Suite, arguments: &[String]) -> Result<Outcome> {
    let mut test = cargo_test(&[suite]);
    // Every crate reports, also after one that failed.
    test.args(["--no-fail-fast", "--"]).args(arguments);
    judge(process::show(&format!("Running the tests: {suite}"), &mut test, RUNNING))
}

/// The suites that have guests: those that take longest first, so that the last are short.
fn in_guests(
    guests: &BTreeMap<Suite, Result<Guest, String>>,
    arguments: &[String],
) -> Result<Vec<(String, Outcome)>> {
    let (mut jobs, mut outcomes) = (Vec::new(), Vec::new());
    for (suite, guest) in guests {
        let guest = match guest {
            Ok(guest) => guest,
            Err(reason) => {
                outcomes.push((suite.to_string(), Outcome::Skipped(reason.clone())));
                continue;
            }
        };
        let program = program(*suite)?;
        ensure!(
            program.starts_with(workspace::root()),
            "the guest sees this repository alone, and {} is outside: unset CARGO_TARGET_DIR",
            program.display()
        );
        // Emulated, beside another guest, all of it is slow.
        let slow = "DOCKER_PASSTHROUGH_CALL_TIMEOUT=60".to_owned();
        let mut words = vec![slow];
        if *suite == Suite::PackageSriov {
            words.push(format!("DOCKER_PASSTHROUGH_TEST_PACKED={}", deb::unpacked()?.display()));
        }
        words.extend([program.display().to_string(), "--include-ignored".into()]);
        words.extend_from_slice(arguments);
        // Who asks for one test needs one guest.
        let parts = if arguments.is_empty() && guests::at_a_time() > 1 { suite.parts() } else { 1 };
        for part in 1..=parts {
            let mut job = guests::Job { name: suite.to_string(), guest, words: words.clone() };
            if parts > 1 {
                job.name = format!("{suite} {part}/{parts}");
                job.words.insert(0, format!("DOCKER_PASSTHROUGH_TEST_PART={part}/{parts}"));
            } else if let Some(part) = suite.own_part() {
                job.words.insert(0, format!("DOCKER_PASSTHROUGH_TEST_PART={part}"));
            }
            jobs.push(job);
        }
    }
    for (job, ended) in jobs.iter().zip(guests::run(&jobs)) {
        outcomes.push((job.name.clone(), judge(ended)?));
    }
    Ok(outcomes)
}

fn judge(ended: Result<Ended>) -> Result<Outcome> {
    interrupt::check()?;
    let ended = match ended {
        Ok(ended) => ended,
        Err(error) => {
            show(&error);
            return Ok(Outcome::Broken(first_line(&error)));
        }
    };
    let tally = Tally::of(&ended.stdout);
    Ok(match tally {
        Some(tally) if ended.status.success() == (tally.failed == 0) => Outcome::Ran(tally),
        _ => Outcome::Broken(format!("it ended early: {}", ended.status)),
    })
}

fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
