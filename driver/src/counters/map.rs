//! An endpoint's map, as large as what is counted: the programs can do with either.
//!
//! aya makes each map as the object has it, and the object has both: so the one that is wanted is made and
//! pinned here, and aya finds it in the place of either.
use std::{collections::HashMap, error::Error as StdError, os::fd::AsFd, os::fd::OwnedFd, path::Path};

use aya::maps::MapData;
use aya_obj::Object;
use driver_common::{Counters, DetailedCounters};

use super::kernel;
use crate::state::model::CounterSet;

/// What the map is called in the kernel, whatever it counts.
const NAME: &str = "counters";

/// The maps' names in the object.
pub(super) const IN_OBJECT: [&str; 2] = [BASIC, DETAILED];
const BASIC: &str = "counters";
const DETAILED: &str = "counters_detailed";

/// Bytes of its entry.
pub(super) fn value_size(counted: CounterSet) -> usize {
    match counted {
        CounterSet::Basic => size_of::<Counters>(),
        CounterSet::Detailed => size_of::<DetailedCounters>(),
    }
}

type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

/// How the object declares its maps.
pub(super) struct Maps {
    declared: HashMap<String, aya_obj::Map>,
    /// The names and types of their fields, in the kernel.
    btf: Option<OwnedFd>,
}

impl Maps {
    /// Reads an object, and has the kernel read its types.
    pub fn of(object: &[u8]) -> Result<Self> {
        let mut object = Object::parse(object)?;
        let btf = match aya::features().btf() {
            Some(features) => object.fixup_and_sanitize_btf(features)?,
            None => None,
        };
        let btf = btf.map(|btf| kernel::load_btf(&btf.to_bytes())).transpose()?;
        Ok(Self { declared: object.maps, btf })
    }

    /// Makes a map for what is to be counted, pinned at `path`.
    pub fn create(&self, counted: CounterSet, path: &Path) -> Result<()> {
        let name = match counted {
            CounterSet::Basic => BASIC,
            CounterSet::Detailed => DETAILED,
        };
        let declared = self.declared.get(name).ok_or_else(|| format!("no map {name}"))?;
        let map = MapData::create(declared.clone(), NAME, self.btf.as_ref().map(AsFd::as_fd))?;
        Ok(map.pin(path)?)
    }
}
