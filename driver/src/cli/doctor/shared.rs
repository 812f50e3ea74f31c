//! What the driver has to share with the engine's host: that of a driver in a container shares what its
//! `docker run` says, and no more.
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Finding, Patient, error, ok, warning};
use crate::docker::PLUGINS;

/// Where engines keep their containers' namespaces.
const SANDBOXES: &str = "/run/docker/netns";

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    let (driver, engine) = sides(patient);
    let network = network(driver, engine);
    if !contained(patient) {
        return network.into_iter().collect();
    }
    let findings = [
        network,
        processes(driver, patient),
        sockets(driver, engine),
        sandboxes(driver, patient),
        state(driver, patient),
        pins(driver, engine, patient),
        sysfs(driver),
    ];
    let mut findings: Vec<_> = findings.into_iter().flatten().collect();
    if findings.is_empty() {
        findings.push(ok("shared", "namespaces, sockets, state, pins and /sys are the host's"));
    }
    findings
}

/// Whether the driver's files are others than the engine's.
pub fn contained(patient: &Patient) -> bool {
    let (driver, engine) = sides(patient);
    match engine {
        Some(engine) => driver.file("/") != engine.file("/"),
        // Docker makes it in each container.
        None => driver.file("/.dockerenv").is_some(),
    }
}

/// The driver's process if it runs, else ours; and the engine's, if it can be looked into.
fn sides(patient: &Patient) -> (Process, Option<Process>) {
    let engine = patient.engine_process.map(|pid| Process(Some(pid)));
    (Process(patient.holder), engine.filter(|engine| engine.file("/").is_some()))
}

/// A process by its number; this one has none.
#[derive(Clone, Copy)]
struct Process(Option<i32>);

impl Process {
    fn proc(self, file: &str) -> String {
        self.0.map_or_else(|| format!("/proc/self/{file}"), |pid| format!("/proc/{pid}/{file}"))
    }

    /// The namespace of a kind that it is in.
    fn namespace(self, kind: &str) -> Option<u64> {
        fs::metadata(self.proc(&format!("ns/{kind}"))).ok().map(|namespace| namespace.ino())
    }

    /// What it has at an absolute path, by file system and number.
    fn file(self, path: &str) -> Option<(u64, u64)> {
        fs::metadata(self.proc(&format!("root{path}"))).ok().map(|file| (file.dev(), file.ino()))
    }

    /// The mount that it has a path on.
    fn mount(self, path: &Path) -> Option<Mount> {
        let mounts = fs::read_to_string(self.proc("mountinfo")).ok()?;
        let mut mounts: Vec<_> = mounts.lines().filter_map(Mount::parse).collect();
        mounts.retain(|mount| path.starts_with(&mount.point));
        // Of several on one point the last is on top.
        mounts.into_iter().max_by_key(|mount| mount.point.components().count())
    }
}

/// A line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    read_only: bool,
    /// Whether what is mounted on the host below it later is mounted here, too.
    follows: bool,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').skip(4);
        let (point, options) = (words.next()?, words.next()?);
        let mut peers = words.take_while(|word| *word != "-");
        Some(Self {
            point: point.replace("\\040", " ").into(),
            read_only: options.split(',').any(|option| option == "ro"),
            follows: peers.any(|peer| peer.starts_with("shared:") || peer.starts_with("master:")),
        })
    }

    /// Whether it is the container's own.
    fn is_root(&self) -> bool {
        self.point == Path::new("/")
    }
}

fn network(driver: Process, engine: Option<Process>) -> Option<Finding> {
    let (own, engines) = (driver.namespace("net")?, engine?.namespace("net")?);
    (own != engines).then(|| {
        error(
            "shared network",
            "the driver is in another network namespace than the engine, and does not see its netdevs",
            "in a container: --net=host",
        )
    })
}

fn processes(driver: Process, patient: &Patient) -> Option<Finding> {
    let apart = match patient.engine_process {
        Some(engine) => driver.namespace("pid")? != Process(Some(engine)).namespace("pid")?,
        // It answers, and has no number here.
        None => patient.engine.is_ok(),
    };
    apart.then(|| {
        warning(
            "shared processes",
            "the driver does not see the host's processes: netdevs in namespaces that containers have made \
             themselves are not found",
            "--pid=host",
        )
    })
}

