//! An endpoint's map, as large as what is counted: the programs can do with either.
//!
//! aya makes each map as the object has it, and the object has both: so the one that is wanted is made and
//! pinned here, and aya finds it in the place of either.
use std::{error::Error as StdError, os::fd::AsFd, os::fd::OwnedFd, path::Path};

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
    object: Object,
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
        Ok(Self { object, btf })
    }

    /// What `.rodata` is with these constants, as [`kernel::Identity`] has it.
    pub fn constants(&self, values: &[(&str, &[u32])]) -> Result<Option<Vec<u64>>> {
        let bytes: Vec<(_, Vec<u8>)> = values
            .iter()
            .map(|(name, words)| (*name, words.iter().flat_map(|word| word.to_ne_bytes()).collect()))
            .collect();
        let mut object = self.object.clone();
        object
            .patch_map_data(bytes.iter().map(|(name, bytes)| (*name, (bytes.as_slice(), true))).collect())?;
        let rodata = object.maps.iter().find(|(name, _)| name.starts_with(".rodata"));
        Ok(rodata.map(|(_, map)| {
            let words = map.data().chunks(size_of::<u64>()).map(|chunk| {
                let mut word = [0; size_of::<u64>()];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            });
            words.collect()
        }))
    }

    /// Makes a map for what is to be counted, pinned at `path`.
    pub fn create(&self, counted: CounterSet, path: &Path) -> Result<()> {
        let name = match counted {
            CounterSet::Basic => BASIC,
            CounterSet::Detailed => DETAILED,
        };
        let declared = self.object.maps.get(name).ok_or_else(|| format!("no map {name}"))?;
        let map = MapData::create(declared.clone(), NAME, self.btf.as_ref().map(AsFd::as_fd))?;
        Ok(map.pin(path)?)
    }
}
