//! What the netdev and the hardware counted, beside our own counters: the difference is what went past
//! the kernel's hooks.
use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    counters,
    device::{Link, LinkRef, Rtnl, Stats, netns::NetNs},
    state::{Endpoint, EndpointId, VfGrant},
};

/// A VF, and what the hardware counted for it since the endpoint was created. The field names are a
/// contract.
#[derive(Debug, Serialize)]
pub struct VfReport {
    /// Name of the PF; null if it is gone.
    pub pf: Option<String>,
    /// The VF's number.
    pub vf: u32,
    /// The VF's PCI address.
    #[serde(rename = "pciAddr")]
    pub pci_address: Option<String>,
    /// Whether the hardware's driver fills in the counters; null as long as nothing tells.
    pub supported: Option<bool>,
    /// The counters, if it does.
    #[serde(flatten)]
    pub counters: VfValues,
}

/// Null where the hardware's driver does not count.
#[derive(Debug, Default, Serialize)]
pub struct VfValues {
    rx_packets: Option<u64>,
    rx_bytes: Option<u64>,
    rx_dropped: Option<u64>,
    tx_packets: Option<u64>,
    tx_bytes: Option<u64>,
    tx_dropped: Option<u64>,
}

impl From<Stats> for VfValues {
    fn from(counters: Stats) -> Self {
        let Stats { rx_packets, rx_bytes, tx_packets, tx_bytes, rx_dropped, tx_dropped } = counters;
        Self {
            rx_packets: Some(rx_packets),
            rx_bytes: Some(rx_bytes),
            rx_dropped: Some(rx_dropped),
            tx_packets: Some(tx_packets),
            tx_bytes: Some(tx_bytes),
            tx_dropped: Some(tx_dropped),
        }
    }
}

/// Asks the host's and the containers' namespaces.
pub struct Hardware {
    rtnl: Rtnl,
    links: Vec<Link>,
    /// By the PF's ifindex, each asked once.
    rows: BTreeMap<u32, BTreeMap<u32, Stats>>,
}

impl Hardware {
    /// With the host's netdevs as they are now.
    pub async fn new() -> super::Result<Self> {
        let rtnl = Rtnl::new()?;
        let links = rtnl.links().await?;
        Ok(Self { rtnl, links, rows: BTreeMap::new() })
    }

    /// What the endpoint's netdev itself counted since the endpoint was created; none if it is not found
    /// on the host or in its container.
    pub async fn netdev(
        &self,
        bpffs: &std::path::Path,
        id: &EndpointId,
        endpoint: &Endpoint,
        ifindex: u32,
    ) -> Option<Stats> {
        let since = |link: Link| link.stats.since(&endpoint.original.stats);
        let sandbox = endpoint.sandbox.as_deref().and_then(|path| NetNs::open(path).ok());
        if let Some(netns) = sandbox
            && netns.run(|| counters::is_attached(bpffs, id, ifindex)).ok()?.unwrap_or(false)
        {
            let rtnl = Rtnl::within(&netns).ok()?;
            return rtnl.link(LinkRef::Index(ifindex)).await.ok()?.map(since);
        }
        let here = counters::is_attached(bpffs, id, ifindex).unwrap_or(false);
        let link = self.rtnl.link(LinkRef::Index(ifindex)).await.ok()?;
        link.filter(|_| here).map(since)
    }

    /// The endpoint's VF.
    pub async fn vf(&mut self, endpoint: &Endpoint, grant: &VfGrant, netdev: Option<&Stats>) -> VfReport {
        let pf = self.links.iter().find(|link| link.hardware().as_ref() == Some(&grant.pf)).cloned();
        let row = match &pf {
            Some(pf) => self.row(pf, grant.index).await,
            None => None,
        };
        let moved = netdev.is_some_and(|netdev| netdev.rx_packets + netdev.tx_packets > 0);
        let supported = match row {
            Some((_, any)) if any => Some(true),
            Some(_) if moved => Some(false),
            _ => None,
        };
        let counted = row.filter(|_| supported == Some(true));
        VfReport {
            pf: pf.map(|pf| pf.name),
            vf: grant.index,
            pci_address: endpoint
                .hardware
                .as_deref()
                .and_then(|hardware| hardware.strip_prefix("pci/"))
                .map(str::to_owned),
            supported,
            counters: counted.map(|(row, _)| row.since(&grant.counters).into()).unwrap_or_default(),
        }
    }

    /// The VF's row, and whether any row of its PF is filled in.
    async fn row(&mut self, pf: &Link, vf: u32) -> Option<(Stats, bool)> {
        if !self.rows.contains_key(&pf.ifindex) {
            let rows = self.rtnl.vf_counters(pf).await.unwrap_or_default();
            self.rows.insert(pf.ifindex, rows);
        }
        let rows = self.rows.get(&pf.ifindex)?;
        let any = rows.values().any(|row| *row != Stats::default());
        Some((*rows.get(&vf)?, any))
    }
}
