//! The process: what it may do, and whether it sees the containers' namespaces.
use std::{fs, io};

use super::{Finding, Patient, error, ok, warning};
use crate::{
    counters,
    device::netns::{self, NetNs},
    state::Endpoint,
};

/// Numbers of capabilities (include/uapi/linux/capability.h), and what they are needed for.
const NEEDED: [(u32, &str, &str); 2] = [
    (12, "NET_ADMIN", "netdevs are moved and configured"),
    (21, "SYS_ADMIN", "namespaces are entered, BPF programs are pinned"),
];
const HELPFUL: [(u32, &str, &str); 2] = [
    (19, "SYS_PTRACE", "netdevs are found in namespaces that only a process holds"),
    (11, "NET_BROADCAST", "counters that a container takes off come back at once"),
];

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    vec![capabilities(patient.holder), namespaces(patient)]
}

/// The driver's if it runs, else ours.
fn capabilities(driver: Option<i32>) -> Finding {
    let (whose, status) = match driver {
        Some(pid) => (format!("the driver, process {pid},"), format!("/proc/{pid}/status")),
        None => ("this process".into(), "/proc/self/status".into()),
    };
    let text = match fs::read_to_string(&status) {
        Ok(text) => text,
        Err(failure) => return error("capabilities", format!("{status}: {failure}"), "run this as root"),
    };
    judge(&whose, effective(&text), counters::has_tcx())
}

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Where there is TCX, no container takes counters off.
fn judge(whose: &str, effective: u64, has_tcx: bool) -> Finding {
    let helpful = if has_tcx { &HELPFUL[..1] } else { &HELPFUL };
    let missing = |of: &[(u32, &str, &str)]| {
        let missing = of.iter().filter(|(number, ..)| effective & 1 << number == 0);
        missing.map(|(_, name, purpose)| format!("{name} ({purpose})")).collect::<Vec<_>>().join(", ")
    };
    let mend = "run it as root, with AmbientCapabilities or cap_add for what is missing";
    match (missing(&NEEDED), missing(helpful)) {
        (needed, _) if !needed.is_empty() => error("capabilities", format!("{whose} lacks {needed}"), mend),
        (_, helpful) if !helpful.is_empty() => {
            warning("capabilities", format!("{whose} lacks {helpful}"), mend)
        }
        _ => ok("capabilities", format!("{whose} has all it needs")),
    }
}

/// Those of remembered containers must open; others should be seen.
fn namespaces(patient: &Patient) -> Finding {
    let state = patient.remembered();
    let closed = state.endpoints().filter_map(|(.., endpoint)| closed(endpoint)).collect::<Vec<_>>();
    let mend = "run this, and the driver, in the host's PID and mount namespaces; in a container: --pid=host \
                and -v /run/docker:/run/docker:rslave";
    if !closed.is_empty() {
        return error("namespaces", closed.join("; "), mend);
    }
    let seen = match NetNs::current() {
        Ok(ours) => netns::others(&ours).count(),
        Err(failure) => return error("namespaces", failure.to_string(), "mount -t proc proc /proc"),
    };
    let running = patient.engine.as_ref().map_or(0, |engine| engine.running);
    if seen == 0 && running > 0 {
        return error("namespaces", format!("{running} containers run, and no namespace is seen"), mend);
    }
    ok("namespaces", format!("{seen} beside this one"))
}

/// Why a container's namespace can't be opened, unless it has ended.
fn closed(endpoint: &Endpoint) -> Option<String> {
    let path = endpoint.sandbox.as_deref()?;
    let failure = NetNs::open(path).err().filter(|failure| failure.kind() != io::ErrorKind::NotFound)?;
    Some(format!("{}: {failure}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn capabilities_are_read_by_number() {
        let all = effective("Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n");
        assert_eq!(judge("it", all, false).status, Status::Ok);
        let less = judge("it", all & !(1 << 12), true);
        assert_eq!(less.status, Status::Error);
        assert!(less.found.contains("NET_ADMIN") && !less.found.contains("SYS_ADMIN"), "{less:?}");
        assert_eq!(judge("it", all & !(1 << 19), true).status, Status::Warning);
        let deaf = all & !(1 << 11);
        assert_eq!([true, false].map(|tcx| judge("it", deaf, tcx).status), [Status::Ok, Status::Warning]);
        assert_eq!(judge("it", effective(""), true).status, Status::Error);
    }
}
