//! Nanoseconds a packet, by the kernel's own test runner: programs take turns within one run.
use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;
use driver_common::{Constants, SPOOF_COUNT, SPOOF_DROP, SPOOF_OFF};
use serde_json::{Value, json};

use super::figures::{Samples, table};
use super::programs::{self, Loaded, OWN_MAC};
use crate::step::{Step, note};
use crate::{interrupt, must_be_root};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    /// A JSON object in place of tables
    #[arg(long)]
    json: bool,
    /// How often the programs are loaded anew: where the kernel puts their code has a part in the time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    loads: u32,
    /// How often each program takes its turn, of each load
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// How many packets a turn has
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
}

const XDP_PASS: u32 = 2;
const TCX_NEXT: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// One line of a table.
struct Row {
    what: &'static str,
    program: Loaded,
    frame: Vec<u8>,
    context: Option<Vec<u8>>,
    /// What the program has to answer: it took the way that the line is about.
    answer: u32,
    samples: Samples,
}

/// Programs at one hook, with the floor first.
struct Table {
    title: &'static str,
    /// Pairs of ours and C's that do the same work.
    pairs: &'static [(&'static str, &'static str)],
    rows: Vec<Row>,
}

/// Measures all, and prints.
pub fn run(options: &Options) -> Result<()> {
    must_be_root("bench packet", "BPF programs")?;
    let [ours, peers] = programs::build()?;
    let mut tables = tables(&ours, &peers)?;
    let mut step = Step::begin(&format!(
        "Measuring: {} loads of {} turns of {} packets for each of {} programs",
        options.loads,
        options.turns,
        options.packets,
        tables.iter().map(|table| table.rows.len()).sum::<usize>()
    ));
    for load in 0..options.loads {
        if load > 0 {
            load_anew(&mut tables, &ours, &peers)?;
        }
        // The first turn warms up.
        for turn in 0..=options.turns {
            for row in tables.iter_mut().flat_map(|table| &mut table.rows) {
                interrupt::check()?;
                step.tick(row.what);
                let context = row.context.as_deref();
                let (nanoseconds, answer) = row.program.run(&row.frame, context, options.packets)?;
                ensure!(answer == row.answer, "{}: answered {answer}, not {}", row.what, row.answer);
                if turn > 0 {
                    row.samples.push(nanoseconds);
                }
            }
        }
    }
    step.done();
    if options.json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"packet": tables}))?);
        return Ok(());
    }
    for table in &tables {
        println!("{}\n{}", table.title, table.text());
    }
    note(
        "ns: the median of all turns, and its quartiles; over: the median of the differences from the empty",
    );
    note("program in the same turn; of C's: that, divided by C's that does the same work.");
    Ok(())
}

fn load_anew(tables: &mut [Table], ours: &Path, peers: &Path) -> Result<()> {
    let fresh = self::tables(ours, peers)?;
    let fresh = fresh.into_iter().flat_map(|table| table.rows);
    for (row, fresh) in tables.iter_mut().flat_map(|table| &mut table.rows).zip(fresh) {
        row.program = fresh.program;
    }
    Ok(())
}

