//! `ls`: which networks there are, and who has what.
use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{
    Global, block_on,
    selection::{Candidate, Selection},
    stats::print,
    table,
    watch::{self, Watching},
};
use crate::{
    device::Rtnl,
    report::{PfReport, Report, pf},
    state::{EndpointId, Mode, Network, NetworkId, NetworkOptions},
};

/// Networks, and which container has which netdev.
#[derive(Debug, Args)]
#[command(after_help = "\
A NETDEVICE of `-` in the second table is not on the host: a container has it, or a driver such as vfio-pci.
Defaults of a VF that its hardware refused follow the tables as warnings.

Examples:
  docker-passthrough ls
  docker-passthrough ls --netdevice ens2f0 --watch
  docker-passthrough ls --json | jq '.[].endpoints[].container'

Exit codes: 0 done, 1 failed or no such container, network or netdev, 2 wrong usage.")]
pub struct Ls {
    #[command(flatten)]
    selection: Selection,
    /// A JSON array; with --watch, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    watching: Watching,
}

/// One network. The field names are a contract.
#[derive(Debug, Serialize)]
struct NetworkReport<'a> {
    network_id: &'a NetworkId,
    network: Option<&'a str>,
    mode: String,
    netdevice: &'a str,
    gateways: Vec<String>,
    options: &'a NetworkOptions,
    endpoints: Vec<Holder<'a>>,
    /// In sriov mode: the PF with all its VFs, also those of other networks.
    pf: Option<&'a PfReport>,
}

/// Who has the netdev.
#[derive(Debug, Serialize)]
struct Holder<'a> {
    endpoint_id: &'a EndpointId,
    container: Option<&'a str>,
    container_id: Option<&'a str>,
    netdevice: &'a str,
    mac: Option<String>,
    /// The macvlan that stands in for a netdev that can't be moved.
    macvlan: Option<&'a str>,
    /// Number of the VF, in sriov mode.
    vf: Option<u32>,
    /// Defaults that the hardware refused.
    warnings: &'a [String],
}

impl Ls {
    pub fn run(mut self, global: &Global) -> anyhow::Result<()> {
        let every = self.watching.every(&mut self.selection.only);
        block_on(async {
            let (report, pfs) = look(global).await?;
            let all = describe_all(&report, &pfs);
            let endpoints = all.iter().flat_map(|network| {
                let bare = candidate(network);
                network.endpoints.iter().map(move |holder| holding(bare, holder)).chain([bare])
            });
            self.selection.check(&endpoints.collect::<Vec<_>>())?;
            let Some(every) = every else { return print(&self.show(&report, &pfs, false)?) };
            watch::repeat(every, self.json, async || {
                let (report, pfs) = look(global).await?;
                self.show(&report, &pfs, true)
            })
            .await
        })
    }

    fn show(&self, report: &Report, pfs: &BTreeMap<String, PfReport>, line: bool) -> anyhow::Result<String> {
        let mut networks = describe_all(report, pfs);
        networks.retain_mut(|network| {
            let bare = candidate(network);
            network.endpoints.retain(|holder| self.selection.has(holding(bare, holder)));
            self.selection.has(bare) || !network.endpoints.is_empty()
        });
        if !self.json {
            return Ok(text(&networks));
        }
        let json =
            if line { serde_json::to_string(&networks) } else { serde_json::to_string_pretty(&networks) };
        Ok(json? + "\n")
    }
}

/// The network itself.
fn candidate<'a>(network: &NetworkReport<'a>) -> Candidate<'a> {
    Candidate {
        network: network.network,
        network_id: Some(network.network_id.as_str()),
        netdevices: [None, Some(network.netdevice)],
        ..Candidate::default()
    }
}

/// An endpoint of the network.
fn holding<'a>(network: Candidate<'a>, holder: &Holder<'a>) -> Candidate<'a> {
    Candidate {
        container: holder.container,
        container_id: holder.container_id,
        endpoint_id: Some(holder.endpoint_id.as_str()),
        netdevices: [Some(holder.netdevice), network.netdevices[1]],
        ..network
    }
}

async fn look(global: &Global) -> anyhow::Result<(Report, BTreeMap<String, PfReport>)> {
    let report = Report::new(&global.state_dir, &global.docker_host).await?;
    let rtnl = Rtnl::new()?;
    let links = rtnl.links().await?;
    let mut pfs = BTreeMap::new();
    for network in report.state.networks.values().filter(|network| network.mode == Mode::Sriov) {
        let name = &network.options.netdevice;
        if !pfs.contains_key(name)
            && let Some(pf) = pf(&rtnl, &links, name, &report).await
        {
            pfs.insert(name.clone(), pf);
        }
    }
    Ok((report, pfs))
}

