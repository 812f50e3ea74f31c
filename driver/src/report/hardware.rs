//! What the netdev and the hardware counted, beside our own counters: the difference is what went past
//! the kernel's hooks.
use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

use crate::{
    counters::{Reader, Reading},
    device::{
        Link, Rtnl, Stats,
        clsact::{Direction, filtered_here},
        netns::{NetNs, Traveller},
    },
    state::{Endpoint, EndpointId, State, VfGrant},
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
    /// Frames received.
    pub rx_packets: Option<u64>,
    /// Bytes received.
    pub rx_bytes: Option<u64>,
    /// Frames dropped on receive.
    pub rx_dropped: Option<u64>,
    /// Frames sent.
    pub tx_packets: Option<u64>,
    /// Bytes sent.
    pub tx_bytes: Option<u64>,
    /// Frames dropped on sending.
    pub tx_dropped: Option<u64>,
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

/// What an endpoint's netdev has counted since the endpoint was created, and after that our own counters: so
/// the difference is none of the time between.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// None if it is not found on the host or in its container.
    pub netdev: Option<Stats>,
    /// None if the endpoint is not counted.
    pub reading: Option<Reading>,
}

/// More threads would only wait for each other: the kernel has one lock for much of it.
const THREADS: usize = 4;
/// For fewer endpoints than this a thread more takes longer than it saves.
const ENDPOINTS_PER_THREAD: usize = 32;

/// Reads all endpoints' counters, and goes into each container's namespace once, as long as it is not later
/// than `until`. Blocks.
pub fn counted(
    state: &State,
    reader: &Reader,
    until: Instant,
) -> std::io::Result<BTreeMap<EndpointId, Counted>> {
    let home = &NetNs::current()?;
    let endpoints: Vec<_> = state.endpoints().map(|(.., id, endpoint)| (id, endpoint)).collect();
    let look = |endpoints: &[(&EndpointId, &Endpoint)]| {
        Traveller::run(|traveller| {
            let counted = endpoints.iter().map(|(id, endpoint)| {
                (EndpointId::clone(id), of(traveller, home, reader, id, endpoint, until))
            });
            counted.collect::<Vec<_>>()
        })
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = endpoints.len().div_ceil(ENDPOINTS_PER_THREAD).clamp(1, THREADS.min(cores));
    let (first, others) = endpoints.split_at(endpoints.len().div_ceil(threads));
    let shares: Vec<_> = others.chunks(first.len().max(1)).collect();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares.iter().map(|share| scope.spawn(|| look(share))).collect();
        let mut counted: BTreeMap<_, _> = look(first)?.into_iter().collect();
        for other in others {
            let other = other.join().map_err(|_| std::io::Error::other("a thread that reads panicked"))?;
            counted.extend(other?);
        }
        Ok(counted)
    })
}

fn of(
    traveller: &Traveller,
    home: &NetNs,
    reader: &Reader,
    id: &EndpointId,
    endpoint: &Endpoint,
    until: Instant,
) -> Counted {
    let in_time = Instant::now() < until;
    // As it was found the last time, if all of that is still so.
    if in_time
        && let Some(known) = reader.known(id)
        && let Some(netdev) = netdev(traveller, home, endpoint, || known.attached_here())
        && let Some(reading) = reader.read(id, &known)
    {
        return Counted { netdev: Some(netdev), reading: Some(reading) };
    }
    let Ok(opened) = reader.open(id) else { return Counted::default() };
    let find = || match opened.egress_filter() {
        None => opened.attached_here().ok()?,
        Some(program) => filtered_here(Direction::Egress, program, Some(endpoint.ifindex)).ok()?,
    };
    let netdev = in_time.then(|| netdev(traveller, home, endpoint, find)).flatten();
    // Else it ended meanwhile, and its netdev may be another's.
    let Ok(reading) = opened.read() else { return Counted::default() };
    if netdev.is_some() {
        reader.keep(id, &opened);
    }
    Counted { netdev, reading: Some(reading) }
}

/// What the netdev that `find` finds has counted, which is asked in the container and then on the host. A thread in a
/// container's namespace keeps the netdevs in it from coming home, so it goes on at once.
fn netdev(
    traveller: &Traveller,
    home: &NetNs,
    endpoint: &Endpoint,
    find: impl Fn() -> Option<u32>,
) -> Option<Stats> {
    let counted = || Stats::of_here(find()?).ok()?;
    let sandbox = endpoint.sandbox.as_deref();
    let within = sandbox.and_then(|path| traveller.enter_at(path).ok()).and_then(|()| counted());
    let found = within.or_else(|| {
        traveller.enter(home).ok()?;
        counted()
    })?;
    Some(found.since(&endpoint.original.stats))
}

/// What PFs have counted for their VFs.
#[derive(Default)]
pub struct Hardware {
    pfs: Vec<(Link, BTreeMap<u32, Stats>)>,
}

impl Hardware {
    /// Asks each PF that some endpoint has a VF of, once.
    pub async fn read(state: &State) -> super::Result<Self> {
        let wanted = |link: &Link| {
            let hardware = link.hardware();
            let grants = state.endpoints().filter_map(|(.., endpoint)| endpoint.vf.as_ref());
            hardware.is_some_and(|hardware| grants.into_iter().any(|grant| grant.pf == hardware))
        };
        let mut pfs = Vec::new();
        if state.endpoints().any(|(.., endpoint)| endpoint.vf.is_some()) {
            let rtnl = Rtnl::new()?;
            for link in rtnl.links().await?.into_iter().filter(wanted) {
                let rows = rtnl.vf_counters(&link).await.unwrap_or_default();
                pfs.push((link, rows));
            }
        }
        Ok(Self { pfs })
    }