fn tables(ours: &Path, peers: &Path) -> Result<Vec<Table>> {
    let plain = || (udp(DUT, 60), None);
    let skb = || (udp(DUT, 60), Some(context(60, 0, 0)));
    let gso = |len: u32| (tcp(DUT, len as usize), Some(context(len, 1448, 2)));
    let row = |what, program: Result<Loaded>, (frame, context), answer| -> Result<Row> {
        Ok(Row { what, program: program?, frame, context, answer, samples: Samples::default() })
    };
    let own =
        |name: &str, spoof_check| Loaded::ours(ours, name, Constants { spoof_check, source_mac: OWN_MAC });
    let peer = |name: &str| Loaded::peer(peers, name);
    let [xdp, xdp_frags, xdp_detailed] =
        ["passthru_rx_xdp", "passthru_rx_xdp_frags", "passthru_rx_xdp_detailed"];
    let [rx, rx_detailed] = ["passthru_rx_tcx", "passthru_rx_tcx_detailed"];
    let [tx, tx_unchecked, tx_detailed] =
        ["passthru_tx_tcx", "passthru_tx_tcx_unchecked", "passthru_tx_tcx_detailed"];
    Ok(vec![
        Table {
            title: "Rx at XDP",
            pairs: &[
                ("basic", "C, array"),
                ("basic, several buffers", "C, array, several buffers"),
                ("detailed", "C, detailed"),
            ],
            rows: vec![
                row("empty", peer("xdp_empty"), plain(), XDP_PASS)?,
                row("basic", own(xdp, SPOOF_DROP), plain(), XDP_PASS)?,
                row("C, array", peer("xdp_array"), plain(), XDP_PASS)?,
                row("basic, several buffers", own(xdp_frags, SPOOF_DROP), plain(), XDP_PASS)?,
                row("C, array, several buffers", peer("xdp_array_frags"), plain(), XDP_PASS)?,
                row("detailed", own(xdp_detailed, SPOOF_DROP), plain(), XDP_PASS)?,
                row("C, detailed", peer("xdp_detailed"), plain(), XDP_PASS)?,
                row("C, hash by ifindex", peer("xdp_hash"), plain(), XDP_PASS)?,
            ],
        },
        Table {
            title: "Rx at TCX",
            pairs: &[("basic", "C, array"), ("detailed", "C, detailed")],
            rows: vec![
                row("empty", peer("tc_empty"), skb(), TCX_NEXT)?,
                row("basic", own(rx, SPOOF_DROP), skb(), TCX_NEXT)?,
                row("C, array", peer("rx_array"), skb(), TCX_NEXT)?,
                row("detailed", own(rx_detailed, SPOOF_DROP), skb(), TCX_NEXT)?,
                row("C, detailed", peer("rx_detailed"), skb(), TCX_NEXT)?,
                row("C, hash by ifindex", peer("rx_hash"), skb(), TCX_NEXT)?,
                row("basic, 2 segments", own(rx, SPOOF_DROP), gso(2000), TCX_NEXT)?,
                row("detailed, 2 segments", own(rx_detailed, SPOOF_DROP), gso(2000), TCX_NEXT)?,
            ],
        },
        Table {
            title: "Tx at TCX",
            pairs: &[
                ("basic, unchecked", "C, array"),
                ("basic", "C, array, MAC checked"),
                ("detailed", "C, detailed, MAC checked"),
                ("detailed, 2 segments", "C, detailed, 2 segments"),
                ("basic, dropped", "C, dropped"),
            ],
            rows: vec![
                row("empty", peer("tc_empty"), skb(), TCX_NEXT)?,
                row("basic, unchecked", own(tx_unchecked, SPOOF_OFF), skb(), TCX_NEXT)?,
                row("C, array", peer("tx_array"), skb(), TCX_NEXT)?,
                row("basic", own(tx, SPOOF_DROP), skb(), TCX_NEXT)?,
                row("C, array, MAC checked", peer("tx_array_spoof"), skb(), TCX_NEXT)?,
                row("basic, privileged", own(tx, SPOOF_COUNT), skb(), TCX_NEXT)?,
                row("detailed", own(tx_detailed, SPOOF_DROP), skb(), TCX_NEXT)?,
                row("C, detailed, MAC checked", peer("tx_detailed_spoof"), skb(), TCX_NEXT)?,
                row("detailed, 2 segments", own(tx_detailed, SPOOF_DROP), gso(2000), TCX_NEXT)?,
                row("C, detailed, 2 segments", peer("tx_detailed_spoof"), gso(2000), TCX_NEXT)?,
                row(
                    "basic, dropped",
                    own(tx, SPOOF_DROP),
                    (udp(STRANGER, 60), Some(context(60, 0, 0))),
                    TC_ACT_SHOT,
                )?,
                row(
                    "C, dropped",
                    peer("tx_array_spoof"),
                    (udp(STRANGER, 60), Some(context(60, 0, 0))),
                    TC_ACT_SHOT,
                )?,
                row("C, hash by ifindex", peer("tx_hash"), skb(), TCX_NEXT)?,
            ],
        },
    ])
}

impl Table {
    fn of(&self, what: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what)
    }

    fn over(&self, row: &Row) -> f64 {
        self.rows.first().map_or(f64::NAN, |floor| row.samples.over(&floor.samples).median())
    }

    /// Ours in parts of C's, if this is one of ours that C has an equal of.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let (_, peer) = self.pairs.iter().find(|(ours, _)| *ours == row.what)?;
        Some(self.over(row) / self.over(self.of(peer)?))
    }

    fn text(&self) -> String {
        let mut rows: Vec<Vec<String>> = vec![
            ["PROGRAM", "NS", "25%", "75%", "OVER", "OF C'S", "INSNS", "JITED"].map(str::to_owned).into(),
        ];
        for row in &self.rows {
            let samples = &row.samples;
            rows.push(vec![
                row.what.to_owned(),
                format!("{:.1}", samples.median()),
                format!("{:.1}", samples.lower_quartile()),
                format!("{:.1}", samples.upper_quartile()),
                format!("{:+.1}", self.over(row)),
                self.ratio(row).map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
                row.program.instructions.to_string(),
                format!("{} B", row.program.jited),
            ]);
        }
        table(&rows)
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "program": row.what,
                "ns": row.samples.median(),
                "ns_lower_quartile": row.samples.lower_quartile(),
                "ns_upper_quartile": row.samples.upper_quartile(),
                "ns_over_empty": self.over(row),
                "of_c": self.ratio(row),
                "instructions": row.program.instructions,
                "jited_bytes": row.program.jited,
            })
        });
        json!({"hook": self.title, "programs": rows.collect::<Vec<_>>()})
    }
}

const DUT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame without FCS: 60 bytes are the shortest on the wire.
fn udp(from: [u8; 6], length: usize) -> Vec<u8> {
    ipv4(from, 17, length)
}

fn tcp(from: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = ipv4(from, 6, length);
    // Data offset: with timestamps.
    frame[46] = 8 << 4;
    frame
}

fn ipv4(from: [u8; 6], protocol: u8, length: usize) -> Vec<u8> {
    let mut frame = [FAR, from].concat();
    frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    frame.resize(length, 0);
    frame
}

/// A `struct __sk_buff` that says what the test runner's skb is to have.
fn context(length: u32, gso_size: u32, gso_segs: u32) -> Vec<u8> {
    const SIZE: usize = 192;
    const GSO_SEGS: usize = 164;
    const WIRE_LEN: usize = 160;
    const GSO_SIZE: usize = 176;
    // Ethernet, IPv4, and TCP with timestamps.
    const HEADERS: u32 = 66;
    let mut context = vec![0; SIZE];
    let wire_len = length + gso_segs.saturating_sub(1) * HEADERS;
    for (offset, value) in [(WIRE_LEN, wire_len), (GSO_SEGS, gso_segs), (GSO_SIZE, gso_size)] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}
