//! The programs' object: read once, loaded for each endpoint with maps and constants of its own.
//!
//! aya's loader would read the object and the kernel's types anew for each endpoint, and keep the latter: 18 ms
//! and 14 MB, for relocations that these programs have none of. Its parser does all that is hard.
use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use aya::maps::MapData;
use aya_obj::{
    EbpfSectionKind, Map, Object, ProgramSection,
    generated::{BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, bpf_insn},
};
use driver_common::Constants;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{
    kernel::{self, Tag},
    program::{NewProgram, ProgramType},
};
use crate::state::model::CounterSet;

/// What the endpoint's map is called in the kernel, whatever it counts.
const NAME: &str = "counters";

/// The same in the object, which has one for each.
fn name_of_map(counted: CounterSet) -> &'static str {
    match counted {
        CounterSet::Basic => "counters",
        CounterSet::Detailed => "counters_detailed",
    }
}

/// `BPF_LD | BPF_IMM | BPF_DW`.
const LOAD_ADDRESS: u8 = 0x18;

type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

/// What is left of an object once it is read.
pub(super) struct Programs {
    maps: Vec<DeclaredMap>,
    /// The names and types of the maps' fields, in the kernel.
    btf: Option<OwnedFd>,
    code: HashMap<String, Code>,
}

/// A map as the object declares it.
struct DeclaredMap {
    name: String,
    map: Map,
    /// It is made already: nobody writes to it, so all endpoints' programs share it.
    constant: Option<OwnedFd>,
}

/// A program, with the functions that it calls.
struct Code {
    kind: ProgramType,
    license: CString,
    /// Where they refer to a map it is by its number in `Programs::maps`.
    instructions: Vec<bpf_insn>,
    /// Each of its functions: the first instruction, and the type, for its name.
    functions: Vec<u8>,
    function_size: usize,
}

/// Maps that an endpoint's programs work on, by their numbers.
pub(super) struct Maps(Vec<OwnedFd>);

impl DeclaredMap {
    fn new(name: String, map: Map, btf: Option<&OwnedFd>) -> Result<Self> {
        let constant = if map.section_kind() == EbpfSectionKind::Rodata {
            let made = MapData::create(map.clone(), &name, btf.map(AsFd::as_fd))?;
            kernel::set_for_good(made.fd().as_fd(), map.data())?;
            Some(made.fd().as_fd().try_clone_to_owned()?)
        } else {
            None
        };
        Ok(Self { name, map, constant })
    }
}

impl Programs {
    /// Reads an object, and has the kernel read its types.
    pub fn of(object: &[u8]) -> Result<Self> {
        let mut object = Object::parse(object)?;
        let features = aya::features();
        let btf = match features.btf() {
            Some(features) => object.fixup_and_sanitize_btf(features)?,
            None => None,
        };
        let btf = btf.map(|btf| kernel::load_btf(&btf.to_bytes())).transpose()?;
        let maps: Vec<_> = object.maps.drain().collect();
        let texts: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        let numbered = maps.iter().zip(0..).map(|((name, map), number): (_, RawFd)| (&**name, number, map));
        object.relocate_maps(numbered, &texts)?;
        object.relocate_calls(&texts)?;
        object.sanitize_functions(features);
        let maps = maps.into_iter().map(|(name, map)| DeclaredMap::new(name, map, btf.as_ref()));
        let maps = maps.collect::<Result<_>>()?;
        let mut programs = HashMap::new();
        for (name, program) in &object.programs {
            let kind = match program.section {
                ProgramSection::Xdp { frags, .. } => ProgramType::Xdp { frags },
                ProgramSection::SchedClassifier => ProgramType::Classifier,
                _ => return Err(format!("{name}: neither XDP nor a classifier").into()),
            };
            let function =
                object.functions.get(&program.function_key()).ok_or_else(|| format!("{name}: no code"))?;
            let code = Code {
                kind,
                license: program.license.clone(),
                instructions: function.instructions.clone(),
                functions: function.func_info.func_info_bytes(),
                function_size: function.func_info_rec_size,
            };
            programs.insert(name.clone(), code);
        }
        Ok(Self { maps, btf, code: programs })
    }

