//! Which containers are meant, of all there are.
use anyhow::bail;
use clap::Args;

use crate::{
    report::{EndpointReport, Report},
    state::NetworkId,
};

/// As many names are listed when one is not found.
const LISTED: usize = 20;

/// Each kind narrows down what is shown; of one kind, any will do.
#[derive(Debug, Default, Args)]
pub struct Selection {
    /// Only these: names or ids of containers, or ids of endpoints, shortened as you like
    #[arg(value_name = "CONTAINER|ENDPOINT")]
    pub only: Vec<String>,
    /// Only containers of this network: its name or id; may be repeated
    #[arg(long, value_name = "NAME|ID")]
    network: Vec<String>,
    /// Only those with this netdev of the host, or with a VF of this PF; may be repeated
    #[arg(long, value_name = "NETDEV")]
    netdevice: Vec<String>,
}

/// What can be selected: an endpoint, or a network without any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidate<'a> {
    /// The container's name.
    pub container: Option<&'a str>,
    /// The container's id.
    pub container_id: Option<&'a str>,
    /// The endpoint's id.
    pub endpoint_id: Option<&'a str>,
    /// The network's name.
    pub network: Option<&'a str>,
    /// The network's id.
    pub network_id: Option<&'a str>,
    /// The netdev that the endpoint has, and the one that the network names.
    pub netdevices: [Option<&'a str>; 2],
}

impl<'a> From<&'a EndpointReport> for Candidate<'a> {
    fn from(report: &'a EndpointReport) -> Self {
        let pf = report.vf.as_ref().and_then(|vf| vf.pf.as_deref());
        Self {
            container: report.container.as_deref(),
            container_id: report.container_id.as_deref(),
            endpoint_id: Some(report.endpoint_id.as_str()),
            network: report.network.as_deref(),
            network_id: report.network_id.as_ref().map(NetworkId::as_str),
            netdevices: [report.netdevice.as_deref(), pf],
        }
    }
}

/// The endpoints, and the networks, which may have none.
pub fn candidates<'a>(report: &'a Report, endpoints: &'a [EndpointReport]) -> Vec<Candidate<'a>> {
    let networks = report.state.networks.iter().map(|(id, network)| Candidate {
        network: report.network_name(id),
        network_id: Some(id.as_str()),
        netdevices: [None, Some(&network.options.netdevice)],
        ..Candidate::default()
    });
    endpoints.iter().map(Into::into).chain(networks).collect()
}

impl Candidate<'_> {
    fn is_container(&self, wanted: &str) -> bool {
        self.container == Some(wanted)
            || begins(self.container_id, wanted)
            || begins(self.endpoint_id, wanted)
    }

    fn is_network(&self, wanted: &str) -> bool {
        self.network == Some(wanted) || begins(self.network_id, wanted)
    }

    fn is_netdevice(&self, wanted: &str) -> bool {
        self.netdevices.contains(&Some(wanted))
    }
}

fn begins(id: Option<&str>, wanted: &str) -> bool {
    !wanted.is_empty() && id.is_some_and(|id| id.starts_with(wanted))
}

impl Selection {
    /// Whether it is one of those that are meant.
    pub fn has<'a>(&self, candidate: impl Into<Candidate<'a>>) -> bool {
        let candidate = candidate.into();
        let any = |wanted: &[String], is: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| is(wanted))
        };
        any(&self.only, &|wanted| candidate.is_container(wanted))
            && any(&self.network, &|wanted| candidate.is_network(wanted))
            && any(&self.netdevice, &|wanted| candidate.is_netdevice(wanted))
    }

    /// An error that says what there is, if something is meant that there is not.
    pub fn check(&self, candidates: &[Candidate<'_>]) -> anyhow::Result<()> {
        for (what, wanted, is, names) in [
            (
                "container or endpoint",
                &self.only,
                (|one, wanted| one.is_container(wanted)) as fn(&Candidate<'_>, &str) -> bool,
                listed(candidates.iter().map(|one| one.container.or(one.endpoint_id.map(short)))),
            ),
            (
                "network of this driver",
                &self.network,
                |one, wanted| one.is_network(wanted),
                listed(candidates.iter().map(|one| one.network.or(one.network_id.map(short)))),
            ),
            (
                "netdev of this driver's networks",
                &self.netdevice,
                |one, wanted| one.is_netdevice(wanted),
                listed(candidates.iter().flat_map(|one| one.netdevices)),
            ),
        ] {
            for wanted in wanted {
                if !candidates.iter().any(|candidate| is(candidate, wanted)) {
                    bail!("{wanted}: no such {what}; {names}");
                }
            }
        }
        Ok(())
    }
}

/// As Docker shortens ids.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn listed<'a>(names: impl Iterator<Item = Option<&'a str>>) -> String {
    let names: std::collections::BTreeSet<&str> = names.flatten().collect();
    let more = names.len().saturating_sub(LISTED);
    let shown: Vec<&str> = names.into_iter().take(LISTED).collect();
    match (shown.as_slice(), more) {
        ([], _) => "there is none".into(),
        (shown, 0) => format!("there are: {}", shown.join(", ")),
        (shown, more) => format!("there are: {}, and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Candidate<'static>; 2] {
        [
            Candidate {
                container: Some("web"),
                container_id: Some("c0ffee00"),
                endpoint_id: Some("0a1b2c3d4e5f6789"),
                network: Some("red"),
                network_id: Some("77aa"),
                netdevices: [Some("eth2"), Some("eth0")],
            },
            Candidate { endpoint_id: Some("0a99"), network_id: Some("88bb"), ..Candidate::default() },
        ]
    }

    fn selection(only: &[&str], network: &[&str], netdevice: &[&str]) -> Selection {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Selection { only: own(only), network: own(network), netdevice: own(netdevice) }
    }

    #[test]
    fn by_name_or_the_beginning_of_an_id() {
        for (only, network, netdevice, wanted) in [
            (&[][..], &[][..], &[][..], [true, true]),
            (&["web"], &[], &[], [true, false]),
            (&["we"], &[], &[], [false, false]),
            (&["c0ff"], &[], &[], [true, false]),
            (&["0a"], &[], &[], [true, true]),
            (&["web", "0a99"], &[], &[], [true, true]),
            (&["0a"], &["red"], &[], [true, false]),
            (&[], &["77", "88bb"], &[], [true, true]),
            (&[], &[], &["eth0"], [true, false]),
            (&[""], &[], &[], [false, false]),
        ] {
            let selection = selection(only, network, netdevice);
            assert_eq!(all().map(|one| selection.has(one)), wanted, "{selection:?}");
        }
    }

    #[test]
    fn unknown_names_are_told_what_there_is() {
        for (selection, words) in [
            (selection(&["wbe"], &[], &[]), "wbe: no such container or endpoint; there are: 0a99, web"),
            (selection(&[], &["blue"], &[]), "blue: no such network of this driver; there are: 88bb, red"),
            (
                selection(&[], &[], &["eth9"]),
                "eth9: no such netdev of this driver's networks; there are: eth0, eth2",
            ),
        ] {
            assert_eq!(selection.check(&all()).unwrap_err().to_string(), words);
            assert!(selection.check(&[]).unwrap_err().to_string().ends_with("there is none"));
        }
        selection(&["web"], &["red"], &["eth0"]).check(&all()).unwrap();
    }
}
