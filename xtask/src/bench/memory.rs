//! Memory: what the driver has, and what the kernel has for it.
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use clap::Args;
use serde_json::{Value, json};

use super::driver::{BPFFS, Common, Room, Server, Whose};
use super::figures::table;
use super::growth::Crowd;
use crate::step::{Step, note};

/// What is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// How many networks, and then endpoints, there are
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    many: u32,
}

/// After this the driver has let go of what its start needed.
const SETTLED: Duration = Duration::from_secs(12);
/// How long taking over may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a driver has at some moment, in KiB.
struct Row {
    what: String,
    whose: Whose,
    resident: u64,
    anonymous: u64,
    threads: usize,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    let room = Room::enter("memory", &options.common)?;
    let many = options.many as usize;
    let mut step = Step::begin("Measuring memory");
    let mut rows = Vec::new();
    for (what, networks) in [("idle".to_owned(), 0), (format!("{many} networks"), many)] {
        for whose in room.all() {
            step.tick(&format!("{whose:?}, {what}"));
            room.remember(networks)?;
            let server = room.start(whose)?;
            thread::sleep(SETTLED);
            rows.push(Row::of(&what, whose, &server)?);
        }
    }
    room.clear()?;
    let server = room.start(Whose::Ours)?;
    let mut crowd = Crowd::new(&server)?;
    crowd.grow(1, &mut step)?;
    thread::sleep(SETTLED);
    rows.push(Row::of("1 endpoint", Whose::Ours, &server)?);
    let kernel = kernel()?;
    crowd.grow(many, &mut step)?;
    thread::sleep(SETTLED);
    rows.push(Row::of(&format!("{many} endpoints"), Whose::Ours, &server)?);
    drop((crowd, server));
    let server = room.start(Whose::Ours)?;
    server.wait_for(super::growth::ADOPTED, PATIENCE)?;
    thread::sleep(SETTLED);
    rows.push(Row::of(&format!("{many} endpoints, restarted"), Whose::Ours, &server)?);
    step.done();
    if options.common.measured.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let kernel: Vec<_> =
            kernel.iter().map(|(what, bytes)| json!({"object": what, "bytes": bytes})).collect();
        let all = json!({"memory": rows, "kernel_of_one_endpoint": kernel});
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let mut lines = vec![["DRIVER", "WITH", "KIB", "ANONYMOUS", "THREADS"].map(str::to_owned).to_vec()];
    for row in &rows {
        let numbers = [row.resident.to_string(), row.anonymous.to_string(), row.threads.to_string()];
        lines.push([format!("{:?}", row.whose), row.what.clone()].into_iter().chain(numbers).collect());
    }
    println!("{}", table(&lines));
    let mut lines = vec![["KERNEL, FOR ONE ENDPOINT", "BYTES"].map(str::to_owned).to_vec()];
    let sum: u64 = kernel.iter().map(|(_, bytes)| bytes).sum();
    lines.extend(kernel.iter().map(|(what, bytes)| vec![what.clone(), bytes.to_string()]));
    lines.push(vec!["all".into(), sum.to_string()]);
    println!("{}", table(&lines));
    note(
        "KiB resident, and of them what is not a file's; bytes as the kernel charges them (memlock of fdinfo).",
    );
    Ok(())
}

impl Row {
    fn of(what: &str, whose: Whose, server: &Server) -> Result<Self> {
        let (resident, anonymous) = (server.kib("VmRSS")?, server.kib("RssAnon")?);
        Ok(Self { what: what.to_owned(), whose, resident, anonymous, threads: server.threads()? })
    }

    fn json(&self) -> Value {
        json!({
            "with": self.what,
            "whose": format!("{:?}", self.whose),
            "resident_kib": self.resident,
            "anonymous_kib": self.anonymous,
            "threads": self.threads,
        })
    }
}

/// What the kernel has for the one endpoint that there is, in bytes.
fn kernel() -> Result<Vec<(String, u64)>> {
    let folder = fs::read_dir(BPFFS)?.next().context("no endpoint is counted")??.path();
    let mut objects = Vec::new();
    let counters = MapInfo::from_pin(folder.join("counters")).context("the counters' map")?;
    objects.push(("map of the counters".to_owned(), of_map(&counters)?));
    let mut constants = BTreeMap::new();
    for program in loaded_programs() {
        // One of somebody else's may have ended just now.
        let Ok(program) = program else { continue };
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        if !maps.contains(&counters.id()) {
            continue;
        }
        let name = program.name_as_str().unwrap_or("program").to_owned();
        objects.push((format!("{name}, as loaded"), program.memory_locked()?.into()));
        objects.push((format!("{name}, machine code"), program.size_jitted().into()));
        for map in maps {
            if map != counters.id() {
                constants.insert(map, of_map(&MapInfo::from_id(map)?)?);
            }
        }
    }
    let number = constants.len();
    objects.push((format!("{number} maps of constants, and others"), constants.into_values().sum()));
    Ok(objects)
}

fn of_map(map: &MapInfo) -> Result<u64> {
    field(map.fd()?.as_fd().as_raw_fd(), "memlock")
}

/// What `/proc` tells about an object of bpf(2).
fn field(fd: i32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.trim().parse().ok()).with_context(|| format!("no {key} in fdinfo"))
}
