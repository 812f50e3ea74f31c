//! The kernel: what it has of what the counters stand on.
use std::{fs, io, path::Path};

use aya::util::KernelVersion;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Finding, Patient, error, ok, warning};
use crate::counters;

/// The oldest kernel that containers start on.
const OLDEST: KernelVersion = KernelVersion::new(6, 1, 0);
const LOOPBACK: u32 = 1;
const STANDARD: &str = "/sys/fs/bpf";

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    vec![version(), btf(), tcx(), bpffs(&patient.global.bpffs)]
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn version() -> Finding {
    let found = format!("Linux {}", release());
    match KernelVersion::current() {
        Ok(version) if version < OLDEST => error("kernel", found, "Linux 6.6 or newer; 6.1 with clsact"),
        _ => ok("kernel", found),
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return ok("btf", "present");
    }
    warning(
        "btf",
        "/sys/kernel/btf/vmlinux is missing",
        "a kernel with CONFIG_DEBUG_INFO_BTF, as distributions have it",
    )
}

/// Asks for the programs at the loopback's TCX hook: a kernel without it does not know the question.
fn tcx() -> Finding {
    match counters::tcx_ids(LOOPBACK) {
        Ok(_) => ok("tcx", "present"),
        Err(counters::Error::Query { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
            warning(
                "tcx",
                format!("not in Linux {}: frames are counted by clsact", release()),
                "Linux 6.6 or newer: clsact's filters can be removed by containers with NET_ADMIN",
            )
        }
        Err(failure) => error("tcx", format!("could not be asked for: {failure}"), "run this as root"),
    }
}

/// The folder need not be there yet; its file system has to.
fn bpffs(folder: &Path) -> Finding {
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match statfs(existing).map(|found| found.filesystem_type()) {
        Ok(BPF_FS_MAGIC) if existing == folder => ok("bpffs", folder.display().to_string()),
        Ok(BPF_FS_MAGIC) => ok("bpffs", format!("mounted; serve makes {}", folder.display())),
        Ok(_) if folder.starts_with(STANDARD) && Path::new(STANDARD).is_dir() => warning(
            "bpffs",
            format!("no BPF file system on {STANDARD}"),
            format!("serve mounts one; by hand: mount -t bpf bpf {STANDARD}"),
        ),
        Ok(_) => error(
            "bpffs",
            format!("{}: not on a BPF file system", folder.display()),
            format!("mount -t bpf bpf {}, or a --bpffs below {STANDARD}", existing.display()),
        ),
        Err(errno) => error("bpffs", format!("{}: {errno}", existing.display()), "run this as root"),
    }
}
