//! SR-IOV as sysfs has it: which netdev is a PF, what its VFs are, how they are made and bound to a driver
//! (Documentation/ABI/testing/sysfs-bus-pci). Paths go by PCI address, as names and ifindexes change.
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{Link, link::Parent};
use crate::fault;

/// Kernel drivers of PFs, and those of their VFs where these are other ones.
const VF_DRIVERS: [(&str, &str); 5] =
    [("igb", "igbvf"), ("ixgbe", "ixgbevf"), ("i40e", "iavf"), ("ice", "iavf"), ("fm10k", "fm10k")];

/// A VF of a PF, by what PCI says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vf {
    /// Its number, from 0.
    pub index: u32,
    /// Its PCI address, `0000:01:10.0`.
    pub address: String,
    /// The kernel driver that is bound to it, if any.
    pub driver: Option<String>,
}

impl Vf {
    /// As [`Link::hardware`] has it.
    pub fn hardware(&self) -> String {
        format!("pci/{}", self.address)
    }
}

/// Binds a VF to this kernel driver, also where the administrator has switched off that new VFs are. Blocks
/// while the driver probes.
pub fn bind(address: &str, driver: &str) -> io::Result<()> {
    let wanted = parent(address).sysfs().join("driver_override");
    fs::write(&wanted, driver)?;
    fault::step!("vf.driver_wanted");
    let probed: io::Result<()> = (|| {
        fs::write("/sys/bus/pci/drivers_probe", address)?;
        fault::step!("vf.probed");
        Ok(())
    })();
    // A line feed takes the wish back: whoever unbinds it later shall find it as it was.
    fs::write(&wanted, "\n")?;
    probed?;
    // The write succeeds even if the probe failed.
    bound_to(address, driver)
}

/// Whether it is this kernel driver that has the device.
fn bound_to(address: &str, wanted: &str) -> io::Result<()> {
    let bound = driver(address).unwrap_or_else(|| "no driver".into());
    if bound == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("{address} is bound to {bound}, not to {wanted}")))
}

/// How long it is tried to bind a VF again: its driver's probe fails while the PF resets.
const RETRY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);

/// Unbinds a VF from its driver and binds it again, for a fresh netdev; more than once if need be, as without
/// a driver it would have none. Blocks.
pub fn rebind(address: &str) -> io::Result<()> {
    let Some(wanted) = driver(address) else {
        return Err(io::Error::other(format!("{address} has no driver")));
    };
    fs::write(parent(address).sysfs().join("driver/unbind"), address)?;
    let bind = || {
        fault::step!("vf.unbound");
        bind(address, &wanted)
    };
    let begun = Instant::now();
    loop {
        match bind() {
            Err(error) if begun.elapsed() < RETRY => tracing::warn!(vf = address, %error, "binding it again"),
            outcome => return outcome,
        }
        std::thread::sleep(PAUSE);
        // Whoever was faster.
        if driver(address).is_some() {
            return bound_to(address, &wanted);
        }
    }
}

/// The kernel driver that has the device at this PCI address, if any.
pub fn driver(address: &str) -> Option<String> {
    parent(address).driver()
}

fn parent(address: &str) -> Parent {
    Parent { bus: "pci".into(), device: address.to_owned() }
}

/// The PF's VFs in the order of their numbers; empty if it has none, or is no PF.
pub fn vfs(pf: &Link) -> Vec<Vf> {
    let Some(pci) = pci(pf) else { return Vec::new() };
    let folder = pci.sysfs();
    (0..number(&folder.join("sriov_numvfs")))
        .filter_map(|index| {
            let target = folder.join(format!("virtfn{index}")).read_link().ok()?;
            let address = target.file_name()?.to_str()?.to_owned();
            let driver = driver(&address);
            Some(Vf { index, address, driver })
        })
        .collect()
}

/// Whether the PF of this [hardware](Link::hardware) has a VF of this number.
pub fn has_vf(pf: &str, index: u32) -> bool {
    Parent::of(pf).is_some_and(|pf| pf.sysfs().join(format!("virtfn{index}")).exists())
}

/// What tells a PF's VFs from others that it is given later: the inode that their first has in sysfs, which no other
/// gets in this boot (`__kernfs_new_node`, fs/kernfs/dir.c).
pub fn birth_of_vfs(pf: &Link) -> Option<u64> {
    Some(fs::metadata(pci(pf)?.sysfs().join("virtfn0")).ok()?.ino())
}

/// How many VFs the hardware could have; 0 if the netdev is no PF.
pub fn total_vfs(link: &Link) -> u32 {
    pci(link).map_or(0, |parent| number(&parent.sysfs().join("sriov_totalvfs")))
}

/// Makes `count` VFs; 0 takes all of them away, also those that are in containers. Blocks, for seconds.
pub fn set_vfs(pf: &Link, count: u32) -> io::Result<()> {
    let Some(parent) = pci(pf) else {
        return Err(io::Error::other(format!("{} is no PCI netdev", pf.name)));
    };
    fault::step!("vfs.setting");
    fs::write(parent.sysfs().join("sriov_numvfs"), count.to_string())?;
    fault::step!("vfs.set");
    Ok(())
}

/// The kernel driver that a VF of this PF gets: that of its siblings, else the one that goes with the PF's.
pub fn vf_driver(pf: &Link, vfs: &[Vf]) -> Option<String> {
    let sibling = vfs.iter().filter_map(|vf| vf.driver.clone()).find(|driver| !is_userspace(driver));
    sibling.or_else(|| {
        let driver = pf.driver()?;
        let other = VF_DRIVERS.iter().find(|(pf, _)| *pf == driver).map(|(_, vf)| (*vf).to_owned());
        Some(other.unwrap_or(driver))
    })
}

/// Drivers that hand the VF to a program or a guest instead of making a netdev.
pub fn is_userspace(driver: &str) -> bool {
    matches!(driver, "vfio-pci" | "uio_pci_generic" | "igb_uio" | "pci-stub")
        || driver.ends_with("-vfio-pci")
        || driver.ends_with("_vfio_pci")
}

/// Whether udev, where it runs, is done with a new netdev: until then it may rename it.
pub fn udev_is_done(ifindex: u32) -> bool {
    !Path::new("/run/udev/control").exists() || Path::new(&format!("/run/udev/data/n{ifindex}")).exists()
}

fn pci(link: &Link) -> Option<&Parent> {
    link.parent.as_ref().filter(|parent| parent.bus == "pci")
}

fn number(path: &Path) -> u32 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
