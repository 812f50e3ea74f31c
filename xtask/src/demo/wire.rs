//! The netdev that the container gets, and what is at its far end.
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::busybox;
use crate::daemon::{Daemon, Scratch, Undo};
use crate::process::{self, command};
use crate::step::{say, wait_for};

/// A netdev of the host with something at its other end.
pub struct Wire {
    // In the order of the end: a namespace lives as long as something is in it.
    server: Option<Daemon>,
    undo: Vec<Undo>,
    netdevice: String,
    subnet: String,
    gateway: String,
    /// The far end's network namespace, if it is ours.
    far: Option<String>,
}

impl Wire {
    /// A netdev that is there. What is at its other end is the user's.
    pub fn real(netdevice: &str, subnet: Option<&str>, gateway: Option<&str>) -> Self {
        let subnet = subnet.unwrap_or("198.18.0.0/24").to_owned();
        let gateway = gateway.unwrap_or("198.18.0.1").to_owned();
        Self { server: None, undo: Vec::new(), netdevice: netdevice.into(), subnet, gateway, far: None }
    }

    /// A veth, whose other end is a host in a network namespace of its own.
    pub fn stand_in(id: &str, scratch: &Scratch) -> Result<Self> {
        let (netdevice, far) = (format!("nic-{id}"), format!("far-{id}"));
        // Of the range that is set aside for measurements.
        let third = id.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let network = format!("198.18.{}", third.with_context(|| format!("{id} is not hexadecimal"))?);
        let (subnet, gateway) = (format!("{network}.0/24"), format!("{network}.1"));
        say(&format!("Making a stand-in NIC, {netdevice}; at its far end is a host, {gateway}"));
        let mut wire =
            Self { server: None, undo: Vec::new(), netdevice, subnet, gateway, far: Some(far.clone()) };
        ip(&["netns", "add", &far])?;
        wire.undone_by(&["netns", "delete", &far]);
        ip(&["link", "add", &wire.netdevice, "type", "veth", "peer", "name", "eth0", "netns", &far])?;
        // By its far end, which stays where it is.
        wire.undone_by(&["-n", &far, "link", "delete", "eth0"]);
        ip(&["-n", &far, "address", "add", &format!("{}/24", wire.gateway), "dev", "eth0"])?;
        ip(&["-n", &far, "link", "set", "lo", "up"])?;
        ip(&["-n", &far, "link", "set", "eth0", "up"])?;
        wire.serve(scratch)?;
        Ok(wire)
    }

    fn serve(&mut self, scratch: &Scratch) -> Result<()> {
        let files = scratch.path().join("far");
        fs::create_dir(&files).with_context(|| format!("creating {}", files.display()))?;
        fs::write(files.join("data"), vec![b'.'; super::BULK]).context("writing the far end's file")?;
        let mut httpd = self.busybox(&["httpd", "-f", "-h"])?;
        httpd.arg(files);
        let log = scratch.path().join("httpd.log");
        self.server = Some(Daemon::start("the far end's httpd", &httpd, log, Duration::from_secs(1))?);
        Ok(())
    }

    fn undone_by(&mut self, arguments: &[&str]) {
        let mut ip = command("ip");
        ip.args(arguments);
        self.undo.insert(0, Undo::later(ip));
    }

    /// A busybox applet at the far end.
    pub fn busybox(&self, arguments: &[&str]) -> Result<Command> {
        let far = self.far.as_deref().context("the far end of a real netdevice is not ours")?;
        let mut nsenter = command("nsenter");
        nsenter.arg(format!("--net=/run/netns/{far}"));
        nsenter.arg(busybox::ensure()?).args(arguments);
        Ok(nsenter)
    }

    /// The netdev's name on the host.
    pub fn netdevice(&self) -> &str {
        &self.netdevice
    }

    /// The subnet at the far end.
    pub fn subnet(&self) -> &str {
        &self.subnet
    }

    /// The host at the far end.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Whether the netdev is a real one, and its far end the user's.
    pub fn is_real(&self) -> bool {
        self.far.is_none()
    }

    /// Waits until the host has the netdev again.
    pub fn wait_until_back(&self) -> Result<()> {
        let what = format!("the host to have {} again", self.netdevice);
        wait_for(&what, Duration::from_secs(10), || Ok(exists(&self.netdevice)))
    }
}

/// An error if this host has no such netdev.
pub fn must_exist(netdevice: &str) -> Result<()> {
    ensure!(
        exists(netdevice),
        "--netdevice {netdevice}: this host has no such netdev; `ip link` lists those it has"
    );
    Ok(())
}

fn exists(netdevice: &str) -> bool {
    Path::new("/sys/class/net").join(netdevice).exists()
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::text(command("ip").args(arguments)).map(drop)
}
