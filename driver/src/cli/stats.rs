//! `stats`: what each container received and sent.
use std::{
    io::{self, Write as _},
    time::Instant,
};

use anstyle::AnsiColor;
use clap::Args;
use serde::Serialize;

use super::{
    Global, block_on, detailed,
    rates::{Meter, Rates},
    selection::{Selection, candidates},
    table::{self, Cell},
    units,
    watch::{self, Watching},
};
use crate::{
    counters::{Hook, Reader},
    report::{self, Bypass, EndpointReport, Report},
};

/// Rx and Tx of each container, from the kernel.
#[derive(Debug, Args)]
#[command(after_help = "\
Counted are frames on the wire: each segment of a GSO packet, from destination MAC to the end of the
payload, without FCS. SPOOFED frames had a source MAC that is not the container's; on unprivileged
networks they were dropped, and are not among the packets. Traffic that bypasses the kernel (DPDK, RDMA)
is not seen. With --watch, the table has rates: what was counted between two looks, over the time between
them.

Examples:
  docker-passthrough stats
  docker-passthrough stats web --json
  docker-passthrough stats web --detailed
  docker-passthrough stats --network red --watch 5
  docker-passthrough stats --json --watch | jq -c '.[] | [.container, .rates.rx_bits_per_second]'

Exit codes: 0 done, 1 failed or no such container, network or netdev, 2 wrong usage.")]
pub struct Stats {
    #[command(flatten)]
    selection: Selection,
    /// A JSON array; with --watch, one a line
    #[arg(long)]
    json: bool,
    /// Exact numbers, without units
    #[arg(long)]
    bytes: bool,
    /// After the table, each container's packets by class, where its network has counters=detailed
    #[arg(long, conflicts_with = "json")]
    detailed: bool,
    #[command(flatten)]
    watching: Watching,
}

/// An element of `--json`. With `--watch` it has the rates, null as long as there is one look only.
#[derive(Serialize)]
struct Element<'a> {
    #[serde(flatten)]
    report: &'a EndpointReport,
    bypass: Bypass,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<serde_json::Value>,
}

impl Stats {
    pub fn run(mut self, global: &Global) -> anyhow::Result<()> {
        let every = self.watching.every(&mut self.selection.only);
        block_on(async {
            let Look { report, endpoints: mut reports, .. } = look(global).await?;
            self.selection.check(&candidates(&report, &reports))?;
            let Some(every) = every else {
                reports.retain(|report| self.selection.has(report));
                let text = if self.json {
                    json(&reports, None)?
                } else {
                    self.totals(&reports) + &warnings(&reports)
                };
                return print(&(text + &self.by_class(&reports)));
            };
            let mut meter = Meter::default();
            watch::repeat(every, self.json, async || {
                let Look { at, endpoints: mut reports, .. } = look(global).await?;
                reports.retain(|report| self.selection.has(report));
                let rates = meter.rates(at, &reports);
                let text =
                    if self.json { json(&reports, Some(&rates))? } else { self.moving(&reports, &rates) };
                Ok(text + &self.by_class(&reports))
            })
            .await
        })
    }

    fn by_class(&self, reports: &[EndpointReport]) -> String {
        if self.detailed { detailed::tables(reports, self.packets()) } else { String::new() }
    }

    /// How numbers of frames are shown.
    fn packets(&self) -> fn(u64) -> String {
        if self.bytes { exact } else { units::count }
    }

    fn totals(&self, reports: &[EndpointReport]) -> String {
        let header =
            ["CONTAINER", "NETDEVICE", "RX PKTS", "RX BYTES", "TX PKTS", "TX BYTES", "SPOOFED", "HOOKS"];
        let mut table = table::new(&header, 2..=6).names([0, 1]);
        for report in reports {
            let packets = |count| cell(count, self.packets());
            let bytes = |count| cell(count, if self.bytes { exact } else { units::bytes });
            table.add_row([
                holder(report).into(),
                report.netdevice.as_deref().unwrap_or("-").into(),
                packets(report.rx.map(|rx| rx.packets)),
                bytes(report.rx.map(|rx| rx.bytes)),
                packets(report.tx.map(|tx| tx.packets)),
                bytes(report.tx.map(|tx| tx.bytes)),
                self.spoofed(report),
                hooks(report).into(),
            ]);
        }
        table::text(&table)
    }

