//! `stats`: what each container received and sent.
use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::{Global, block_on, detailed, table};
use crate::report::{self, Bypass, EndpointReport, Report};

/// How often `--watch` looks.
const REFRESH: Duration = Duration::from_secs(1);

/// Rx and Tx of each container, from the kernel.
#[derive(Debug, Args)]
#[command(after_help = "\
Counted are frames on the wire: each segment of a GSO packet, from destination MAC to the end of the
payload, without FCS. SPOOFED frames had a source MAC that is not the container's; on unprivileged
networks they were dropped, and are not among the packets. Traffic that bypasses the kernel (DPDK, RDMA)
is not seen.

Examples:
  docker-passthrough stats
  docker-passthrough stats web --json
  docker-passthrough stats web --detailed
  docker-passthrough stats --watch")]
#[expect(clippy::struct_excessive_bools, reason = "they are flags of the command line")]
pub struct Stats {
    /// Only these: names or ids of containers, or ids of endpoints, shortened as you like
    #[arg(value_name = "CONTAINER|ENDPOINT")]
    only: Vec<String>,
    /// A JSON array; with --watch, one a line
    #[arg(long)]
    json: bool,
    /// Exact numbers of bytes, without units
    #[arg(long)]
    bytes: bool,
    /// After the table, each container's packets by class, where its network has counters=detailed
    #[arg(long, conflicts_with = "json")]
    detailed: bool,
    /// Look again every second, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

/// An element of the JSON array.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    report: &'a EndpointReport,
    bypass: Bypass,
}

impl Stats {
    pub fn run(self, global: &Global) -> anyhow::Result<()> {
        block_on(async {
            if !self.watch {
                return print(&self.look(global).await?);
            }
            let clear = if io::stdout().is_terminal() && !self.json { "\x1b[H\x1b[2J" } else { "" };
            let mut tick = tokio::time::interval(REFRESH);
            loop {
                tokio::select! {
                    _ = tick.tick() => print(&format!("{clear}{}", self.look(global).await?))?,
                    _ = tokio::signal::ctrl_c() => return Ok(()),
                }
            }
        })
    }

    async fn look(&self, global: &Global) -> anyhow::Result<String> {
        let report = Report::new(&global.state_dir, &global.docker_host).await?;
        let mut reports = report.endpoints(&global.bpffs, Instant::now() + report::PATIENCE).await?;
        for wanted in &self.only {
            if !reports.iter().any(|report| is(report, wanted)) {
                bail!("{wanted}: no such container or endpoint; `docker-passthrough ls` lists them");
            }
        }
        reports.retain(|report| self.only.is_empty() || self.only.iter().any(|wanted| is(report, wanted)));
        if !self.json {
            let by_class = if self.detailed { detailed::tables(&reports) } else { String::new() };
            return Ok(self.table(&reports) + &warnings(&reports) + &by_class);
        }
        let rows: Vec<_> = reports.iter().map(|report| Row { report, bypass: report.bypass() }).collect();
        let json =
            if self.watch { serde_json::to_string(&rows) } else { serde_json::to_string_pretty(&rows) };
        Ok(json? + "\n")
    }

    fn table(&self, reports: &[EndpointReport]) -> String {
        let header =
            ["CONTAINER", "NETDEVICE", "RX PKTS", "RX BYTES", "TX PKTS", "TX BYTES", "SPOOFED", "HOOKS"];
        let mut table = table::new(&header, 2..=6);
        for report in reports {
            let name = report.container.clone().unwrap_or_else(|| report.endpoint_id.short().to_owned());
            let bytes = |bytes| if self.bytes { u64::to_string(&bytes) } else { table::bytes(bytes) };
            let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
            let size = |size: Option<u64>| size.map_or_else(|| "-".into(), bytes);
            let hook = |hook: Option<crate::counters::Hook>| {
                hook.map_or_else(|| "-".into(), |hook| hook.to_string())
            };
            table.add_row([
                name,
                report.netdevice.clone().unwrap_or_else(|| "-".into()),
                number(report.rx.map(|rx| rx.packets)),
                size(report.rx.map(|rx| rx.bytes)),
                number(report.tx.map(|tx| tx.packets)),
                size(report.tx.map(|tx| tx.bytes)),
                number(report.tx.map(|tx| tx.spoofed)),
                format!("{}/{}", hook(report.rx_hook), hook(report.tx_hook)),
            ]);
        }
        table::text(&table)
    }
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

fn is(report: &EndpointReport, wanted: &str) -> bool {
    !wanted.is_empty()
        && (report.container.as_deref() == Some(wanted)
            || report.container_id.as_deref().is_some_and(|id| id.starts_with(wanted))
            || report.endpoint_id.as_str().starts_with(wanted))
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
