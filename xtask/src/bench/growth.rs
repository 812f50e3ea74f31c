//! Whether a container more costs more where there are many already.
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::driver::{Client, Common, Life, Room, Server, Whose, make_netdevs, netdev};
use super::figures::{Samples, table};
use crate::interrupt;
use crate::process::{self, command};
use crate::step::{Step, note};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// How often each call is measured, at each number of endpoints
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// How many endpoints there are at most
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    endpoints: u32,
    /// Leave restarts out
    #[arg(long)]
    no_restarts: bool,
}

/// Whose containers there are, each with a network and a namespace of its own.
pub struct Crowd {
    client: Client,
    size: usize,
}

/// The netdev that a container more gets: none of the crowd's.
const PROBE: usize = 100_000;
/// What the driver logs when it has taken over all.
pub const ADOPTED: &str = "the counters of a driver before this one are taken over";
/// How often the driver is started anew at each number of endpoints.
const RESTARTS: u32 = 3;
/// How long taking over may take.
const PATIENCE: Duration = Duration::from_mins(3);

impl Crowd {
    /// Nobody yet.
    pub fn new(server: &Server) -> Result<Self> {
        Ok(Self { client: server.connect()?, size: 0 })
    }

    /// So many containers, all in all.
    pub fn grow(&mut self, to: usize, step: &mut Step) -> Result<()> {
        make_netdevs(self.size..to)?;
        for n in self.size..to {
            interrupt::check()?;
            step.tick(&format!("container {n}"));
            let life = Life::new(n);
            life.create_network(&mut self.client)?;
            life.create_endpoint(&mut self.client)?;
            let sandbox = sandbox(n)?;
            life.join(&mut self.client, &sandbox.to_string_lossy())?;
        }
        // As Docker does it, but for all at once.
        let moves = (self.size..to).map(|n| format!("link set {} netns /run/docker/netns/{n}\n", netdev(n)));
        let batch = "/run/moves.batch";
        fs::write(batch, moves.collect::<String>())?;
        process::text_within(PATIENCE, command("ip").args(["-batch", batch]))?;
        self.size = to;
        Ok(())
    }

    /// Talks to another driver from now on.
    pub fn follow(&mut self, server: &Server) -> Result<()> {
        self.client = server.connect()?;
        Ok(())
    }
}

/// A namespace as Docker makes them, bound to a file.
fn sandbox(n: usize) -> Result<PathBuf> {
    let path = PathBuf::from(format!("/run/docker/netns/{n}"));
    fs::File::create(&path)?;
    let bound = path.clone();
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    });
    made.join().ok().context("a thread panicked")?.with_context(|| format!("the namespace {n}"))?;
    Ok(path)
}

/// What a call took where there were so many endpoints.
struct Row {
    call: &'static str,
    endpoints: usize,
    wall: Samples,
    processor: Samples,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    let room = Room::enter("growth", &options.common)?;
    room.clear()?;
    let mut step = Step::begin("Starting containers");
    let mut server = room.start(Whose::Ours)?;
    let mut crowd = Crowd::new(&server)?;
    make_netdevs(std::iter::once(PROBE))?;
    let mut rows: Vec<Row> = Vec::new();
    let most = options.endpoints as usize;
    let sizes = [1, most.div_ceil(10), most];
    for size in sizes {
        crowd.grow(size, &mut step)?;
        // The first turn warms up.
        for turn in 0..=options.turns {
            interrupt::check()?;
            step.tick(&format!("one more than {size}"));
            let life = Life::new(PROBE);
            let client = &mut crowd.client;
            let mut timed = |call, work: &mut dyn FnMut(&mut Client) -> Result<()>| {
                let (begun, before) = (Instant::now(), server.cpu()?);
                work(client)?;
                let took = begun.elapsed();
                let processor = server.cpu()?.saturating_sub(before);
                if turn > 0 {
                    add(&mut rows, call, size, took, processor);
                }
                anyhow::Ok(())
            };
            timed("CreateNetwork", &mut |client| life.create_network(client))?;
            timed("CreateEndpoint", &mut |client| life.create_endpoint(client))?;
            timed("Join", &mut |client| life.join(client, "/run/docker/netns/none"))?;
            timed("DeleteEndpoint", &mut |client| life.delete_endpoint(client))?;
            timed("DeleteNetwork", &mut |client| life.delete_network(client))?;
        }
        for _ in 0..if options.no_restarts { 0 } else { RESTARTS } {
            step.tick(&format!("a restart with {size}"));
            drop(server);
            let begun = Instant::now();
            server = room.start(Whose::Ours)?;
            add(&mut rows, "start to Activate", size, server.start.wall, server.start.cpu);
            server.wait_for(ADOPTED, PATIENCE)?;
            add(&mut rows, "start to all adopted", size, begun.elapsed(), server.cpu()?);
        }
        crowd.follow(&server)?;
    }
    step.done();
    if options.common.measured.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"growth": rows}))?);
        return Ok(());
    }
    println!("{}", text(&rows, sizes));
    note("ms; cpu: the driver's processor time; ratio: the most endpoints over one.");
    Ok(())
}

fn add(rows: &mut Vec<Row>, call: &'static str, endpoints: usize, wall: Duration, processor: Duration) {
    let found = rows.iter().position(|row| row.call == call && row.endpoints == endpoints);
    let at = found.unwrap_or_else(|| {
        let (wall, processor) = Default::default();
        rows.push(Row { call, endpoints, wall, processor });
        rows.len() - 1
    });
    rows[at].wall.push(wall.as_secs_f64() * 1e3);
    rows[at].processor.push(processor.as_secs_f64() * 1e3);
}

fn text(rows: &[Row], sizes: [usize; 3]) -> String {
    let mut head = vec!["CALL".to_owned()];
    for size in sizes {
        head.extend([format!("AT {size}"), "CPU".into()]);
    }
    head.extend(["RATIO".into(), "CPU".into()]);
    let mut lines = vec![head];
    for first in rows.iter().filter(|row| row.endpoints == sizes[0]) {
        let all: Vec<_> = rows.iter().filter(|row| row.call == first.call).collect();
        let mut line = vec![first.call.to_owned()];
        for row in &all {
            line.extend([format!("{:.1}", row.wall.median()), format!("{:.1}", row.processor.median())]);
        }
        if let Some(last) = all.last() {
            line.push(format!("{:.2}", last.wall.median() / first.wall.median()));
            line.push(format!("{:.2}", last.processor.median() / first.processor.median()));
        }
        lines.push(line);
    }
    table(&lines)
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "call": self.call,
            "endpoints": self.endpoints,
            "wall_ms": self.wall.median(),
            "wall_ms_lower_quartile": self.wall.lower_quartile(),
            "wall_ms_upper_quartile": self.wall.upper_quartile(),
            "processor_ms": self.processor.median(),
        })
    }
}
