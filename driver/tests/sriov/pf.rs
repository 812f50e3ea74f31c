//! A PF as its administrator handles it: sysfs, and `ip link set PF vf N`.
use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::support::{
    command, eventually,
    look::{Look, Place, text},
};

/// A PF of this machine.
pub struct Pf {
    pub name: String,
    folder: PathBuf,
}

impl Pf {
    /// All that there are.
    pub fn all() -> Vec<Self> {
        let names = crate::support::driver::entries(&PathBuf::from("/sys/class/net"));
        let pfs = names.into_iter().filter_map(|name| {
            let folder = fs::canonicalize(format!("/sys/class/net/{name}/device")).ok()?;
            folder.join("sriov_totalvfs").exists().then_some(Self { name, folder })
        });
        pfs.collect()
    }

    fn number(&self, file: &str) -> u32 {
        let path = self.folder.join(file);
        let number = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        number.trim().parse().expect("a number")
    }

    /// How many VFs it could have.
    pub fn total(&self) -> u32 {
        self.number("sriov_totalvfs")
    }

    /// How many it has.
    pub fn count(&self) -> u32 {
        self.number("sriov_numvfs")
    }

    /// Makes or takes away VFs, and waits for their netdevs.
    #[track_caller]
    pub fn set_count(&self, count: u32) {
        fs::write(self.folder.join("sriov_numvfs"), count.to_string()).expect("sriov_numvfs");
        if self.is_probing() {
            self.await_netdevs();
        }
    }

    /// Takes all VFs away, whatever comes of it.
    pub fn give_up(&self) {
        self.probe(true);
        let _ = fs::write(self.folder.join("sriov_numvfs"), "0");
    }

    /// Waits until each VF has a netdev.
    #[track_caller]
    pub fn await_netdevs(&self) {
        for vf in 0..self.count() {
            eventually("the VF's netdev", || self.netdev(vf).ok_or_else(|| format!("VF {vf} has none")));
        }
    }

    /// Waits until each VF but one, which a container has, has a netdev.
    #[track_caller]
    pub fn await_netdevs_but(&self, away: u32) {
        for vf in (0..self.count()).filter(|&vf| vf != away) {
            eventually("the VF's netdev", || self.netdev(vf).ok_or_else(|| format!("VF {vf} has none")));
        }
    }

    /// Whether the kernel binds a driver to new VFs.
    pub fn is_probing(&self) -> bool {
        self.number("sriov_drivers_autoprobe") == 1
    }

    /// Has the kernel bind a driver to new VFs, or not.
    #[track_caller]
    pub fn probe(&self, automatically: bool) {
        let value = if automatically { "1" } else { "0" };
        fs::write(self.folder.join("sriov_drivers_autoprobe"), value).expect("sriov_drivers_autoprobe");
    }

    /// Brings it up, and waits for a carrier: without one the hardware takes no rates.
    #[track_caller]
    pub fn raise(&self) {
        command::ip(&format!("link set {} up", self.name));
        eventually("the PF has a carrier", || {
            let carrier = fs::read_to_string(format!("/sys/class/net/{}/carrier", self.name));
            if carrier.as_deref().is_ok_and(|carrier| carrier.trim() == "1") {
                Ok(())
            } else {
                Err(format!("{carrier:?}"))
            }
        });
    }

    /// The PCI address of a VF.
    #[track_caller]
    pub fn address(&self, vf: u32) -> String {
        let link = self.folder.join(format!("virtfn{vf}")).read_link();
        let link = link.unwrap_or_else(|e| panic!("VF {vf}: {e}"));
        link.file_name().expect("an address").to_string_lossy().into_owned()
    }

    /// The name of a VF's netdev, if the host has that.
    pub fn netdev(&self, vf: u32) -> Option<String> {
        crate::support::driver::entries(&self.folder.join(format!("virtfn{vf}/net"))).pop()
    }

    /// The number of the VF that has this netdev.
    #[track_caller]
    pub fn vf_of(&self, netdev: &str) -> u32 {
        let found = (0..self.count()).find(|&vf| self.netdev(vf).as_deref() == Some(netdev));
        found.unwrap_or_else(|| panic!("{netdev} is no VF of {}", self.name))
    }

    /// Unbinds a VF from its kernel driver.
    #[track_caller]
    pub fn unbind(&self, vf: u32) {
        let path = self.folder.join(format!("virtfn{vf}/driver/unbind"));
        fs::write(path, self.address(vf)).expect("unbinding a VF");
    }

    /// Has its own kernel driver let go of it, as when it is unplugged: its netdev and its VFs go.
    #[track_caller]
    pub fn lose(&self) -> Lost<'_> {
        let driver = fs::canonicalize(self.folder.join("driver")).expect("the PF's driver");
        let address = self.folder.file_name().expect("an address").to_string_lossy().into_owned();
        fs::write(driver.join("unbind"), &address).expect("unbinding the PF");
        Lost { pf: self, driver, address }
    }

    /// The kernel driver of a VF.
    pub fn driver(&self, vf: u32) -> Option<String> {
        let driver = self.folder.join(format!("virtfn{vf}/driver")).read_link().ok()?;
        Some(driver.file_name()?.to_string_lossy().into_owned())
    }

    /// `ip link set PF vf N …`
    #[track_caller]
    pub fn set(&self, vf: u32, what: &str) {
        command::ip(&format!("link set {} vf {vf} {what}", self.name));
    }

    /// Gives a VF an address of the administrator's, and has its netdev take it over.
    #[track_caller]
    pub fn give_mac(&self, vf: u32, mac: &str) {
        self.set(vf, &format!("mac {mac}"));
        // It does when it goes down; until then it has neither this nor that.
        let netdev = self.netdev(vf).expect("a netdev");
        command::ip(&format!("link set {netdev} up"));
        command::ip(&format!("link set {netdev} down"));
    }

    /// A VF as the PF has it: a row of `ip -d -j link show`.
    #[track_caller]
    pub fn row(&self, vf: u32) -> Value {
        let index = usize::try_from(vf).expect("a number");
        self.rows().get(index).cloned().unwrap_or_else(|| panic!("{} has no VF {vf}", self.name))
    }

    /// All its VFs, as it has them.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        let answer = command::ip(&format!("-d -j link show dev {}", self.name));
        let links: Vec<Value> = serde_json::from_str(&answer).expect("what `ip -j` says");
        let mut rows = links[0]["vfinfo_list"].as_array().cloned().unwrap_or_default();
        for row in &mut rows {
            row.as_object_mut().expect("a row").remove("stats");
        }
        rows
    }

    /// How the host sees the PF itself.
    #[track_caller]
    pub fn look(&self) -> Look {
        Look::at(&Place::Host, &self.name).unwrap_or_else(|| panic!("no {}", self.name))
    }
}

/// A PF that is not there; it is again when this goes out of scope.
pub struct Lost<'a> {
    pf: &'a Pf,
    driver: PathBuf,
    address: String,
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        fs::write(self.driver.join("bind"), &self.address).expect("binding the PF");
        let folder = self.pf.folder.join("net").join(&self.pf.name);
        eventually("the PF has its name again", || {
            if folder.exists() { Ok(()) } else { Err(format!("no {}", folder.display())) }
        });
    }
}

/// The MAC in a row.
pub fn row_mac(row: &Value) -> String {
    text(&row["mac"]).max(text(&row["address"]))
}
