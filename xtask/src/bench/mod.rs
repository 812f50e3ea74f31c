//! `bench`: what this driver costs, beside what one would otherwise have.
use anyhow::Result;
use clap::Subcommand;

mod activate;
mod containers;
mod driver;
mod figures;
mod growth;
mod lab;
mod memory;
mod packet;
mod programs;
mod reading;
mod rpc;
mod size;
mod start;
mod throughput;
mod traffic;
mod waits;

/// What is measured.
#[derive(Subcommand)]
pub enum Bench {
    /// The BPF programs' time for a packet, beside an empty program's and C programs'
    Packet(packet::Options),
    /// Throughput and processor time of a netdev with counters, beside one without, macvlan and bridge
    Throughput(throughput::Options),
    /// Starting a container, beside `none`, macvlan and bridge, and what of it is ours
    Start(start::Options),
    /// Reading the statistics of 1, 100, 1 000 endpoints, beside `ip`, a reader of sysfs and the engine's API
    Reading(reading::Options),
    /// Docker's calls: how long each takes, with 1, 8 and 32 clients, and how many a second
    Rpc(rpc::Options),
    /// From the start to an answered Plugin.Activate, with 0 and 1 000 networks remembered
    Activate(activate::Options),
    /// A container more, and a restart, where there are 1, 100 and 1 000 already
    Growth(growth::Options),
    /// Memory, the driver's and the kernel's, idle, with 1 000 networks and with 1 000 endpoints
    Memory(memory::Options),
    /// The driver and its BPF objects on the disk
    Size(size::Options),
}

/// Measures, and prints.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Packet(options) => packet::run(options),
        Bench::Throughput(options) => throughput::run(options),
        Bench::Start(options) => start::run(options),
        Bench::Reading(options) => reading::run(options),
        Bench::Rpc(options) => rpc::run(options),
        Bench::Activate(options) => activate::run(options),
        Bench::Growth(options) => growth::run(options),
        Bench::Memory(options) => memory::run(options),
        Bench::Size(options) => size::run(options),
    }
}
