//! Throughput and processor time of a container's netdev with and without counters, and of what else there is.
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::figures::{Samples, table};
use super::lab::{Measured, NO_ENGINE, Namespaces, Server, batch, batch_in, output};
use super::traffic::{self, Moved, Route};
use crate::daemon::{Scratch, Undo, unique};
use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::step::{Step, note};
use crate::{interrupt, must_be_root};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    measured: Measured,
    /// How often each netdev takes its turn
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// How long a turn is
    #[arg(long, default_value_t = 300, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..))]
    milliseconds: u64,
}

/// What a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// The same: what differs there is noise.
    Again,
    Tcx,
    Detailed,
    Xdp,
    Nftables,
    Macvlan,
    Bridge,
}

impl Kind {
    /// The first is what the others are compared with.
    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Again,
        Self::Tcx,
        Self::Detailed,
        Self::Xdp,
        Self::Nftables,
        Self::Macvlan,
        Self::Bridge,
    ];

    fn what(self) -> &'static str {
        match self {
            Self::Plain => "netdev, no counters",
            Self::Again => "the same, another one",
            Self::Tcx => "netdev, TCX",
            Self::Detailed => "netdev, TCX, detailed",
            Self::Xdp => "netdev, XDP and TCX",
            Self::Nftables => "netdev, nftables counters",
            Self::Macvlan => "macvlan on a netdev",
            Self::Bridge => "veth on a bridge with a netdev",
        }
    }

    /// The options of a network of ours.
    fn options(self) -> Option<Value> {
        match self {
            Self::Tcx => Some(json!({"rx_hook": "tcx"})),
            Self::Detailed => Some(json!({"rx_hook": "tcx", "counters": "detailed"})),
            Self::Xdp => Some(json!({"rx_hook": "xdp"})),
            _ => None,
        }
    }
}

/// What is moved.
#[derive(Clone, Copy, Debug)]
struct Load {
    what: &'static str,
    /// Frames, or bytes of a stream.
    frames: bool,
    /// By the container, or to it.
    sent: bool,
}

const LOADS: [Load; 4] = [
    Load { what: "One TCP stream, sent", frames: false, sent: true },
    Load { what: "One TCP stream, received", frames: false, sent: false },
    Load { what: "UDP frames of 64 bytes, sent", frames: true, sent: true },
    Load { what: "UDP frames of 64 bytes, received", frames: true, sent: false },
];

/// One kind, under one load.
#[derive(Default)]
struct Row {
    /// A second, in bits or frames.
    rate: Samples,
    /// Processor nanoseconds, for a KiB or a frame.
    cpu: Samples,
}

/// A container, and what it talks to.
struct Place {
    kind: Kind,
    inside: String,
    outside: String,
    subnet: u8,
    netdev: String,
    frames_sent: u64,
}

