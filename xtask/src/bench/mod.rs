//! `bench`: what this driver costs, beside what one would otherwise have.
use anyhow::Result;
use clap::Subcommand;

mod figures;
mod packet;
mod programs;

/// What is measured.
#[derive(Subcommand)]
pub enum Bench {
    /// The BPF programs' time for a packet, beside an empty program's and C programs'
    Packet(packet::Options),
}

/// Measures, and prints.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Packet(options) => packet::run(options),
    }
}
