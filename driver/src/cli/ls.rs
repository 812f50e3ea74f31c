//! `ls`: which networks there are, and who has what.
use clap::Args;
use serde::Serialize;

use super::{Global, block_on, report::Report, stats::print, table};
use crate::state::{EndpointId, NetworkId, NetworkOptions};

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
}

/// Who has the netdev.
#[derive(Debug, Serialize)]
struct Holder<'a> {
    endpoint_id: &'a EndpointId,
    container: Option<&'a str>,
    container_id: Option<&'a str>,
    netdevice: &'a str,
    mac: Option<String>,
}

impl Ls {
    pub fn run(self, global: &Global) -> anyhow::Result<()> {
        let report = block_on(Report::new(global))?;
        let networks: Vec<_> = report
            .state
            .networks
            .iter()
            .map(|(id, network)| NetworkReport {
                network_id: id,
                network: report.network_name(id),
                mode: network.mode.to_string(),
                netdevice: &network.options.netdevice,
                gateways: network.gateways.iter().map(ToString::to_string).collect(),
                options: &network.options,
                endpoints: network
                    .endpoints
                    .iter()
                    .map(|(endpoint_id, endpoint)| {
                        let container = report.container(id, endpoint_id);
                        Holder {
                            endpoint_id,
                            container: container.map(|(name, _)| name),
                            container_id: container.map(|(_, id)| id),
                            netdevice: &endpoint.original.name,
                            mac: endpoint.mac.map(|mac| mac.to_string()),
                        }
                    })
                    .collect(),
            })
            .collect();
        if self.json {
            return print(&(serde_json::to_string_pretty(&networks)? + "\n"));
        }
        print(&text(&networks))
    }
}

fn text(networks: &[NetworkReport<'_>]) -> String {
    let mut table = table::new(&["NETWORK", "MODE", "NETDEVICE", "CONTAINER", "ENDPOINT", "MAC"], []);
    for network in networks {
        let row = |container: &str, endpoint: &str, mac: &str, netdevice: &str| {
            let name = network.network.unwrap_or_else(|| network.network_id.short());
            [name, &network.mode, netdevice, container, endpoint, mac].map(str::to_owned)
        };
        if network.endpoints.is_empty() {
            table.add_row(row("-", "-", "-", network.netdevice));
        }
        for holder in &network.endpoints {
            let mac = holder.mac.as_deref().unwrap_or("-");
            table.add_row(row(
                holder.container.unwrap_or("?"),
                holder.endpoint_id.short(),
                mac,
                holder.netdevice,
            ));
        }
    }
    table::text(&table)
}