impl Place {
    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.subnet, last)
    }

    /// Has it carry a load.
    fn carry(&mut self, load: Load, time: Duration) -> Result<Moved> {
        let route = if load.sent {
            Route { from: &self.inside, to: &self.outside, address: self.address(1) }
        } else {
            Route { from: &self.outside, to: &self.inside, address: self.address(2) }
        };
        let moved = if load.frames { traffic::flood(route, time) } else { traffic::stream(route, time) };
        let moved = moved.with_context(|| format!("{}, {}", self.kind.what(), load.what))?;
        if load.frames && load.sent {
            self.frames_sent += moved.amount;
        }
        Ok(moved)
    }
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    must_be_root("bench throughput", "netdevs and BPF programs")?;
    let needs = [Need::program("ip", &["iproute2"]), Need::program("nft", &["nftables"])];
    packages::ensure("the benchmark", &needs)?;
    let binary = options.measured.binary()?;
    let id = unique()?;
    let name = format!("bench-{id}");
    let scratch = Scratch::new(&name)?;
    let server = Server::start(&name, &binary, NO_ENGINE, &scratch)?;
    let mut namespaces = Namespaces::new(&scratch);
    let mut places = Vec::new();
    let mut undo = Vec::new();
    for (subnet, kind) in (1..).zip(Kind::ALL) {
        let [inside, outside, netdev] = ["i", "o", "n"].map(|end| format!("{end}{subnet}-{id}"));
        namespaces.add(&[inside.clone(), outside.clone()])?;
        let place = Place { kind, inside, outside, subnet, netdev, frames_sent: 0 };
        undo.extend(place.undo());
        place.make(&server, &scratch)?;
        places.push(place);
    }
    let time = Duration::from_millis(options.milliseconds);
    let tables = measure(&mut places, options.turns, time)?;
    check(&server, &places)?;
    drop(undo);
    if options.measured.json {
        let tables: Vec<_> = LOADS.iter().zip(&tables).map(|(load, rows)| json(*load, rows)).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"throughput": tables}))?);
        return Ok(());
    }
    for (load, rows) in LOADS.iter().zip(&tables) {
        println!("{}\n{}", load.what, text(*load, rows));
    }
    note(
        "The median of all turns, and its quartiles; of plain: the median of the ratios to the netdev without",
    );
    note("counters in the same turn. cpu: of both ends, and of the kernel's threads for softirqs.");
    Ok(())
}

impl Place {
    /// The bridge alone stays on the host; the others end with their far ends' namespaces.
    fn undo(&self) -> Option<Undo> {
        let mut ip = command("ip");
        ip.args(["link", "delete", &format!("b{}", self.netdev)]);
        (self.kind == Kind::Bridge).then(|| Undo::later(ip))
    }

    fn make(&self, server: &Server, scratch: &Scratch) -> Result<()> {
        let Self { inside, outside, netdev, subnet, kind, .. } = self;
        let line = |text: String| batch(scratch, [text].into_iter());
        line(format!("link add {netdev} type veth peer name eth0 netns {outside}"))?;
        let mut moved = netdev.clone();
        match kind {
            Kind::Macvlan => {
                moved = format!("m{netdev}");
                line(format!("link add {moved} link {netdev} type macvlan mode bridge"))?;
                line(format!("link set {netdev} up"))?;
            }
            Kind::Bridge => {
                moved = format!("v{netdev}");
                line(format!("link add b{netdev} type bridge"))?;
                line(format!("link add {moved} type veth peer name h{netdev}"))?;
                for port in [netdev.clone(), format!("h{netdev}")] {
                    line(format!("link set {port} master b{netdev} up"))?;
                }
                line(format!("link set b{netdev} up"))?;
            }
            _ => {}
        }
        if let Some(options) = kind.options() {
            server.hand_out(netdev, inside, &options)?;
        }
        line(format!("link set {moved} netns {inside} name eth0 up"))?;
        for (netns, last) in [(outside, 1), (inside, 2)] {
            let lines =
                [format!("address add 198.18.{subnet}.{last}/24 dev eth0"), "link set eth0 up".into()];
            batch_in(netns, scratch, lines.into_iter())?;
        }
        if *kind == Kind::Nftables {
            let rules = "add table netdev counting; \
                add chain netdev counting rx { type filter hook ingress device eth0 priority 0; }; \
                add chain netdev counting tx { type filter hook egress device eth0 priority 0; }; \
                add rule netdev counting rx counter; add rule netdev counting tx counter";
            let mut nft = command("nsenter");
            nft.arg(format!("--net=/run/netns/{inside}")).args(["nft", rules]);
            process::text(&mut nft)?;
        }
        Ok(())
    }
}

