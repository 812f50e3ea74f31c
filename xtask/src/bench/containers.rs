//! Reading the statistics of an engine's containers: ours, and the engine's own.
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::lab::{Cost, Server, ask, cpu_of};
use super::reading::{Table, Way, scrape, stats};
use super::start::{undone_by, veth};
use crate::daemon::{Scratch, Undo};
use crate::engine::Engine;
use crate::process;
use crate::step::Step;
use crate::{busybox, interrupt};

const WAYS: [Way; 3] = [Way::Stats, Way::Scrape, Way::Engine];

/// Measures with so many containers, each with a network and a netdev of its own.
pub fn measure(binary: &Path, id: &str, containers: u32, turns: u32) -> Result<Table> {
    busybox::ensure()?;
    let name = format!("stats-{id}");
    let scratch = Scratch::new(&name)?;
    let mut nics = Vec::new();
    let engine = Engine::start(&name, &scratch)?;
    let server = Server::start(&name, binary, &engine.host(), &scratch)?;
    // Undone while these run, the newest first.
    let mut made = Made(Vec::new());
    made.0.push(undone_by(&engine, &["image", "rm", "--force", &name]));
    engine.import_busybox(&name, 1, &scratch)?;
    let mut step = Step::begin(&format!("Starting {containers} containers"));
    let mut started = Vec::new();
    for at in 0..containers {
        interrupt::check()?;
        step.tick(&at.to_string());
        let (nic, far) = (format!("s{at}-{id}"), format!("t{at}-{id}"));
        nics.push(veth(&nic, &far)?);
        let (netdevice, subnet) = (format!("netdevice={nic}"), format!("198.18.{at}.0/24"));
        made.0.push(undone_by(&engine, &["network", "rm", &nic]));
        let mut create = engine.docker();
        create.args(["network", "create", "-d", &name, "-o", &netdevice, "--subnet", &subnet, &nic]);
        process::text(&mut create)?;
        made.0.push(undone_by(&engine, &["rm", "--force", &nic]));
        let mut run = engine.docker();
        run.args(["run", "--detach", "--name", &nic, "--network", &nic, &name, "sleep", "3600"]);
        process::text(&mut run)?;
        started.push(nic);
    }
    step.done();
    let read = |way| read(way, &server, &engine, &started);
    Table::of("containers of an engine", started.len(), WAYS.into_iter(), turns, read)
}

fn ask_engine(engine: &Engine, container: &str) -> Result<()> {
    let path = format!("/containers/{container}/stats?stream=false&one-shot=true");
    let told: Value = serde_json::from_str(&ask(engine.socket(), "GET", &path, "", "")?)?;
    let packets = &told["networks"]["eth0"]["rx_packets"];
    ensure!(packets.is_u64(), "the engine tells nothing of eth0: {}", told["networks"]);
    Ok(())
}

/// What is undone in the end.
struct Made(Vec<Undo>);

impl Drop for Made {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

fn read(way: Way, server: &Server, engine: &Engine, containers: &[String]) -> Result<Cost> {
    match way {
        Way::Engine => Cost::by(
            || cpu_of(engine.pid().context("a private engine")?),
            // All at once, as it makes each wait for its next look at the control groups.
            || {
                thread::scope(|scope| {
                    let asked = containers.iter().map(|name| scope.spawn(|| ask_engine(engine, name)));
                    let asked: Vec<_> = asked.collect();
                    asked.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("one panicked"))?)
                })
            },
        ),
        Way::Scrape => Ok(scrape(server)?.0),
        _ => {
            let (cost, found) = stats(&mut server.command(&["stats", "--json"]))?;
            let named = found.iter().filter(|one| one["container"].is_string()).count();
            ensure!(named == containers.len(), "`stats --json` has not all containers: {found:?}");
            Ok(cost)
        }
    }
}
