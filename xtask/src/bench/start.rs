//! Starting a container on a network of ours, beside Docker's own drivers, and what of it is ours.
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::figures::{Samples, table};
use super::lab::{Measured, STALE, Server, milliseconds};
use super::waits::{self, KINDS};
use crate::daemon::{Scratch, Undo, unique};
use crate::engine::{self, Engine};
use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::step::{Step, note};
use crate::{busybox, interrupt, must_be_root};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    measured: Measured,
    /// How often a container is started on each network
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// The kind of counters
    #[arg(long, default_value = "basic")]
    counters: String,
    /// Give containers VFs of this PF, too, and tell our share of that; in a guest, for want of hardware:
    /// cargo build --release; cargo xtask vm --seconds 900 -- target/debug/xtask bench start --pf eth0
    /// --driver target/release/docker-passthrough
    #[arg(long, value_name = "NETDEV", verbatim_doc_comment)]
    pf: Option<String>,
}

/// The calls of a container's life, in their order.
const CALLS: [&str; 7] = [
    "CreateEndpoint",
    "Join",
    "ProgramExternalConnectivity",
    "EndpointOperInfo",
    "RevokeExternalConnectivity",
    "Leave",
    "DeleteEndpoint",
];

/// A network, and how long `docker run` took on it.
struct Row {
    what: &'static str,
    /// Docker's name of it.
    network: String,
    wall: Samples,
}

/// What of it is ours.
#[derive(Default)]
struct Share {
    calls: [Samples; CALLS.len()],
    waits: [Samples; KINDS],
    total: Samples,
    /// Without what the kernel makes us wait for with RCU.
    without_rcu: Samples,
    cpu: Samples,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    must_be_root("bench start", "it makes netdevs and starts containers")?;
    let mut needs = engine::needs();
    needs.push(Need::program("ip", &["iproute2"]));
    packages::ensure("the benchmark", &needs)?;
    busybox::ensure()?;
    let binary = options.measured.binary()?;
    let id = unique()?;
    let name = format!("bench-{id}");
    let scratch = Scratch::new(&name)?;
    let _nic = veth(&format!("nic-{id}"), &format!("farnic-{id}"))?;
    let _parent = veth(&format!("mac-{id}"), &format!("farmac-{id}"))?;
    let engine = Engine::start(&name, &scratch)?;
    let server = Server::start(&name, &binary, &engine.host(), &scratch)?;
    let _image = undone_by(&engine, &["image", "rm", "--force", &name]);
    engine.import_busybox(&name, 1, &scratch)?;
    let (nic, parent) = (format!("netdevice=nic-{id}"), format!("parent=mac-{id}"));
    let counters = format!("counters={}", options.counters);
    let mut networks = vec![
        ("passthrough", vec![&*name, "-o", &nic, "-o", "mode=passthrough", "-o", &counters], "198.18.0"),
        ("macvlan", vec!["macvlan", "-o", &parent], "198.18.1"),
        ("bridge", vec!["bridge"], "198.18.2"),
    ];
    let pf = options.pf.as_ref().map(|pf| format!("netdevice={pf}"));
    if let Some(pf) = &pf {
        networks
            .insert(0, ("sriov", vec![&*name, "-o", pf, "-o", "mode=sriov", "-o", &counters], "198.18.3"));
    }
    let (mut rows, mut made) = (Vec::new(), Vec::new());
    for (what, arguments, subnet) in networks {
        let network = format!("{name}-{what}");
        made.push(undone_by(&engine, &["network", "rm", &network]));
        let mut create = engine.docker();
        create.args(["network", "create", "-d"]).args(arguments);
        create.args([&format!("--subnet={subnet}.0/24"), &format!("--gateway={subnet}.1"), &network]);
        process::text(&mut create)?;
        rows.push(Row { what, network, wall: Samples::default() });
    }
    rows.push(Row { what: "none", network: "none".into(), wall: Samples::default() });
    let mut step = Step::begin(&format!("Starting {} containers on each network", options.times));
    let ours = rows[0].network.clone();
    // The first turn warms up.
    for turn in 0..=options.times {
        for row in &mut rows {
            interrupt::check()?;
            step.tick(&format!("{turn}: {}", row.what));
            let mut run = engine.docker();
            run.args(["run", "--rm", "--network", &row.network, &name, "true"]);
            let begun = Instant::now();
            process::text(&mut run)?;
            if turn > 0 {
                row.wall.push(milliseconds(begun.elapsed()));
            }
        }
    }
    step.done();
    // Apart, as looking at stacks takes time itself.
    let mut step = Step::begin(&format!("Starting {} more, to see what our share is", options.times));
    let mut share = Share::default();
    let mut before = Told::by(&server)?;
    for turn in 0..options.times {
        interrupt::check()?;
        step.tick(&turn.to_string());
        let mut run = engine.docker();
        run.args(["run", "--rm", "--network", &ours, &name, "true"]);
        let waited = waits::during(server.pid(), || process::text(&mut run).map(drop))?;
        thread::sleep(STALE);
        let after = Told::by(&server)?;
        share.note(&before, &after, waited)?;
        before = after;
    }
    step.done();
    if options.measured.json {
        println!("{}", serde_json::to_string_pretty(&json!({"start": json(&rows, &share)}))?);
        return Ok(());
    }
    println!("docker run --rm … true\n{}", text(&rows));
    println!("Our share of {}\n{}", rows[0].what, share.text());
    note(
        "ms: the median of all turns, and its quartiles; of macvlan, of none: the median of the ratios in the",
    );
    note("same turn. RCU, RTNL, disk: what the driver waited for in the kernel meanwhile.");
    Ok(())
}