fn measure(places: &mut [Place], turns: u32, time: Duration) -> Result<Vec<Vec<Row>>> {
    let rows = || Kind::ALL.map(|_| Row::default()).into_iter().collect::<Vec<_>>();
    let mut tables: Vec<_> = LOADS.map(|_| rows()).into();
    let mut step = Step::begin(&format!("Moving traffic, {turns} turns"));
    // The first turn warms up: ARP, and what a stream learns of a path.
    for turn in 0..=turns {
        for (load, rows) in LOADS.iter().zip(&mut tables) {
            // Another one is first each time: what comes first has the machine at its best.
            let first = turn as usize % Kind::ALL.len();
            for index in (first..Kind::ALL.len()).chain(0..first) {
                let (place, row) = (&mut places[index], &mut rows[index]);
                interrupt::check()?;
                step.tick(&format!("{turn}: {}, {}", load.what, place.kind.what()));
                let moved = place.carry(*load, time)?;
                if turn > 0 {
                    row.note(*load, moved);
                }
            }
        }
    }
    step.done();
    Ok(tables)
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
    fn note(&mut self, load: Load, moved: Moved) {
        let amount = moved.amount as f64;
        let (rate, unit) = if load.frames { (amount, amount) } else { (8.0 * amount, amount / 1024.0) };
        self.rate.push(rate / moved.wall.as_secs_f64());
        self.cpu.push(moved.cpu.as_secs_f64() * 1e9 / unit);
    }
}

/// Whether those that are to be counted were.
fn check(server: &Server, places: &[Place]) -> Result<()> {
    let found = output(&mut server.command(&["stats", "--json"]))?;
    let found: Value = serde_json::from_slice(&found).context("`stats --json` is no JSON")?;
    for place in places.iter().filter(|place| place.kind.options().is_some()) {
        let of = |one: &&Value| one["netdevice"] == place.netdev.as_str();
        let counted = found.as_array().into_iter().flatten().find(of);
        let counted = counted.and_then(|one| one["tx"]["packets"].as_u64()).unwrap_or(0);
        let (what, sent) = (place.kind.what(), place.frames_sent);
        ensure!(counted >= sent, "{what}: {sent} frames were sent, and {counted} counted");
    }
    Ok(())
}

fn of_plain(rows: &[Row], of: fn(&Row) -> &Samples, row: &Row) -> f64 {
    rows.first().map_or(f64::NAN, |plain| of(row).of(of(plain)).median())
}

fn text(load: Load, rows: &[Row]) -> String {
    let (rate, unit, cpu) =
        if load.frames { ("KFRAMES/S", 1e3, "CPU NS/FRAME") } else { ("GBIT/S", 1e9, "CPU NS/KIB") };
    let mut lines: Vec<Vec<String>> =
        vec![["CONTAINER HAS", rate, "25%", "75%", "OF PLAIN", cpu, "OF PLAIN"].map(str::to_owned).into()];
    for (kind, row) in Kind::ALL.iter().zip(rows) {
        lines.push(vec![
            kind.what().to_owned(),
            format!("{:.2}", row.rate.median() / unit),
            format!("{:.2}", row.rate.lower_quartile() / unit),
            format!("{:.2}", row.rate.upper_quartile() / unit),
            format!("{:.3}", of_plain(rows, |row| &row.rate, row)),
            format!("{:.0}", row.cpu.median()),
            format!("{:.3}", of_plain(rows, |row| &row.cpu, row)),
        ]);
    }
    table(&lines)
}

fn json(load: Load, rows: &[Row]) -> Value {
    let kinds = Kind::ALL.iter().zip(rows).map(|(kind, row)| {
        json!({
            "container_has": kind.what(),
            "per_second": row.rate.median(),
            "per_second_lower_quartile": row.rate.lower_quartile(),
            "per_second_upper_quartile": row.rate.upper_quartile(),
            "per_second_of_plain": of_plain(rows, |row| &row.rate, row),
            "cpu_ns": row.cpu.median(),
            "cpu_ns_of_plain": of_plain(rows, |row| &row.cpu, row),
        })
    });
    let (unit, per) = if load.frames { ("frames", "frame") } else { ("bits", "KiB") };
    json!({"load": load.what, "unit": unit, "cpu_ns_per": per, "netdevs": kinds.collect::<Vec<_>>()})
}
