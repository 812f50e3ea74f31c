//! Docker's calls over the socket, with connections that are kept, as the engine does it.
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::driver::{Client, Common, Life, Room, Server, Whose, make_netdevs};
use super::figures::{Samples, table};
use crate::interrupt;
use crate::step::{Step, note};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// How often each call is measured, the drivers taking turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// How many calls that touch no kernel a turn has; of others, a thousandth, but 8 at least
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
}

const CLIENTS: [usize; 3] = [1, 8, 32];
/// How many containers are started and ended beside the calls of another network.
const OTHERS: usize = 4;

/// Calls that touch neither the kernel nor the disk.
const PLAIN: [&str; 7] = [
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.Leave",
    "NetworkDriver.DiscoverNew",
    "NetworkDriver.ProgramExternalConnectivity",
    "NetworkDriver.RevokeExternalConnectivity",
];
/// Those of a network's life with two containers, one after the other, in their order.
const STEPS: [&str; 8] = [
    "CreateNetwork, in a life",
    "CreateEndpoint, the first in a life",
    "DeleteEndpoint, the first in a life",
    "CreateEndpoint, the second",
    "Join, the second",
    "Leave, the second",
    "DeleteEndpoint, the second",
    "DeleteNetwork, in a life",
];

/// One kind of call, by so many clients, to one driver.
struct Row {
    call: String,
    clients: usize,
    whose: Whose,
    /// Microseconds that each call took.
    calls: Samples,
    /// Calls a second, of each turn.
    rate: Samples,
    /// Microseconds of the driver's processor time that a call took, of each turn.
    processor: Samples,
}

impl Row {
    fn add(&mut self, turn: Turn, processor: Duration) {
        let Turn { calls, took } = turn;
        let count = count(calls.len());
        for call in calls {
            self.calls.push(micros(call));
        }
        self.rate.push(count / took.as_secs_f64());
        self.processor.push(micros(processor) / count);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number of calls")]
fn count(calls: usize) -> f64 {
    calls as f64
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What all clients' calls of one turn took, and all of them together.
struct Turn {
    calls: Vec<Duration>,
    took: Duration,
}

/// Measures all, and prints.
pub fn run(options: &Options) -> Result<()> {
    let room = Room::enter("rpc", &options.common)?;
    let most = CLIENTS.into_iter().max().unwrap_or(1);
    let mut step = Step::begin("Measuring calls");
    make_netdevs(0..=most)?;
    let mut rows = Vec::new();
    room.clear()?;
    let drivers: Vec<_> =
        room.all().into_iter().map(|whose| Ok((whose, room.start(whose)?))).collect::<Result<_>>()?;
    for (_, server) in &drivers {
        prepare(server)?;
    }
    for turn in 0..options.turns {
        for (whose, server) in &drivers {
            step.tick(&format!("turn {} of {}, {whose:?}", turn + 1, options.turns));
            for clients in CLIENTS {
                for call in PLAIN {
                    interrupt::check()?;
                    let before = server.cpu()?;
                    let turn = plain(server, call, clients, options.calls as usize)?;
                    let processor = server.cpu()?.saturating_sub(before);
                    row(&mut rows, call.rsplit('.').next().unwrap_or(call), clients, *whose)
                        .add(turn, processor);
                }
                let lives = (options.calls as usize / 1000).max(8);
                for (call, turn) in STEPS.into_iter().zip(lives_of(server, clients, lives)?) {
                    // They are too mixed to say whose processor time is whose.
                    row(&mut rows, call, clients, *whose).add(turn, Duration::ZERO);
                }
            }
            let turn = beside(server, options.calls as usize / 4)?;
            row(&mut rows, "Leave, beside others' lives", 1, *whose).add(turn, Duration::ZERO);
        }
    }
    step.done();
    if options.common.measured.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"rpc": rows}))?);
        return Ok(());
    }
    println!("{}", text(&rows, room.all().len() > 1));
    note(
        "µs from the request to all of the answer; cpu: the driver's own processor time for a call; of Go's:",
    );
    note(
        "ours, divided by the Go successor's. A life is a network's, of a netdev of its own, which ours counts.",
    );
    Ok(())
}

fn row<'a>(rows: &'a mut Vec<Row>, call: &str, clients: usize, whose: Whose) -> &'a mut Row {
    let found = rows.iter().position(|row| row.call == call && row.clients == clients && row.whose == whose);
    let at = found.unwrap_or_else(|| {
        let (calls, rate, processor) = Default::default();
        rows.push(Row { call: call.to_owned(), clients, whose, calls, rate, processor });
        rows.len() - 1
    });
    &mut rows[at]
}

/// The network and the endpoint that plain calls are about.
fn prepare(server: &Server) -> Result<()> {
    let (mut client, life) = (server.connect()?, Life::new(0));
    life.create_network(&mut client)?;
    life.create_endpoint(&mut client)
}