fn describe_all<'a>(report: &'a Report, pfs: &'a BTreeMap<String, PfReport>) -> Vec<NetworkReport<'a>> {
    let networks = report.state.networks.iter();
    networks.map(|(id, network)| describe(report, pfs, id, network)).collect()
}

fn describe<'a>(
    report: &'a Report,
    pfs: &'a BTreeMap<String, PfReport>,
    id: &'a NetworkId,
    network: &'a Network,
) -> NetworkReport<'a> {
    let holders = network.endpoints.iter().map(|(endpoint_id, endpoint)| {
        let container = report.container(id, endpoint_id);
        Holder {
            endpoint_id,
            container: container.map(|(name, _)| name),
            container_id: container.map(|(_, id)| id),
            netdevice: endpoint.netdevice(),
            macvlan: endpoint.lower.as_ref().map(|_| endpoint.original.name.as_str()),
            mac: endpoint.mac.map(|mac| mac.to_string()),
            vf: endpoint.vf.as_ref().map(|grant| grant.index),
            warnings: &endpoint.warnings,
        }
    });
    NetworkReport {
        network_id: id,
        network: report.network_name(id),
        mode: network.mode.to_string(),
        netdevice: &network.options.netdevice,
        gateways: network.gateways.iter().map(ToString::to_string).collect(),
        options: &network.options,
        endpoints: holders.collect(),
        pf: pfs.get(&network.options.netdevice).filter(|_| network.mode == Mode::Sriov),
    }
}

fn text(networks: &[NetworkReport<'_>]) -> String {
    let header = ["NETWORK", "MODE", "NETDEVICE", "VF", "CONTAINER", "ENDPOINT", "MAC"];
    let mut table = table::new(&header, [3]).names([0, 2, 4]);
    let mut warnings = Vec::new();
    for network in networks {
        let name = network.network.unwrap_or_else(|| network.network_id.short());
        if network.endpoints.is_empty() {
            table.add_row([name, &network.mode, network.netdevice, "-", "-", "-", "-"]);
        }
        for holder in &network.endpoints {
            let vf = holder.vf.map_or_else(|| "-".to_owned(), |vf| vf.to_string());
            let (mac, container) = (holder.mac.as_deref().unwrap_or("-"), holder.container.unwrap_or("?"));
            let endpoint = holder.endpoint_id.short();
            let macvlan = holder.macvlan.map(|_| " (macvlan)").unwrap_or_default();
            let netdevice = format!("{}{macvlan}", holder.netdevice);
            table.add_row([name, &network.mode, &netdevice, &vf, container, endpoint, mac]);
            for warning in holder.warnings {
                warnings.push(format!("warning: {name}, endpoint {endpoint}: {warning}\n"));
            }
        }
    }
    // Networks in different VLANs share a PF.
    let pfs: BTreeMap<_, _> =
        networks.iter().filter_map(|network| network.pf).map(|pf| (pf.netdevice.as_str(), pf)).collect();
    let vfs = if pfs.is_empty() { String::new() } else { format!("\n{}", vf_table(&pfs)) };
    let gap = if warnings.is_empty() { "" } else { "\n" };
    format!("{}{vfs}{gap}{}", table::text(&table), warnings.concat())
}

fn vf_table(pfs: &BTreeMap<&str, &PfReport>) -> String {
    let header = ["PF", "VF", "PCI ADDRESS", "DRIVER", "NETDEVICE", "VLAN", "CONTAINER"];
    let mut table = table::new(&header, [1, 5]).names([0, 4, 6]);
    for pf in pfs.values() {
        for row in &pf.vfs {
            let vlan = row.settings.as_ref().map(|settings| settings.vlan.id.to_string());
            let user = row
                .container
                .clone()
                .or_else(|| row.endpoint_id.clone().map(|id| id.chars().take(12).collect()));
            let cell = |text: Option<String>| text.unwrap_or_else(|| "-".into());
            table.add_row([
                pf.netdevice.clone(),
                row.vf.to_string(),
                row.pci_address.clone(),
                cell(row.driver.clone()),
                cell(row.netdevice.clone()),
                cell(vlan),
                cell(user),
            ]);
        }
    }
    table::text(&table)
}
