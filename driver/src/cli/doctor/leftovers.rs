//! What containers left: devices that are not given back, counters that nobody remembers, refused defaults.
use std::time::{Duration, SystemTime};

use super::{Finding, Global, Patient, error, ok, warning};
use crate::{
    counters,
    device::Rtnl,
    docker::Docker,
    report::Report,
    state::{Endpoint, EndpointId, NetworkId, State, store},
};

/// An engine that has just asked for an endpoint may not list it yet.
const FRESH: Duration = Duration::from_mins(1);

/// A VF or a veth that went with its container's namespace, or by the hand of somebody else.
const DESTROYED: &str = "the netdev no longer exists";
const UNKNOWN: &str = "the engine has no such endpoint";

pub async fn checks(patient: &Patient) -> Vec<Finding> {
    let state = patient.remembered();
    let mut findings = limbo(patient).await;
    findings.extend(refused(&state));
    match known(patient) {
        Ok(known) => {
            findings.extend(pins(patient, &known));
            findings.extend(strays(patient, &known).await);
        }
        Err(failure) => findings.push(warning(
            "leftovers",
            format!("pins and tags are not looked at: {failure}"),
            "mend that first: nobody else knows whose they are",
        )),
    }
    if findings.is_empty() {
        findings.push(ok("leftovers", "none"));
    }
    findings
}

/// Endpoints whose container is over, and whose netdev is reserved all the same.
async fn limbo(patient: &Patient) -> Vec<Finding> {
    let global = &patient.global;
    let Ok(report) = Report::new(&global.state_dir, &global.docker_host).await else { return Vec::new() };
    let mut findings = Vec::new();
    for (network, _, id, endpoint) in report.state.endpoints() {
        let Some(reason) = over(patient, &report, network, id, endpoint) else { continue };
        if reason == UNKNOWN && is_known(global, network, id).await {
            continue;
        }
        let found = format!("{} is reserved for endpoint {}: {reason}", endpoint.netdevice(), id.short());
        let mend = match patient.answers {
            Ok(()) if reason == DESTROYED => "its counters are kept for as long as Docker has it: docker rm",
            Ok(()) => "the driver tries every 10 s to give it back, and logs why it can't",
            Err(_) => "start the driver: it brings the netdev home",
        };
        findings.push(error("limbo", found, mend));
    }
    findings
}

/// Whether the engine has the endpoint, also of a container that does not run.
async fn is_known(global: &Global, network: &NetworkId, id: &EndpointId) -> bool {
    let Ok(docker) = Docker::new(&global.docker_host) else { return true };
    // Only where it has the network can it tell.
    docker.network(network).await.ok().flatten().is_none_or(|network| network.containers.contains_key(id))
}

fn over(
    patient: &Patient,
    report: &Report,
    network: &NetworkId,
    id: &EndpointId,
    endpoint: &Endpoint,
) -> Option<&'static str> {
    let age = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let fresh = age.saturating_sub(Duration::from_secs(endpoint.created)) < FRESH;
    let reading = counters::read(&patient.global.bpffs, id);
    if reading.is_ok_and(|reading| reading.ifindex == Some(0)) {
        return Some(DESTROYED);
    }
    if endpoint.sandbox.as_ref().is_some_and(|path| !path.exists()) {
        return Some("its container's namespace is gone");
    }
    if !fresh && report.network_name(network).is_some() && report.container(network, id).is_none() {
        return Some(UNKNOWN);
    }
    None
}

/// Defaults that a VF's hardware does not take.
fn refused(state: &State) -> Vec<Finding> {
    let warnings = state.endpoints().flat_map(|(.., id, endpoint)| {
        let who = endpoint.container.clone().unwrap_or_else(|| format!("endpoint {}", id.short()));
        endpoint.warnings.iter().map(move |text| (who.clone(), text))
    });
    let mend = "ask for what the hardware can do: -o spoofchk=off, -o trust=off; or for newer firmware";
    warnings.map(|(who, text)| warning("refused default", format!("{who}: {text}"), mend)).collect()
}

/// What the driver that is looked at remembers, and the engine's managed plugins, whose pins are in the same place.
fn known(patient: &Patient) -> Result<Vec<State>, String> {
    let own = patient.state.as_ref().map_err(ToString::to_string)?;
    let managed = patient.engine.iter().flat_map(|engine| &engine.managed);
    let states = managed.map(|plugin| store::read(&plugin.state_dir).map_err(|failure| failure.to_string()));
    std::iter::once(Ok(own.clone())).chain(states).collect()
}

/// Counters of endpoints that nobody remembers.
fn pins(patient: &Patient, known: &[State]) -> Vec<Finding> {
    let bpffs = &patient.global.bpffs;
    let ids = match counters::endpoints(bpffs) {
        Ok(ids) => ids,
        Err(failure) => return vec![error("pins", failure.to_string(), "run this as root")],
    };
    let unknown = ids.into_iter().filter(|id| !known.iter().any(|state| state.knows(id)));
    unknown
        .map(|id| {
            let folder = bpffs.join(id.as_str());
            let netdev = match counters::read(bpffs, &id) {
                Ok(reading) if reading.ifindex != Some(0) => "its netdev exists",
                Ok(_) => "its netdev no longer exists",
                Err(_) => "incomplete",
            };
            let found = format!("{}: an endpoint that nobody remembers; {netdev}", folder.display());
            warning(
                "stale pins",
                found,
                format!("restart the driver; if it stays: rm -r {}", folder.display()),
            )
        })
        .collect()
}

/// Netdevs on the host with our tag, of endpoints that nobody remembers.
async fn strays(patient: &Patient, known: &[State]) -> Vec<Finding> {
    let Ok(rtnl) = Rtnl::new() else { return Vec::new() };
    let links = rtnl.links().await.unwrap_or_default();
    let tag = format!("docker-passthrough {} ", patient.global.name);
    let strays = links.into_iter().filter_map(|link| {
        let id: EndpointId = link.alias.strip_prefix(&tag)?.split(' ').next()?.parse().ok()?;
        (!known.iter().any(|state| state.knows(&id))).then(|| {
            let found =
                format!("{} carries the tag of endpoint {}, which nobody remembers", link.name, id.short());
            warning("stray netdev", found, "restart the driver: it makes the netdev usable again")
        })
    });
    strays.collect()
}