    /// The endpoint's VF. Nothing of what it counted once the endpoint is over: it may be another's by now.
    pub fn vf(&self, endpoint: &Endpoint, grant: &VfGrant, counted: &Counted) -> VfReport {
        let pf = self.pfs.iter().find(|(link, _)| link.hardware().as_ref() == Some(&grant.pf));
        let row = pf.and_then(|(_, rows)| Some((*rows.get(&grant.index)?, is_filled_in(rows))));
        let moved = counted.netdev.is_some_and(|netdev| netdev.rx_packets + netdev.tx_packets > 0);
        let supported = match row {
            Some((_, any)) if any => Some(true),
            Some(_) if moved => Some(false),
            _ => None,
        };
        let row = row.filter(|_| supported == Some(true) && counted.reading.is_some());
        // What its last tenants had is not this one's.
        let since = row.and_then(|(row, _)| Some(row.since(&grant.counters?)));
        VfReport {
            pf: pf.map(|(link, _)| link.name.clone()),
            vf: grant.index,
            pci_address: endpoint
                .hardware
                .as_deref()
                .and_then(|hardware| hardware.strip_prefix("pci/"))
                .map(str::to_owned),
            supported,
            counters: since.map(VfValues::from).unwrap_or_default(),
        }
    }
}

/// Whether any row of a PF is.
fn is_filled_in(rows: &BTreeMap<u32, Stats>) -> bool {
    rows.values().any(|row| *row != Stats::default())
}

#[cfg(test)]
mod tests {
    use driver_common::{Counters, Rx, Tx};

    use super::*;
    use crate::{
        counters::Hook,
        device::{link::Parent, vf::VfSettings},
    };

    const PF: &str = "0000:01:00.0";
    const READING: Reading = Reading {
        counters: Counters { rx: Rx { packets: 0, bytes: 0 }, tx: Tx { packets: 0, bytes: 0, spoofed: 0 } },
        detailed: None,
        rx_hook: Hook::Tcx,
        tx_hook: Hook::Tcx,
        ifindex: Some(7),
    };

    fn frames(rx_packets: u64) -> Stats {
        Stats { rx_packets, rx_bytes: 100 * rx_packets, tx_dropped: 1, ..Stats::default() }
    }

    fn report(rows: &[(u32, Stats)], netdev: Option<Stats>) -> VfReport {
        report_of(rows, &Counted { netdev, reading: Some(READING) })
    }

    fn report_of(rows: &[(u32, Stats)], counted: &Counted) -> VfReport {
        report_since(Some(frames(10)), rows, counted)
    }

    fn report_since(counters: Option<Stats>, rows: &[(u32, Stats)], counted: &Counted) -> VfReport {
        let parent = Parent { bus: "pci".into(), device: PF.into() };
        let link = Link { name: "ens2f0".into(), parent: Some(parent), ..Link::default() };
        let grant =
            VfGrant { pf: link.hardware().unwrap(), index: 3, original: VfSettings::default(), counters };
        let endpoint = serde_json::from_value::<Endpoint>(serde_json::json!({
            "original": {
                "name": "ens2f0v3", "mac": null, "mtu": 1500, "up": false, "alias": "",
                "flags": {"promisc": false, "allmulti": false, "arp": true, "multicast": true},
            },
            "ifindex": 7,
            "hardware": "pci/0000:01:10.6",
            "created": 0,
        }));
        let hardware = Hardware { pfs: vec![(link, rows.iter().copied().collect())] };
        hardware.vf(&endpoint.unwrap(), &grant, counted)
    }

    #[test]
    fn rows_that_are_filled_in_count_from_the_beginning() {
        let said = report(&[(2, frames(1)), (3, frames(42))], Some(frames(30)));
        let json = serde_json::to_value(&said).unwrap();
        let wanted = serde_json::json!({
            "pf": "ens2f0", "vf": 3, "pciAddr": "0000:01:10.6", "supported": true,
            "rx_packets": 32, "rx_bytes": 3200, "rx_dropped": 0,
            "tx_packets": 0, "tx_bytes": 0, "tx_dropped": 0,
        });
        assert_eq!(json, wanted);
        // A driver that counts others' frames counts this one's: it has none yet.
        let silent = report(&[(2, frames(1)), (3, frames(10))], Some(Stats::default()));
        assert_eq!((silent.supported, silent.counters.rx_packets), (Some(true), Some(0)));
    }

    #[test]
    fn what_an_endpoint_that_is_over_had_is_not_told() {
        let over = report_of(&[(3, frames(42))], &Counted::default());
        assert_eq!((over.vf, over.counters.rx_packets), (3, None));
    }

    #[test]
    fn what_could_not_be_read_at_the_start_is_no_zero() {
        let counted = Counted { netdev: Some(frames(30)), reading: Some(READING) };
        let unknown = report_since(None, &[(3, frames(42))], &counted);
        assert_eq!((unknown.supported, unknown.counters.rx_packets), (Some(true), None));
    }

    #[test]
    fn rows_of_zeros_are_no_counters() {
        let zeros = [(2, Stats::default()), (3, Stats::default())];
        let moved = report(&zeros, Some(frames(5)));
        assert_eq!((moved.supported, moved.counters.rx_packets), (Some(false), None));
        // Nobody has sent anything yet: nothing tells.
        let idle = report(&zeros, Some(Stats::default()));
        assert_eq!((idle.supported, idle.counters.rx_packets), (None, None));
        let gone = report(&[(2, frames(1))], Some(frames(5)));
        assert_eq!((gone.supported, gone.counters.rx_packets), (None, None));
    }
}
