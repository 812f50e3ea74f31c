//! `bench`: what this driver costs, beside what one would otherwise have.
use anyhow::Result;
use clap::Subcommand;

mod figures;
mod lab;
mod packet;
mod programs;
mod reading;
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
    /// Reading the statistics of 1, 100, 1 000 endpoints, beside `ip` and a reader of sysfs
    Reading(reading::Options),
}

/// Measures, and prints.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Packet(options) => packet::run(options),
        Bench::Throughput(options) => throughput::run(options),
        Bench::Start(options) => start::run(options),
        Bench::Reading(options) => reading::run(options),
    }
}
