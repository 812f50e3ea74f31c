//! Reading the statistics of many endpoints, beside what one would read them with otherwise.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use super::containers;
use super::figures::{Samples, table};
use super::lab::{Cost, Measured, NO_ENGINE, Namespaces, STALE, Server, batch, milliseconds, output};
use crate::daemon::{Scratch, unique};
use crate::packages::{self, Need};
use crate::process::{clean_up, command};
use crate::step::{Step, note};
use crate::{engine, interrupt, must_be_root};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    measured: Measured,
    /// An older driver, whose `stats` reads the same endpoints in the same turns
    #[arg(long, value_name = "PATH")]
    beside: Option<PathBuf>,
    /// How often each way of reading takes its turn
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// How many endpoints there are
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000], value_parser = clap::value_parser!(u32).range(1..=2000))]
    endpoints: Vec<u32>,
    /// How many containers of an engine are read, in turns with the engine's own API; 0 for none
    #[arg(long, default_values_t = [1, 20], value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..=200))]
    containers: Vec<u32>,
}

/// How many endpoints are made at the same time.
const MAKERS: usize = 4;

const FILES: [&str; 6] = ["rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped"];

/// A way of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Stats,
    Older,
    Scrape,
    Ip,
    Sysfs,
    Proc,
    Engine,
}

impl Way {
    /// Those for which there need be no engine.
    const ALONE: [Self; 6] = [Self::Stats, Self::Older, Self::Scrape, Self::Ip, Self::Sysfs, Self::Proc];

    fn what(self) -> &'static str {
        match self {
            Self::Stats => "docker-passthrough stats --json",
            Self::Older => "the same of an older driver",
            Self::Scrape => "a scrape of serve --metrics",
            Self::Ip => "ip -n … -s -j link, each",
            Self::Sysfs => "sysfs, mounted in each",
            Self::Proc => "/proc/net/dev, in each",
            Self::Engine => "the engine's stats API, all at once",
        }
    }

    /// What the target speaks of.
    fn is_peer(self) -> bool {
        matches!(self, Self::Ip | Self::Sysfs | Self::Engine)
    }
}

/// What one way took, turn by turn.
struct Row {
    way: Way,
    wall: Samples,
    cpu: Samples,
}

/// What all took.
pub struct Table {
    /// Of what.
    of: &'static str,
    endpoints: usize,
    rows: Vec<Row>,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    must_be_root("bench reading", "netdevs and BPF programs")?;
    let mut needs = vec![Need::program("ip", &["iproute2"])];
    if options.containers.iter().any(|containers| *containers > 0) {
        needs.extend(engine::needs());
    }
    packages::ensure("the benchmark", &needs)?;
    let binary = options.measured.binary()?;
    let name = format!("bench-{}", unique()?);
    let scratch = Scratch::new(&name)?;
    let mut scene = Scene {
        // Before the namespaces, or it would look after what happens to them.
        server: Server::start(&name, &binary, NO_ENGINE, &scratch)?,
        namespaces: Namespaces::new(&scratch),
        scratch: &scratch,
        inside: Vec::new(),
        wanted: Vec::new(),
        id: name.trim_start_matches("bench-").to_owned(),
        older: options.beside.as_deref(),
    };
    let mut sizes = options.endpoints.clone();
    sizes.sort_unstable();
    let mut tables = Vec::new();
    for size in sizes {
        scene.grow(size as usize)?;
        tables.push(scene.measure(options.turns)?.shown(options));
    }
    drop(scene);
    for containers in options.containers.iter().copied().filter(|containers| *containers > 0) {
        let table = containers::measure(&binary, &unique()?, containers, options.turns)?;
        tables.push(table.shown(options));
    }
    if options.measured.json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"reading": tables}))?);
        return Ok(());
    }
    note("ms: the median of all turns, and its quartiles; cpu: processor time, of the driver for a scrape;");
    note("of ours: the median of the ratios to `stats --json` in the same turn.");
    Ok(())
}

/// Endpoints in namespaces, as containers have them.
struct Scene<'a> {
    server: Server,
    namespaces: Namespaces<'a>,
    scratch: &'a Scratch,
    /// The namespaces' names.
    inside: Vec<String>,
    /// All that were begun, which bear the same names.
    wanted: Vec<String>,
    id: String,
    older: Option<&'a Path>,
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // Those that never got into a namespace. One end takes the other with it.
        for name in self.wanted.iter().filter(|name| Path::new("/sys/class/net").join(name).exists()) {
            let _ = clean_up(command("ip").args(["link", "delete", name]));
        }
    }
}