/// The engine looks for the driver's socket there.
fn sockets(driver: Process, engine: Option<Process>) -> Option<Finding> {
    let own = driver.file(PLUGINS);
    let same = match engine {
        Some(engine) => own.is_some() && engines_folders(engine).any(|folder| engine.file(&folder) == own),
        None => driver.mount(Path::new(PLUGINS)).is_some_and(|mount| !mount.is_root()),
    };
    (!same).then(|| {
        error(
            "shared sockets",
            format!("{PLUGINS} is the container's own: the engine does not find the driver there"),
            "-v /run/docker:/run/docker:rslave",
        )
    })
}

/// A managed plugin has a folder of its own for its socket, below that of all.
fn engines_folders(engine: Process) -> impl Iterator<Item = String> {
    let below = fs::read_dir(engine.proc(&format!("root{PLUGINS}"))).into_iter().flatten().flatten();
    let below = below.filter_map(|entry| entry.file_name().into_string().ok());
    std::iter::once(PLUGINS.to_owned()).chain(below.map(|name| format!("{PLUGINS}/{name}")))
}

/// The engine mounts its containers' namespaces there, also after the driver has started.
fn sandboxes(driver: Process, patient: &Patient) -> Option<Finding> {
    let state = patient.remembered();
    let mut known = state.endpoints().filter_map(|(.., endpoint)| endpoint.sandbox.as_deref()?.parent());
    let folder = known.next().unwrap_or(Path::new(SANDBOXES)).to_owned();
    let what = match driver.mount(&folder) {
        Some(mount) if !mount.is_root() && mount.follows => return None,
        Some(mount) if !mount.is_root() => "does not follow what is mounted on the host later",
        _ => "is the container's own",
    };
    let above = folder.parent().unwrap_or(&folder).display();
    Some(error(
        "shared namespaces",
        format!("{} {what}: namespaces of containers are not found", folder.display()),
        format!("-v {above}:{above}:rslave"),
    ))
}

fn state(driver: Process, patient: &Patient) -> Option<Finding> {
    if patient.managed().is_some() {
        // The engine keeps a plugin's, and the host has it elsewhere than the plugin.
        return None;
    }
    let folder = patient.global.state_dir.display();
    driver.mount(&patient.global.state_dir)?.is_root().then(|| {
        error(
            "shared state",
            format!("{folder} is the container's own: what is remembered is lost with it"),
            format!("-v {folder}:{folder}"),
        )
    })
}

/// A BPF file system of the container's own ends with it.
fn pins(driver: Process, engine: Option<Process>, patient: &Patient) -> Option<Finding> {
    let existing = patient.global.bpffs.ancestors().filter_map(Path::to_str).find_map(|folder| {
        let (system, _) = driver.file(folder)?;
        Some((folder.to_owned(), system))
    });
    let (folder, own) = existing?;
    let (hosts, _) = engine?.file(&folder)?;
    (own != hosts).then(|| {
        warning(
            "shared pins",
            format!("{folder} is on a file system of the container's own: its counters end with it"),
            "-v /sys:/sys",
        )
    })
}

fn sysfs(driver: Process) -> Option<Finding> {
    driver
        .mount(Path::new("/sys/class/net"))?
        .read_only
        .then(|| warning("shared sysfs", "/sys can only be read: VFs can't be made or bound", "-v /sys:/sys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_as_the_kernel_lists_them() {
        let bound = "1203 1190 0:26 /docker /run/docker rw,nosuid master:5 - tmpfs tmpfs rw,mode=755";
        let bound = Mount::parse(bound).unwrap();
        assert_eq!(bound, Mount { point: "/run/docker".into(), read_only: false, follows: true });
        let root = "1190 900 0:60 / / ro,relatime - overlay overlay rw,lowerdir=shared:1";
        let root = Mount::parse(root).unwrap();
        assert!(root.is_root() && root.read_only && !root.follows, "{root:?}");
        assert_eq!(Mount::parse("1190 900 0:60 /"), None);
    }

    #[test]
    fn a_path_is_on_the_innermost_mount() {
        let ours = Process(None);
        assert_eq!(ours.mount(Path::new("/proc/self/nowhere")).unwrap().point, Path::new("/proc"));
        assert!(ours.mount(Path::new("/no-such-folder")).unwrap().is_root());
    }
}