/// A pair of veths, both up.
pub fn veth(name: &str, far: &str) -> Result<Undo> {
    let mut undo = command("ip");
    // By its far end, which stays where it is.
    undo.args(["link", "delete", far]);
    let undo = Undo::later(undo);
    process::text(command("ip").args(["link", "add", name, "type", "veth", "peer", "name", far]))?;
    for end in [name, far] {
        process::text(command("ip").args(["link", "set", end, "up"]))?;
    }
    Ok(undo)
}

/// What the engine is to undo in the end.
pub fn undone_by(engine: &Engine, arguments: &[&str]) -> Undo {
    let mut docker = engine.docker();
    docker.args(arguments);
    Undo::later(docker)
}

/// What the driver and the kernel tell of all calls so far.
struct Told {
    calls: [(Duration, u64); CALLS.len()],
    cpu: Duration,
}

impl Told {
    fn by(server: &Server) -> Result<Self> {
        let text = server.scrape()?;
        let value = |call: &str, of: &str| -> Result<f64> {
            let series = format!("docker_passthrough_call_duration_seconds_{of}{{call=\"{call}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&series));
            value.and_then(|value| value.parse().ok()).with_context(|| format!("no {series}in a scrape"))
        };
        let mut calls = [(Duration::ZERO, 0); CALLS.len()];
        for (call, told) in CALLS.iter().zip(&mut calls) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of calls")]
            let count = value(call, "count")? as u64;
            *told = (Duration::from_secs_f64(value(call, "sum")?), count);
        }
        Ok(Self { calls, cpu: server.cpu()? })
    }
}

impl Share {
    /// One container more.
    fn note(&mut self, before: &Told, after: &Told, waited: [Duration; KINDS]) -> Result<()> {
        let mut total = Duration::ZERO;
        for (at, call) in CALLS.iter().enumerate() {
            let ((began, first), (ended, last)) = (before.calls[at], after.calls[at]);
            // Others are called twice, or not by all engines.
            ensure!(at != 0 || last == first + 1, "{call} was called {} times", last - first);
            let took = ended.saturating_sub(began);
            self.calls[at].push(milliseconds(took));
            total += took;
        }
        for (samples, waited) in self.waits.iter_mut().zip(waited) {
            samples.push(milliseconds(waited));
        }
        let rcu = waited[0];
        self.total.push(milliseconds(total));
        self.without_rcu.push(milliseconds(total.saturating_sub(rcu)));
        self.cpu.push(milliseconds(after.cpu.saturating_sub(before.cpu)));
        Ok(())
    }

    fn lines(&self) -> impl Iterator<Item = (String, &Samples)> {
        let calls = CALLS.iter().map(|call| (*call).to_owned()).zip(&self.calls);
        let sums = [("all calls", &self.total), ("all calls, without RCU", &self.without_rcu)];
        let waits = waits::names().into_iter().map(|kind| format!("waited for: {kind}")).zip(&self.waits);
        let sums = sums.into_iter().map(|(what, samples)| (what.to_owned(), samples));
        calls.chain(sums).chain(waits).chain([("processor, of the driver".to_owned(), &self.cpu)])
    }

    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> = vec![["OURS", "MS", "25%", "75%"].map(str::to_owned).into()];
        for (what, samples) in self.lines() {
            rows.push(vec![
                what,
                format!("{:.2}", samples.median()),
                format!("{:.2}", samples.lower_quartile()),
                format!("{:.2}", samples.upper_quartile()),
            ]);
        }
        table(&rows)
    }
}

fn of(rows: &[Row], row: &Row, other: &str) -> f64 {
    let other = rows.iter().find(|row| row.what == other);
    other.map_or(f64::NAN, |other| row.wall.of(&other.wall).median())
}

fn text(rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> =
        vec![["NETWORK", "MS", "25%", "75%", "OF MACVLAN", "OF NONE"].map(str::to_owned).into()];
    for row in rows {
        lines.push(vec![
            row.what.to_owned(),
            format!("{:.0}", row.wall.median()),
            format!("{:.0}", row.wall.lower_quartile()),
            format!("{:.0}", row.wall.upper_quartile()),
            format!("{:.2}", of(rows, row, "macvlan")),
            format!("{:.2}", of(rows, row, "none")),
        ]);
    }
    table(&lines)
}

fn json(rows: &[Row], share: &Share) -> Value {
    let quartiles = |samples: &Samples| {
        json!({
            "ms": samples.median(),
            "ms_lower_quartile": samples.lower_quartile(),
            "ms_upper_quartile": samples.upper_quartile(),
        })
    };
    let networks = rows.iter().map(|row| {
        let mut told = quartiles(&row.wall);
        told["network"] = row.what.into();
        told["of_macvlan"] = of(rows, row, "macvlan").into();
        told["of_none"] = of(rows, row, "none").into();
        told
    });
    let ours = share.lines().map(|(what, samples)| {
        let mut told = quartiles(samples);
        told["what"] = what.into();
        told
    });
    json!({"networks": networks.collect::<Vec<_>>(), "ours": ours.collect::<Vec<_>>()})
}
