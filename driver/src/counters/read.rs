//! Reading: a few calls on what is pinned, with or without a driver that runs.
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::LazyLock,
};

use driver_common::{Counters, Detailed, DetailedCounters, Rx, Tx};
use nix::libc;

use super::{
    Error, Hook, Result, kernel,
    kernel::AttachType,
    pins::{Pinned, Pins},
    tcx,
};
use crate::{
    device::clsact::{Direction, Filter},
    state::id::EndpointId,
};

/// An endpoint's counters and where they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Since the counters were attached, over all CPUs.
    pub counters: Counters,
    /// The same frames by class, where `counters=detailed`.
    pub detailed: Option<ByClass>,
    /// Where received frames are counted.
    pub rx_hook: Hook,
    /// Where sent frames are counted.
    pub tx_hook: Hook,
    /// The netdev's index in the namespace where it is now, 0 once it is destroyed; none if the counters
    /// are attached by clsact, which does not tell.
    pub ifindex: Option<u32>,
}

/// Frames by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByClass {
    /// Received.
    pub rx: Detailed,
    /// Sent.
    pub tx: Detailed,
}

/// An endpoint's pins, opened once for all that is asked of them.
pub struct Opened {
    endpoint: EndpointId,
    pins: Pins,
    rx: Pinned,
    tx: Pinned,
}

/// Opens an endpoint's pins.
pub fn open(bpffs: &Path, endpoint: &EndpointId) -> Result<Opened> {
    let pins = Pins::new(bpffs, endpoint);
    Ok(Opened { rx: pins.rx()?, tx: pins.tx()?, pins, endpoint: endpoint.clone() })
}

impl Opened {
    /// What is counted at this moment; the rest is as it was when the pins were opened. An error if the endpoint
    /// is over by then.
    pub fn read(&self) -> Result<Reading> {
        let failed = |source| Error::Read { endpoint: self.endpoint.clone(), source };
        let map = self.pins.counters()?;
        let value_size = kernel::map_info(map.as_fd()).map_err(failed)?.value_size;
        let (counters, detailed) = values(map.as_fd(), value_size).map_err(failed)?;
        // The map may be the next endpoint's meanwhile: first it is no longer this one's.
        let path = self.pins.counters_path();
        if !path.exists() {
            return Err(Error::NotCounted { endpoint: self.endpoint.clone(), path });
        }
        let (rx_hook, tx_hook) = (self.rx.hook(), self.tx.hook());
        Ok(Reading { counters, detailed, rx_hook, tx_hook, ifindex: self.tx.ifindex() })
    }

    /// What is pinned for Rx and for Tx.
    pub(super) fn sides(&self) -> (&Pinned, &Pinned) {
        (&self.rx, &self.tx)
    }

    /// See [`attached_here`].
    pub fn attached_here(&self) -> Result<Option<u32>> {
        here(&self.endpoint, &self.tx)
    }

    /// The program that a filter at the netdev's egress has, if there is no link.
    pub fn egress_filter(&self) -> Option<u32> {
        match self.tx {
            Pinned::Program { id, .. } => Some(id),
            Pinned::Link { .. } => None,
        }
    }
}

/// What a map has counted.
pub(super) fn values(map: BorrowedFd<'_>, value_size: u32) -> io::Result<(Counters, Option<ByClass>)> {
    let words = kernel::first_entry(map, value_size, cpus()?)?;
    Ok(sum(&words, value_size.div_ceil(8) as usize))
}

/// Reads an endpoint's counters.
pub fn read(bpffs: &Path, endpoint: &EndpointId) -> Result<Reading> {
    open(bpffs, endpoint)?.read()
}

/// How many CPUs there can ever be, which a map has entries for.
fn cpus() -> io::Result<usize> {
    static CPUS: LazyLock<Option<usize>> = LazyLock::new(|| aya::util::nr_cpus().ok());
    match *CPUS {
        Some(cpus) => Ok(cpus),
        // Whatever the reason was, it may be another by now.
        None => aya::util::nr_cpus().map_err(|(_, source)| source),
    }
}

/// Sets all counters of a map that nothing counts into to zero.
pub(super) fn zero(map: BorrowedFd<'_>, value_size: usize) -> io::Result<()> {
    kernel::set_first_entry(map, &vec![0; value_size.div_ceil(8) * cpus()?])
}

/// The filters that an endpoint's netdev is to have at its clsact qdisc: those of the sides that have no
/// link.
pub fn filters(bpffs: &Path, endpoint: &EndpointId) -> Result<Vec<Filter>> {
    let pins = Pins::new(bpffs, endpoint);
    let sides = [(Direction::Ingress, pins.rx()?), (Direction::Egress, pins.tx()?)];
    Ok(sides
        .into_iter()
        .filter_map(|(direction, pinned)| match pinned {
            Pinned::Program { fd, id } => Some(Filter { direction, program: fd, id }),
            Pinned::Link { .. } => None,
        })
        .collect())
}

