//! Netdevs and PFs: what the kernel says that they can do, and who has the VFs.
use std::collections::BTreeSet;

use super::{Finding, Patient, error, ok, warning};
use crate::{
    device::{
        Link, Rtnl,
        features::{XdpFeatures, xdp_features},
        pci,
    },
    report::{self, PfReport, Report, VfRow},
    state::{Mode, State},
};

/// As many netdevs are asked: a host with VFs may have hundreds, all alike.
const ASKED: usize = 32;

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    let (rtnl, links) = match links().await {
        Ok(found) => found,
        Err(failure) => return vec![error("netdevs", failure, "run this as root, on the host")],
    };
    let mut findings = xdp(patient, &links).await;
    findings.extend(pfs(patient, &rtnl, &links).await);
    findings.extend(absent(&patient.remembered(), &links));
    findings
}

async fn links() -> Result<(Rtnl, Vec<Link>), String> {
    let rtnl = Rtnl::new().map_err(|failure| failure.to_string())?;
    let links = rtnl.links().await.map_err(|failure| failure.to_string())?;
    Ok((rtnl, links))
}

/// Hardware, and what networks name; not the VFs, which are as many and as one.
async fn xdp(patient: &Patient, links: &[Link]) -> Vec<Finding> {
    let state = patient.remembered();
    let named: BTreeSet<&str> =
        state.networks.values().map(|network| network.options.netdevice.as_str()).collect();
    let is_hardware = |link: &Link| link.parent.as_ref().is_some_and(|parent| !parent.is_vf());
    let worth = links.iter().filter(|link| is_hardware(link) || named.contains(link.name.as_str()));
    let mut findings = Vec::new();
    for link in worth.take(ASKED) {
        let driver = link.driver().unwrap_or_else(|| "unknown driver".into());
        let check = format!("xdp {}", link.name);
        findings.push(match xdp_features(link.ifindex).await {
            Ok(Some(features)) => ok(check, able(features, &driver)),
            Ok(None) => ok(check, format!("not told by this kernel: Rx is counted in the stack ({driver})")),
            Err(failure) => warning(check, failure.to_string(), "received frames are counted by TCX"),
        });
    }
    if findings.is_empty() {
        let mend = "docker-passthrough hands out real NICs: see `ip -d link`";
        findings.push(warning("netdevs", "none with hardware behind it on this host", mend));
    }
    findings
}

/// Networks whose netdevice is neither on the host nor with a container of theirs.
fn absent(state: &State, links: &[Link]) -> Vec<Finding> {
    let is_here = |name: &String| links.iter().any(|link| link.name == *name || link.altnames.contains(name));
    let absent = state.networks.iter().filter(|(_, network)| {
        let netdevice = &network.options.netdevice;
        !is_here(netdevice) && !network.endpoints.values().any(|endpoint| endpoint.netdevice() == netdevice)
    });
    let mend = "plug it in, or bind its driver; if it is called otherwise now, make the network anew";
    let told = absent.map(|(id, network)| {
        error(
            network.title(id),
            format!("netdevice={}: no such netdev on this host", network.options.netdevice),
            mend,
        )
    });
    told.collect()
}

fn able(features: XdpFeatures, driver: &str) -> String {
    match (features.native(), features.multi_buffer()) {
        (true, true) => format!("native, jumbo frames too ({driver})"),
        (true, false) => format!("native ({driver})"),
        (false, _) => format!("not native: Rx is counted by TCX ({driver})"),
    }
}

async fn pfs(patient: &Patient, rtnl: &Rtnl, links: &[Link]) -> Vec<Finding> {
    let global = &patient.global;
    let Ok(report) = Report::new(&global.state_dir, &global.docker_host).await else {
        // What is wrong is said elsewhere.
        return Vec::new();
    };
    let mut findings = Vec::new();
    for link in links.iter().filter(|link| pci::total_vfs(link) > 0) {
        if let Some(pf) = report::pf(rtnl, links, &link.name, &report).await {
            let networks = report.state.networks.values();
            let used = networks
                .filter(|network| network.mode == Mode::Sriov && network.options.netdevice == link.name)
                .count();
            findings.push(judge(&pf, used));
        }
    }
    if findings.is_empty() {
        findings.push(ok("sriov", "no PF on this host: passthrough mode only"));
    }
    findings
}

/// A PF with `used` networks on it.
fn judge(pf: &PfReport, used: usize) -> Finding {
    let check = format!("pf {}", pf.netdevice);
    let held: Vec<String> = pf.vfs.iter().filter_map(held).collect();
    let holders = if held.is_empty() { String::new() } else { format!(" ({})", held.join(", ")) };
    let count = pf.vfs.len();
    let found = format!("{count} of {} VFs enabled, {} free{holders}", pf.total_vfs, count - held.len());
    if used > 0 && count == 0 {
        let mend = if pf.enabled_by_driver {
            "the next container's start enables them"
        } else {
            "they were made by hand: make them again, in sriov_numvfs in sysfs"
        };
        return warning(check, found, mend);
    }
    if used > 0 && held.len() == count {
        let mend = if count < usize::try_from(pf.total_vfs).unwrap_or(count) {
            "end a container; more VFs can be made only once all of them are taken away, and no container has one"
        } else {
            "end a container"
        };
        return warning(check, found, mend);
    }
    ok(check, found)
}

/// Who has the VF, unless it is free.
fn held(vf: &VfRow) -> Option<String> {
    let number = vf.vf;
    if let Some(container) = &vf.container {
        return Some(format!("{number}: {container}"));
    }
    if let Some(endpoint) = &vf.endpoint_id {
        return Some(format!("{number}: endpoint {}", endpoint.get(..12).unwrap_or(endpoint)));
    }
    match (&vf.driver, &vf.netdevice) {
        (Some(driver), _) if pci::is_userspace(driver) => Some(format!("{number}: {driver}")),
        (_, None) => Some(format!("{number}: not on the host")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    fn vf(vf: u32, container: Option<&str>, driver: &str, netdevice: Option<&str>) -> VfRow {
        VfRow {
            vf,
            pci_address: format!("0000:01:10.{vf}"),
            driver: Some(driver.into()),
            netdevice: netdevice.map(str::to_owned),
            endpoint_id: None,
            container: container.map(str::to_owned),
            settings: None,
        }
    }

    #[test]
    fn holders_are_named_and_an_empty_pool_is_a_warning() {
        let mut pf = PfReport {
            netdevice: "ens2f0".into(),
            pci_address: None,
            total_vfs: 7,
            enabled_by_driver: false,
            vfs: vec![
                vf(0, Some("web"), "igbvf", None),
                vf(1, None, "vfio-pci", None),
                vf(2, None, "igbvf", None),
                vf(3, None, "igbvf", Some("ens2f0v3")),
            ],
        };
        let finding = judge(&pf, 1);
        assert_eq!(finding.found, "4 of 7 VFs enabled, 1 free (0: web, 1: vfio-pci, 2: not on the host)");
        assert_eq!(finding.status, Status::Ok);
        pf.vfs.truncate(3);
        assert_eq!((judge(&pf, 1).status, judge(&pf, 0).status), (Status::Warning, Status::Ok));
        pf.vfs.clear();
        assert_eq!((judge(&pf, 1).status, judge(&pf, 0).status), (Status::Warning, Status::Ok));
    }
}