    fn moving(&self, reports: &[EndpointReport], rates: &[Option<Rates>]) -> String {
        let header =
            ["CONTAINER", "NETDEVICE", "RX PPS", "RX BIT/S", "TX PPS", "TX BIT/S", "SPOOFED", "HOOKS"];
        let mut table = table::new(&header, 2..=6).names([0, 1]);
        for (report, rates) in reports.iter().zip(rates) {
            let rate = |of: fn(&Rates) -> f64| match rates {
                Some(rates) if self.bytes => Cell::from(format!("{:.0}", of(rates))),
                Some(rates) => units::rate(of(rates)).into(),
                None => "-".into(),
            };
            table.add_row([
                holder(report).into(),
                report.netdevice.as_deref().unwrap_or("-").into(),
                rate(|rates| rates.rx_packets_per_second),
                rate(|rates| rates.rx_bits_per_second),
                rate(|rates| rates.tx_packets_per_second),
                rate(|rates| rates.tx_bits_per_second),
                self.spoofed(report),
                hooks(report).into(),
            ]);
        }
        table::text(&table)
    }

    fn spoofed(&self, report: &EndpointReport) -> Cell {
        let spoofed = report.tx.map(|tx| tx.spoofed);
        let cell = cell(spoofed, self.packets());
        if spoofed.is_some_and(|spoofed| spoofed > 0) { cell.coloured(AnsiColor::Yellow) } else { cell }
    }
}

/// What there is, and when it was read.
pub(super) struct Look {
    pub at: Instant,
    pub report: Report,
    pub endpoints: Vec<EndpointReport>,
}

pub(super) async fn look(global: &Global) -> anyhow::Result<Look> {
    // In this order: a new endpoint is remembered before it is counted.
    let reader = Reader::new(global.bpffs.clone());
    let pinned = reader.endpoints();
    let report = Report::new(&global.state_dir, &global.docker_host).await?;
    let endpoints = report.endpoints(&reader, pinned, Instant::now() + report::PATIENCE).await?;
    Ok(Look { at: Instant::now(), report, endpoints })
}

/// Who has it: the container, else the endpoint.
pub(super) fn holder(report: &EndpointReport) -> &str {
    report.container.as_deref().unwrap_or_else(|| report.endpoint_id.short())
}

fn cell(count: Option<u64>, shown: fn(u64) -> String) -> Cell {
    count.map_or_else(|| "-".into(), |count| shown(count).into())
}

fn exact(count: u64) -> String {
    count.to_string()
}

/// Where Rx and Tx are counted: `xdp/tcx`.
pub(super) fn hooks(report: &EndpointReport) -> String {
    let hook = |hook: Option<Hook>| hook.map_or_else(|| "-".into(), |hook| hook.to_string());
    format!("{}/{}", hook(report.rx_hook), hook(report.tx_hook))
}

/// All on one line if it is one of many.
fn json(reports: &[EndpointReport], rates: Option<&[Option<Rates>]>) -> anyhow::Result<String> {
    let elements = reports.iter().enumerate().map(|(index, report)| {
        let rates = rates.map(|rates| serde_json::to_value(rates.get(index))).transpose()?;
        Ok(Element { report, bypass: report.bypass(), rates })
    });
    let elements: Vec<_> = elements.collect::<serde_json::Result<_>>()?;
    let text = match rates {
        Some(_) => serde_json::to_string(&elements)?,
        None => serde_json::to_string_pretty(&elements)?,
    };
    Ok(text + "\n")
}

/// Sent frames that were not counted, nor checked for a foreign MAC. Received ones are no container's doing.
fn warnings(reports: &[EndpointReport]) -> String {
    let warn = |report: &EndpointReport| {
        let sent = report.bypass().tx_packets.filter(|sent| *sent > 0)?;
        let name = report.container.as_deref().unwrap_or_else(|| report.endpoint_id.short());
        Some(format!("\n{name}: {sent} more frames were sent past the counters (`bypass` in --json)"))
    };
    let warnings: String = reports.iter().filter_map(warn).collect();
    if warnings.is_empty() { warnings } else { warnings + "\n" }
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use driver_common::Detailed;

    use super::*;
    use crate::report::{RxReport, TxReport};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        stats: Stats,
    }

    #[test]
    fn bytes_makes_the_classes_exact_as_well() {
        let many = Detailed { tcp: 12_345_678, ..Detailed::default() };
        let detailed = Some(many);
        let report = EndpointReport {
            endpoint_id: "a1".parse().unwrap(),
            network_id: None,
            network: None,
            container: Some("web".into()),
            container_id: None,
            netdevice: None,
            mode: None,
            ifindex: None,
            rx_hook: None,
            tx_hook: None,
            rx: Some(RxReport { packets: 0, bytes: 0, detailed }),
            tx: Some(TxReport { packets: 0, bytes: 0, spoofed: 0, detailed }),
            netdev: None,
            vf: None,
        };
        for (options, shown) in [(&["--detailed", "--bytes"][..], "12345678"), (&["--detailed"], "12.3 M")] {
            let line = Line::parse_from(["stats"].iter().chain(options));
            let text = line.stats.by_class(std::slice::from_ref(&report));
            assert_eq!(text.matches(shown).count(), 2, "{options:?}: {text}");
        }
    }
}