/// Adds up the CPUs' entries of `entry` words each. Another version's may be shorter or longer: fields are
/// only ever added at the end.
fn sum(words: &[u64], entry: usize) -> (Counters, Option<ByClass>) {
    let mut index = 0;
    let mut next = || {
        let cpus = words.chunks_exact(entry.max(1));
        let sum = cpus.filter_map(|cpu| cpu.get(index)).fold(0_u64, |sum, &value| sum.wrapping_add(value));
        index += 1;
        sum
    };
    let counters = Counters {
        rx: Rx { packets: next(), bytes: next() },
        tx: Tx { packets: next(), bytes: next(), spoofed: next() },
    };
    let is_detailed = entry >= size_of::<DetailedCounters>() / size_of::<u64>();
    let detailed = is_detailed.then(|| ByClass { rx: classes(&mut next), tx: classes(&mut next) });
    (counters, detailed)
}

/// The words of a [`Detailed`], in its order.
fn classes(next: &mut impl FnMut() -> u64) -> Detailed {
    Detailed {
        unicast: next(),
        multicast: next(),
        broadcast: next(),
        ipv4: next(),
        ipv6: next(),
        arp: next(),
        other_ethertype: next(),
        tcp: next(),
        udp: next(),
        icmp: next(),
        vlan_tagged: next(),
        pkts_64_octets: next(),
        pkts_65_to_127_octets: next(),
        pkts_128_to_255_octets: next(),
        pkts_256_to_511_octets: next(),
        pkts_512_to_1023_octets: next(),
        pkts_1024_to_1518_octets: next(),
        pkts_1519_to_max_octets: next(),
    }
}

/// The ifindex of the netdev that this endpoint's counters are attached to by links, if it is in the calling
/// thread's network namespace. Names, aliases and MACs can be changed in a container; this can't.
pub fn attached_here(bpffs: &Path, endpoint: &EndpointId) -> Result<Option<u32>> {
    here(endpoint, &Pins::new(bpffs, endpoint).tx()?)
}

fn here(endpoint: &EndpointId, tx: &Pinned) -> Result<Option<u32>> {
    let Pinned::Link { at: link, .. } = tx else { return Ok(None) };
    if link.ifindex == 0 {
        return Ok(None);
    }
    match tcx::chain(link.ifindex, AttachType::TcxEgress) {
        Ok(chain) => Ok(chain.iter().any(|chained| chained.link == link.link_id).then_some(link.ifindex)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(Error::Read { endpoint: endpoint.clone(), source }),
    }
}

/// Whether it is the netdev `ifindex` there.
pub fn is_attached(bpffs: &Path, endpoint: &EndpointId, ifindex: u32) -> Result<bool> {
    Ok(attached_here(bpffs, endpoint)? == Some(ifindex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_added_up() {
        let (counters, detailed) = sum(&[1, 100, 2, 200, 3, 10, 1000, 20, 2000, 30], 5);
        assert_eq!(counters.rx, Rx { packets: 11, bytes: 1100 });
        assert_eq!(counters.tx, Tx { packets: 22, bytes: 2200, spoofed: 33 });
        assert_eq!(detailed, None);
    }

    #[test]
    fn other_versions_entries_are_read_as_far_as_known() {
        let (shorter, _) = sum(&[1, 2, 3, 4, 10, 20, 30, 40], 4);
        assert_eq!(shorter.tx, Tx { packets: 33, bytes: 44, spoofed: 0 });
        let (longer, detailed) = sum(&[1, 2, 3, 4, 5, 99, 10, 20, 30, 40, 50, 990], 6);
        assert_eq!(longer.rx, Rx { packets: 11, bytes: 22 });
        assert_eq!(longer.tx, Tx { packets: 33, bytes: 44, spoofed: 55 });
        assert_eq!(detailed, None);
        assert_eq!(sum(&[], 0), (Counters::default(), None));
    }

    #[test]
    fn detailed_entries_are_read_field_by_field() {
        const WORDS: usize = size_of::<DetailedCounters>() / 8;
        for entry in [WORDS, WORDS + 1] {
            let cpu: Vec<u64> = (1..).take(entry).collect();
            let mut expected = [0; WORDS];
            expected.copy_from_slice(&cpu[..WORDS]);
            // SAFETY: as long, and nothing but such words.
            let expected: DetailedCounters = unsafe { std::mem::transmute(expected.map(|word| 2 * word)) };
            let (counters, detailed) = sum(&[&cpu[..], &cpu].concat(), entry);
            let ByClass { rx: rx_detailed, tx: tx_detailed } = detailed.unwrap();
            let Counters { rx, tx } = counters;
            assert_eq!(DetailedCounters { rx, tx, rx_detailed, tx_detailed }, expected);
        }
    }
}