impl Scene<'_> {
    /// Until there are so many endpoints. Both ends of a veth are one's netdev.
    fn grow(&mut self, to: usize) -> Result<()> {
        let from = self.inside.len();
        if to <= from {
            return Ok(());
        }
        let mut step = Step::begin(&format!("Making {} endpoints", to - from));
        let names: Vec<_> = (from..to).map(|at| format!("b{}-{at}", self.id)).collect();
        self.wanted.extend_from_slice(&names);
        let (made, share) = (AtomicUsize::new(0), names.len().div_ceil(MAKERS).next_multiple_of(2));
        thread::scope(|scope| {
            let makers = names.chunks(share).map(|names| {
                let (scene, made) = (&*self, &made);
                scope.spawn(move || {
                    for pair in names.chunks(2) {
                        interrupt::check()?;
                        scene.make(pair)?;
                        made.fetch_add(pair.len(), Ordering::Relaxed);
                    }
                    anyhow::Ok(())
                })
            });
            let makers: Vec<_> = makers.collect();
            while makers.iter().any(|maker| !maker.is_finished()) {
                step.tick(&made.load(Ordering::Relaxed).to_string());
                thread::sleep(Duration::from_millis(50));
            }
            makers.into_iter().try_for_each(|maker| maker.join().map_err(|_| anyhow!("a maker panicked"))?)
        })?;
        // Last, as the driver looks for what stands on a netdev in every namespace that there is.
        self.namespaces.add(&names)?;
        let moves = names.iter().map(|name| format!("link set {name} netns {name} name eth0 up"));
        batch(self.scratch, moves)?;
        self.inside.extend(names);
        step.done();
        Ok(())
    }

    fn make(&self, pair: &[String]) -> Result<()> {
        let far = pair.get(1).cloned().unwrap_or_else(|| format!("{}f", pair[0]));
        let make = format!("link add {} type veth peer name {far}", pair[0]);
        batch(self.scratch, [make].into_iter())?;
        for name in pair {
            self.server.hand_out(name, name, &json!({}))?;
        }
        Ok(())
    }

    fn measure(&self, turns: u32) -> Result<Table> {
        let ways = Way::ALONE.into_iter().filter(|way| *way != Way::Older || self.older.is_some());
        Table::of("endpoints", self.inside.len(), ways, turns, |way| self.read(way))
    }

    fn read(&self, way: Way) -> Result<Cost> {
        match way {
            Way::Stats | Way::Older => {
                let older = self.older.filter(|_| way == Way::Older);
                let (cost, found) = stats(&mut self.server.command_of(older, &["stats", "--json"]))?;
                self.check(&found)?;
                Ok(cost)
            }
            Way::Scrape => {
                let (cost, text) = scrape(&self.server)?;
                let series = |family: &str| {
                    let name = format!("docker_passthrough_{family}{{");
                    text.lines().filter(|line| line.starts_with(&name)).count()
                };
                let (found, expected) = (series("receive_packets_total"), self.inside.len());
                ensure!(found == expected, "a scrape has {found} of {expected} endpoints");
                let found = series("netdev_receive_packets_total");
                if found < expected {
                    note(&format!(
                        "a scrape has {found} of {expected} netdevs: the others were not read in a second"
                    ));
                }
                Ok(cost)
            }
            Way::Ip => Cost::of(|| {
                for name in &self.inside {
                    let links = output(command("ip").args(["-n", name, "-s", "-j", "link"]))?;
                    ensure!(!links.is_empty(), "ip -n {name}: no netdevs");
                }
                Ok(())
            }),
            Way::Sysfs => in_each(&self.inside, |folder| {
                mount(Some("sysfs"), folder, Some("sysfs"), MsFlags::empty(), None::<&str>)
                    .context("mounting sysfs")?;
                let statistics = folder.join("class/net/eth0/statistics");
                for file in FILES {
                    fs::read_to_string(statistics.join(file)).with_context(|| format!("reading {file}"))?;
                }
                umount2(folder, MntFlags::MNT_DETACH).context("unmounting sysfs")
            }),
            Way::Engine => bail!("these are no engine's"),
            Way::Proc => in_each(&self.inside, |_| {
                let text = fs::read_to_string("/proc/thread-self/net/dev").context("reading net/dev")?;
                ensure!(text.contains("eth0:"), "no eth0 in net/dev:\n{text}");
                Ok(())
            }),
        }
    }

    /// Whether `stats` has found all netdevs where they are.
    fn check(&self, found: &[Value]) -> Result<()> {
        let is_whole = |one: &&Value| one["rx"].is_object() && one["netdev"].is_object();
        let (whole, expected) = (found.iter().filter(is_whole).count(), self.inside.len());
        let other = found.iter().find(|one| !is_whole(one));
        ensure!(
            whole == expected,
            "`stats --json` has {whole} of {expected} endpoints with all figures, {} in all; without: {}; the \
             driver's last words:\n{}",
            found.len(),
            other.map(ToString::to_string).unwrap_or_default(),
            self.server.last_words(),
        );
        Ok(())
    }
}