fn plain(server: &Server, call: &str, clients: usize, calls: usize) -> Result<Turn> {
    let life = Life::new(0);
    let body = match call {
        "Plugin.Activate" | "NetworkDriver.GetCapabilities" => json!({}),
        _ => json!({"NetworkID": life.network(), "EndpointID": life.endpoint(), "Options": {}}),
    };
    let (path, body) = (format!("/{call}"), body.to_string());
    together(server, clients, |_, client, times| {
        for _ in 0..(calls / clients).max(1) {
            let begun = Instant::now();
            client.call(&path, body.as_bytes())?;
            times[0].push(begun.elapsed());
        }
        Ok(())
    })
    .map(|[turn]| turn)
}

fn lives_of(server: &Server, clients: usize, lives: usize) -> Result<[Turn; STEPS.len()]> {
    together(server, clients, |n, client, times| {
        let life = Life::new(n + 1);
        for _ in 0..(lives / clients).max(1) {
            live(&life, client, times)?;
        }
        Ok(())
    })
}

fn live(life: &Life, client: &mut Client, steps: &mut [Vec<Duration>; STEPS.len()]) -> Result<()> {
    let mut timed = |step: usize, call: &mut dyn FnMut(&mut Client) -> Result<()>| {
        let begun = Instant::now();
        call(client)?;
        steps[step].push(begun.elapsed());
        anyhow::Ok(())
    };
    timed(0, &mut |client| life.create_network(client))?;
    timed(1, &mut |client| life.create_endpoint(client))?;
    timed(2, &mut |client| life.delete_endpoint(client))?;
    timed(3, &mut |client| life.create_endpoint(client))?;
    timed(4, &mut |client| life.join(client, "/run/docker/netns/none"))?;
    timed(5, &mut |client| life.leave(client))?;
    timed(6, &mut |client| life.delete_endpoint(client))?;
    timed(7, &mut |client| life.delete_network(client))
}

/// Calls for one network, while others' containers start and end.
fn beside(server: &Server, calls: usize) -> Result<Turn> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let others: Vec<_> = (0..OTHERS)
            .map(|n| {
                let ended = &ended;
                scope.spawn(move || {
                    let (mut client, life) = (server.connect()?, Life::new(n + 1));
                    while !ended.load(Ordering::Relaxed) {
                        live(&life, &mut client, &mut Default::default())?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let turn = plain(server, "NetworkDriver.Leave", 1, calls);
        ended.store(true, Ordering::Relaxed);
        for other in others {
            other.join().ok().context("a client panicked")??;
        }
        turn
    })
}

/// Has clients do the same at the same time, each with a connection of its own that has been used before.
fn together<const N: usize>(
    server: &Server,
    clients: usize,
    work: impl Fn(usize, &mut Client, &mut [Vec<Duration>; N]) -> Result<()> + Sync,
) -> Result<[Turn; N]> {
    let (ready, work) = (Barrier::new(clients + 1), &work);
    let (all, took) = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|n| {
                let ready = &ready;
                scope.spawn(move || {
                    let client = server.connect().and_then(|mut client| {
                        client.call("/Plugin.Activate", b"{}")?;
                        Ok(client)
                    });
                    ready.wait();
                    let mut times = [const { Vec::new() }; N];
                    work(n, &mut client?, &mut times)?;
                    anyhow::Ok(times)
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        let all = clients.into_iter().map(|client| client.join().ok().context("a client panicked")?);
        let all: Result<Vec<_>> = all.collect();
        anyhow::Ok((all?, begun.elapsed()))
    })?;
    let mut turns = [const { Vec::new() }; N];
    for times in all {
        for (turn, times) in turns.iter_mut().zip(times) {
            turn.extend(times);
        }
    }
    Ok(turns.map(|calls| Turn { calls, took }))
}

fn text(rows: &[Row], with_peer: bool) -> String {
    let mut head = vec!["CALL", "CLIENTS", "P50", "P99", "CALLS/S", "CPU"];
    if with_peer {
        head.extend(["GO'S P50", "P99", "CALLS/S", "CPU", "OF GO'S P50", "P99"]);
    }
    let mut lines = vec![head.into_iter().map(str::to_owned).collect()];
    for ours in rows.iter().filter(|row| row.whose == Whose::Ours) {
        let mut line = vec![ours.call.clone(), ours.clients.to_string()];
        line.extend(ours.cells());
        let is_same = |row: &&Row| row.call == ours.call && row.clients == ours.clients;
        if let Some(go) = rows.iter().filter(is_same).find(|row| row.whose == Whose::Go) {
            line.extend(go.cells());
            line.push(format!("{:.2}", ours.calls.median() / go.calls.median()));
            line.push(format!("{:.2}", ours.calls.p99() / go.calls.p99()));
        }
        lines.push(line);
    }
    table(&lines)
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let processor = self.processor.median();
        [
            format!("{:.0}", self.calls.median()),
            format!("{:.0}", self.calls.p99()),
            format!("{:.0}", self.rate.median()),
            if processor > 0.0 { format!("{processor:.1}") } else { "-".into() },
        ]
    }

    fn json(&self) -> Value {
        json!({
            "call": self.call,
            "clients": self.clients,
            "whose": format!("{:?}", self.whose),
            "p50_us": self.calls.median(),
            "p99_us": self.calls.p99(),
            "calls_per_second": self.rate.median(),
            "processor_us": self.processor.median(),
        })
    }
}
