//! From the start of the driver to its first answer.
use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::driver::{Common, Room, Whose};
use super::figures::{Samples, table};
use crate::interrupt;
use crate::step::{Step, note};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// How often each driver is started, in turns
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
}

/// How many networks are remembered.
const NETWORKS: [usize; 2] = [0, 1000];

struct Row {
    networks: usize,
    whose: Whose,
    wall: Samples,
    processor: Samples,
}

/// Measures, and prints.
pub fn run(options: &Options) -> Result<()> {
    let room = Room::enter("activate", &options.common)?;
    let mut step = Step::begin("Starting drivers");
    let mut rows = Vec::new();
    for networks in NETWORKS {
        let mut fresh: Vec<_> = room
            .all()
            .into_iter()
            .map(|whose| Row { networks, whose, wall: Samples::default(), processor: Samples::default() })
            .collect();
        // The first start warms up.
        for start in 0..=options.starts {
            for row in &mut fresh {
                interrupt::check()?;
                step.tick(&format!("{:?}, {networks} networks", row.whose));
                room.remember(networks)?;
                let cost = room.start(row.whose)?.start;
                if start > 0 {
                    row.wall.push(cost.wall.as_secs_f64() * 1e3);
                    row.processor.push(cost.cpu.as_secs_f64() * 1e3);
                }
            }
        }
        rows.extend(fresh);
    }
    step.done();
    if options.common.measured.json {
        let rows = rows.iter().map(|row| {
            json!({
                "networks": row.networks,
                "whose": format!("{:?}", row.whose),
                "wall_ms": row.wall.median(),
                "wall_ms_lower_quartile": row.wall.lower_quartile(),
                "wall_ms_upper_quartile": row.wall.upper_quartile(),
                "processor_ms": row.processor.median(),
            })
        });
        println!("{}", serde_json::to_string_pretty(&json!({"activate": rows.collect::<Vec<_>>()}))?);
        return Ok(());
    }
    let mut lines = vec![["DRIVER", "NETWORKS", "MS", "25%", "75%", "CPU"].map(str::to_owned).to_vec()];
    for row in &rows {
        let wall = &row.wall;
        let times = [wall.median(), wall.lower_quartile(), wall.upper_quartile(), row.processor.median()];
        let mut line = vec![format!("{:?}", row.whose), row.networks.to_string()];
        line.extend(times.map(|time| format!("{time:.1}")));
        lines.push(line);
    }
    println!("{}", table(&lines));
    note(
        "ms from the start of the process to an answered Plugin.Activate; cpu: its processor time until then.",
    );
    Ok(())
}