/// What `stats --json` takes, and finds.
pub fn stats(command: &mut Command) -> Result<(Cost, Vec<Value>)> {
    let mut found = Vec::new();
    let cost = Cost::of(|| {
        found = output(command)?;
        Ok(())
    })?;
    Ok((cost, serde_json::from_slice(&found).context("`stats --json` is no JSON list")?))
}

/// What a scrape takes of the driver, and tells.
pub fn scrape(server: &Server) -> Result<(Cost, String)> {
    thread::sleep(STALE);
    let mut text = String::new();
    let cost = Cost::by(
        || server.cpu(),
        || {
            text = server.scrape()?;
            Ok(())
        },
    )?;
    Ok((cost, text))
}

/// Has a thread go from namespace to namespace, with an empty folder where it may mount something.
fn in_each(names: &[String], mut look: impl FnMut(&Path) -> Result<()> + Send) -> Result<Cost> {
    let folder = Path::new("/mnt");
    let travel = || {
        Cost::of(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making mounts private")?;
            for name in names {
                let path = Path::new("/run/netns").join(name);
                let netns = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                setns(netns, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {name}"))?;
                look(folder)?;
            }
            Ok(())
        })
    };
    thread::scope(|scope| scope.spawn(travel).join())
        .map_err(|_| anyhow!("the thread between namespaces panicked"))?
}

impl Table {
    /// Has each way of reading take its turn.
    pub fn of(
        of: &'static str,
        endpoints: usize,
        ways: impl Iterator<Item = Way>,
        turns: u32,
        read: impl Fn(Way) -> Result<Cost>,
    ) -> Result<Self> {
        let rows = ways.map(|way| Row { way, wall: Samples::default(), cpu: Samples::default() });
        let mut rows: Vec<_> = rows.collect();
        let mut step = Step::begin(&format!("Reading {endpoints} {of}, {turns} turns"));
        // The first turn warms up.
        for turn in 0..=turns {
            for row in &mut rows {
                interrupt::check()?;
                step.tick(row.way.what());
                let cost = read(row.way)?;
                if turn > 0 {
                    row.wall.push(milliseconds(cost.wall));
                    row.cpu.push(milliseconds(cost.cpu));
                }
            }
        }
        step.done();
        Ok(Self { of, endpoints, rows })
    }

    /// Printed at once, where it is to be a table.
    fn shown(self, options: &Options) -> Self {
        if !options.measured.json {
            println!("{} {}\n{}", self.endpoints, self.of, self.text());
        }
        self
    }

    fn row(&self, way: Way) -> Option<&Row> {
        self.rows.iter().find(|row| row.way == way)
    }

    /// In parts of what ours took in the same turn.
    fn of_ours(&self, row: &Row) -> f64 {
        self.row(Way::Stats).map_or(f64::NAN, |ours| row.wall.of(&ours.wall).median())
    }

    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> =
            vec![["READ BY", "MS", "25%", "75%", "CPU MS", "OF OURS"].map(str::to_owned).into()];
        for row in &self.rows {
            rows.push(vec![
                row.way.what().to_owned(),
                format!("{:.2}", row.wall.median()),
                format!("{:.2}", row.wall.lower_quartile()),
                format!("{:.2}", row.wall.upper_quartile()),
                format!("{:.2}", row.cpu.median()),
                format!("{:.2}", self.of_ours(row)),
            ]);
        }
        table(&rows)
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "read_by": row.way.what(),
                "peer": row.way.is_peer(),
                "ms": row.wall.median(),
                "ms_lower_quartile": row.wall.lower_quartile(),
                "ms_upper_quartile": row.wall.upper_quartile(),
                "cpu_ms": row.cpu.median(),
                "of_ours": self.of_ours(row),
            })
        });
        json!({"of": self.of, "endpoints": self.endpoints, "ways": rows.collect::<Vec<_>>()})
    }
}
