//! Which tests there are, and what each of them needs.
use std::fmt;

use clap::ValueEnum;

use crate::vm::Kernel;

/// Tests that are run together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Suite {
    /// Inside the crates; needs neither root nor a network
    Unit,
    /// The real binary, spoken to as an engine would
    Protocol,
    /// A driver that dies, fails or hangs between any two steps
    Faults,
    /// Much at a time, often, and in any order, as `protocol`
    Load,
    /// The counters against generators' own figures
    Counting,
    /// The real binary under real engines, the installed one and those of other Debian releases
    Engine,
    /// The Debian package, installed, upgraded and purged; the plugin under Swarm; has the next two run too
    Package,
    /// The image and, under Swarm, the plugin, on VFs in a guest
    PackageSriov,
    /// The Debian package under systemd and udev, with the engine of the machine and VFs, in a guest
    PackageSystemd,
    /// The real binary, a real engine and SR-IOV VFs, in a guest
    Sriov,
    /// The core of that, and counting by clsact, on Linux 6.1, which has no TCX
    #[value(name = "sriov-6.1")]
    SriovBeforeTcx,
    /// A driver that dies and fails between any two steps of handing out VFs, PFs and bonds, in a guest
    SriovWalks,
}

impl Suite {
    /// The kernel of the guest that it runs in, if it runs in one.
    pub fn kernel(self) -> Option<Kernel> {
        match self {
            Self::Sriov | Self::PackageSriov | Self::PackageSystemd | Self::SriovWalks => Some(Kernel::Own),
            Self::SriovBeforeTcx => Some(Kernel::Bookworm),
            Self::Unit
            | Self::Protocol
            | Self::Faults
            | Self::Load
            | Self::Counting
            | Self::Engine
            | Self::Package => None,
        }
    }

    /// Into how many parts its test program can be told to divide it, for a guest each.
    pub fn parts(self) -> u8 {
        if self == Self::Sriov { 2 } else { 1 }
    }

    /// The part of its test program that is its own.
    pub fn own_part(self) -> Option<&'static str> {
        match self {
            Self::SriovWalks => Some("walks"),
            Self::PackageSystemd => Some("systemd"),
            _ => None,
        }
    }

    /// Whether its driver has fault points, which do nothing until a test names a folder to look into.
    pub fn has_fault_points(self) -> bool {
        matches!(self, Self::Faults | Self::SriovWalks)
    }

    /// Whether it is about the package.
    pub fn is_packed(self) -> bool {
        matches!(self, Self::Package | Self::PackageSriov | Self::PackageSystemd)
    }

    /// The name of its test program.
    pub fn target(self) -> String {
        match self {
            Self::SriovBeforeTcx | Self::PackageSriov | Self::PackageSystemd | Self::SriovWalks => {
                Self::Sriov.to_string()
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}
