//! Reading: a few calls on what is pinned, with or without a driver that runs.
use std::{os::fd::AsFd, path::Path};

use driver_common::{Counters, Rx, Tx};
use nix::libc;

use super::{Error, Hook, Result, kernel, kernel::AttachType, pins::Pins, tcx};
use crate::state::id::EndpointId;

/// An endpoint's counters and where they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Since the counters were attached, over all CPUs.
    pub counters: Counters,
    /// Where received frames are counted.
    pub rx_hook: Hook,
    /// Where sent frames are counted.
    pub tx_hook: Hook,
    /// The netdev's index in the namespace where it is now; 0 once it is destroyed.
    pub ifindex: u32,
}

/// Reads an endpoint's counters.
pub fn read(bpffs: &Path, endpoint: &EndpointId) -> Result<Reading> {
    let pins = Pins::new(bpffs, endpoint);
    let failed = |source| Error::Read { endpoint: endpoint.clone(), source };
    let map = pins.counters()?;
    let value_size = kernel::map_info(map.as_fd()).map_err(failed)?.value_size;
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| failed(source))?;
    let words = kernel::first_entry(map.as_fd(), value_size, cpus).map_err(failed)?;
    let (rx, tx) = (pins.rx()?.at, pins.tx()?.at);
    Ok(Reading {
        counters: sum(&words, value_size.div_ceil(8) as usize),
        rx_hook: rx.to.into(),
        tx_hook: tx.to.into(),
        ifindex: tx.ifindex,
    })
}

/// Adds up the CPUs' entries of `entry` words each. Another version's may be shorter or longer: fields are
/// only ever added at the end.
fn sum(words: &[u64], entry: usize) -> Counters {
    let field = |index: usize| {
        let cpus = words.chunks_exact(entry.max(1));
        cpus.filter_map(|cpu| cpu.get(index)).fold(0_u64, |sum, &value| sum.wrapping_add(value))
    };
    Counters {
        rx: Rx { packets: field(0), bytes: field(1) },
        tx: Tx { packets: field(2), bytes: field(3), spoofed: field(4) },
    }
}

/// Whether the netdev `ifindex` of the calling thread's network namespace is the one that this endpoint's
/// counters are attached to. Names, aliases and MACs can be changed in a container; this can't.
pub fn is_attached(bpffs: &Path, endpoint: &EndpointId, ifindex: u32) -> Result<bool> {
    let link = Pins::new(bpffs, endpoint).tx()?.at;
    if link.ifindex != ifindex || ifindex == 0 {
        return Ok(false);
    }
    match tcx::chain(ifindex, AttachType::TcxEgress) {
        Ok(chain) => Ok(chain.iter().any(|chained| chained.link == link.link_id)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(source) => Err(Error::Read { endpoint: endpoint.clone(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_added_up() {
        let counters = sum(&[1, 100, 2, 200, 3, 10, 1000, 20, 2000, 30], 5);
        assert_eq!(counters.rx, Rx { packets: 11, bytes: 1100 });
        assert_eq!(counters.tx, Tx { packets: 22, bytes: 2200, spoofed: 33 });
    }

    #[test]
    fn other_versions_entries_are_read_as_far_as_known() {
        let shorter = sum(&[1, 2, 3, 4, 10, 20, 30, 40], 4);
        assert_eq!(shorter.tx, Tx { packets: 33, bytes: 44, spoofed: 0 });
        let longer = sum(&[1, 2, 3, 4, 5, 99, 10, 20, 30, 40, 50, 990], 6);
        assert_eq!(longer.rx, Rx { packets: 11, bytes: 22 });
        assert_eq!(longer.tx, Tx { packets: 33, bytes: 44, spoofed: 55 });
        assert_eq!(sum(&[], 0), Counters::default());
    }
}
