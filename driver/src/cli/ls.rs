//! `ls`: which networks there are, and who has what.
use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{Global, block_on, stats::print, table};
use crate::{
    device::Rtnl,
    report::{PfReport, Report, pf},
    state::{EndpointId, Mode, Network, NetworkId, NetworkOptions},
};

/// Networks, and which container has which netdev.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  docker-passthrough ls
  docker-passthrough ls --json")]
pub struct Ls {
    /// A JSON array
    #[arg(long)]
    json: bool,
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
    pub fn run(self, global: &Global) -> anyhow::Result<()> {
        let (report, pfs) = block_on(look(global))?;
        let networks = report.state.networks.iter();
        let networks: Vec<_> = networks.map(|(id, network)| describe(&report, &pfs, id, network)).collect();
        if self.json {
            return print(&(serde_json::to_string_pretty(&networks)? + "\n"));
        }
        print(&text(&networks, &pfs))
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

fn text(networks: &[NetworkReport<'_>], pfs: &BTreeMap<String, PfReport>) -> String {
    let mut table = table::new(&["NETWORK", "MODE", "NETDEVICE", "VF", "CONTAINER", "ENDPOINT", "MAC"], [3]);
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
    let vfs = if pfs.is_empty() { String::new() } else { format!("\n{}", vf_table(pfs)) };
    let gap = if warnings.is_empty() { "" } else { "\n" };
    format!("{}{vfs}{gap}{}", table::text(&table), warnings.concat())
}

fn vf_table(pfs: &BTreeMap<String, PfReport>) -> String {
    let header = ["PF", "VF", "PCI ADDRESS", "DRIVER", "NETDEVICE", "VLAN", "CONTAINER"];
    let mut table = table::new(&header, [1, 5]);
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