    /// Makes a map for what is to be counted.
    pub fn counters(&self, counted: CounterSet) -> Result<MapData> {
        let name = name_of_map(counted);
        let declared =
            self.maps.iter().find(|map| map.name == name).ok_or_else(|| format!("no map {name}"))?;
        Ok(MapData::create(declared.map.clone(), NAME, self.btf())?)
    }

    /// The maps of an endpoint's programs: `counters` for what is counted, and what else there is made for it.
    pub fn maps(&self, counters: BorrowedFd<'_>) -> Result<Maps> {
        let own = [CounterSet::Basic, CounterSet::Detailed].map(name_of_map);
        let mut maps = Vec::with_capacity(self.maps.len());
        for DeclaredMap { name, map, constant } in &self.maps {
            maps.push(match constant {
                _ if own.contains(&&**name) => counters.try_clone_to_owned()?,
                Some(constant) => constant.try_clone()?,
                None => MapData::create(map.clone(), name, self.btf())?.fd().as_fd().try_clone_to_owned()?,
            });
        }
        Ok(Maps(maps))
    }

    /// The tags that the kernel gives the program (`bpf_prog_calc_tag` in `kernel/bpf/core.c`): the beginning of
    /// the SHA-1 of its instructions, without the maps in them; since Linux 6.18 of their SHA-256.
    pub fn tags(&self, name: &str, constants: Constants) -> Result<[Tag; 2]> {
        let code = self.code(name)?;
        let mut bytes = Vec::with_capacity(code.instructions.len() * size_of::<bpf_insn>());
        // The second half of an address has no opcode.
        let mut of_map = false;
        for instruction in &code.instructions {
            let second = of_map && instruction.code == 0;
            of_map = refers_to_map(*instruction);
            let immediate =
                if second || of_map { 0 } else { constants.fill(instruction.code, instruction.imm) };
            bytes.extend([instruction.code, instruction.src_reg() << 4 | instruction.dst_reg()]);
            bytes.extend(instruction.off.to_ne_bytes());
            bytes.extend(immediate.to_ne_bytes());
        }
        let tag = |hash: &[u8]| -> Result<Tag> { Ok(hash[..size_of::<Tag>()].try_into()?) };
        Ok([tag(&Sha1::digest(&bytes))?, tag(&Sha256::digest(&bytes))?])
    }

    fn code(&self, name: &str) -> Result<&Code> {
        Ok(self.code.get(name).ok_or_else(|| format!("no program {name}"))?)
    }

    /// Loads one program.
    pub fn load(&self, name: &str, maps: &Maps, constants: Constants) -> Result<OwnedFd> {
        let code = self.code(name)?;
        let mut instructions = code.instructions.clone();
        for instruction in &mut instructions {
            if refers_to_map(*instruction) {
                let number = usize::try_from(instruction.imm)?;
                let map = maps.0.get(number).ok_or_else(|| format!("{name}: no map {number}"))?;
                instruction.imm = kernel::raw(map.as_fd()).try_into()?;
            } else {
                instruction.imm = constants.fill(instruction.code, instruction.imm);
            }
        }
        let program = NewProgram {
            name,
            kind: code.kind,
            license: &code.license,
            instructions: &instructions,
            btf: self.btf(),
            functions: &code.functions,
            function_size: code.function_size,
        };
        program.load().map_err(|(source, log)| -> Box<dyn StdError + Send + Sync> {
            if log.is_empty() { source.into() } else { io::Error::other(format!("{source}: {log}")).into() }
        })
    }

    fn btf(&self) -> Option<BorrowedFd<'_>> {
        self.btf.as_ref().map(AsFd::as_fd)
    }
}

/// Whether it is the first half of a map's address.
fn refers_to_map(instruction: bpf_insn) -> bool {
    let kind = u32::from(instruction.src_reg());
    instruction.code == LOAD_ADDRESS && [BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE].contains(&kind)
}
