//! What one scrape is about: gathered in one pass, within bounds.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::labels::{self, Labels, Text};
use crate::{
    counters::SpoofCheck,
    network::{Driver, pool::Pool, spoof_check, upkeep::Action},
    report::{self, EndpointReport, Report},
    state::{EndpointId, NetworkId, State},
};

/// How long netdevs and PFs may be asked. Our own counters and the state need nobody's answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// All that is told.
#[derive(Debug)]
pub struct Snapshot {
    /// The driver's name.
    pub driver: String,
    /// Networks, by their labels.
    pub networks: Vec<Labels>,
    /// Endpoints.
    pub endpoints: Vec<Row>,
    /// PFs with their VFs.
    pub pools: Vec<Pool>,
    /// What the driver has done unasked, and how often it failed.
    pub upkeep: Vec<(Action, u64, u64)>,
    /// Whether everybody answered in time.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
}

/// An endpoint.
#[derive(Debug)]
pub struct Row {
    /// Whose series they are.
    pub labels: Text,
    /// Its figures.
    pub report: EndpointReport,
    /// What is done about foreign source MACs; none if nobody remembers the endpoint.
    pub spoof_check: Option<SpoofCheck>,
    /// Whether its netdev is reserved and could not be given back.
    pub in_limbo: bool,
}

/// Asks everybody.
pub async fn collect(driver: &Driver) -> report::Result<Snapshot> {
    let begun = Instant::now();
    let until = begun + PATIENCE;
    // In this order: a new endpoint is remembered before it is counted.
    let reader = driver.reader();
    let pinned = reader.endpoints();
    let state = driver.state();
    let report = Report::remembered(Arc::clone(&state));
    let pools = tokio::time::timeout_at(until.into(), driver.pools()).await;
    let endpoints = report.endpoints(&reader, pinned, until).await?;
    let complete = matches!(pools, Ok(Ok(_))) && Instant::now() < until;
    Ok(Snapshot {
        driver: driver.name().to_owned(),
        networks: state.networks.iter().map(|(id, network)| labels::network(id, network)).collect(),
        endpoints: endpoints.into_iter().map(|report| row(driver, &state, report)).collect(),
        pools: pools.ok().and_then(Result::ok).unwrap_or_default(),
        upkeep: driver.upkeep().tallies().collect(),
        complete,
        took: begun.elapsed(),
    })
}

fn row(driver: &Driver, state: &State, report: EndpointReport) -> Row {
    let find = |network: &NetworkId, id: &EndpointId| {
        let network = &**state.networks.get(network)?;
        Some((network, &**network.endpoints.get(id)?))
    };
    let remembered = report.network_id.as_ref().and_then(|network| find(network, &report.endpoint_id));
    Row {
        labels: Text::from(&labels::endpoint(&report, remembered)),
        spoof_check: remembered.map(|(network, endpoint)| spoof_check(&network.options, endpoint)),
        in_limbo: driver.upkeep().is_in_limbo(&report.endpoint_id),
        report,
    }
}
