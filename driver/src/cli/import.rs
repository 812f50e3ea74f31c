//! `import`: takes over the networks of the original docker-passthrough-plugin.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    Global, block_on,
    original::{self, Config, Found},
    stats::print,
    table,
};
use crate::{
    counters::Counters,
    docker::{Docker, NetworkNames},
    network::{Driver, caller::Caller},
    state::{self, Network, NetworkId, Store},
};

/// Take over the networks of Mellanox's docker-passthrough-plugin or docker-sriov-plugin.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --apply it only shows what it would do. Each network is checked against Docker, which remembers the
options that were typed, and against the hardware. The original's files stay as they are. Stop the original
and the containers on its networks first; `serve` must not run while --apply works.

Examples:
  docker-passthrough import
  docker-passthrough import --apply
  docker-passthrough --name sriov import /etc/docker/mellanox/docker-sriov-plugin --apply

Exit codes: 0 all can be or are taken over, 1 some can't, 2 wrong usage.")]
pub struct Import {
    /// Folder of the original's networks [default: those below /etc/docker/mellanox]
    dir: Option<PathBuf>,
    /// Take them over, instead of showing what would be done
    #[arg(long)]
    apply: bool,
    /// Also netdevs that carry addresses or routes of the host, or other netdevs: the option force=1
    #[arg(long)]
    force: bool,
    /// A JSON array
    #[arg(long)]
    json: bool,
}

/// What is, or will be, of one network. The names are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// It can be taken over.
    Ready,
    /// It was taken over.
    Imported,
    /// It had been before.
    Known,
    /// Docker has no such network.
    Gone,
    /// It can't be taken over as it is.
    Refused,
    /// Its file can't be read.
    Damaged,
}

/// One network. The field names are a contract.
#[derive(Debug, Serialize)]
struct Row {
    file: PathBuf,
    network_id: Option<NetworkId>,
    network: Option<String>,
    mode: Option<String>,
    netdevice: Option<String>,
    vlan: Option<u16>,
    gateways: Vec<String>,
    status: Status,
    /// Why it is not taken over.
    reason: Option<String>,
    /// What was left out or decided on the way.
    notes: Vec<String>,
}

impl Import {
    pub fn run(self, global: &Global) -> anyhow::Result<()> {
        let found = self.found()?;
        let rows = block_on(self.judge(global, found))?;
        if self.json {
            print(&(serde_json::to_string_pretty(&rows)? + "\n"))?;
        } else {
            print(&text(&rows))?;
        }
        let left = rows.iter().filter(|row| matches!(row.status, Status::Refused | Status::Damaged)).count();
        ensure!(left == 0, "{left} of {} networks can't be taken over", rows.len());
        Ok(())
    }

    fn found(&self) -> anyhow::Result<Vec<Found>> {
        if let Some(dir) = &self.dir {
            return original::networks(dir);
        }
        let folders: Vec<_> =
            original::FOLDERS.into_iter().filter(|folder| Path::new(folder).is_dir()).collect();
        if folders.is_empty() {
            bail!(
                "neither {} is here: name the folder that has the original's networks",
                original::FOLDERS.join(" nor ")
            );
        }
        let found = folders.into_iter().map(|folder| original::networks(Path::new(folder)));
        Ok(found.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    async fn judge(&self, global: &Global, found: Vec<Found>) -> anyhow::Result<Vec<Row>> {
        let store = if self.apply {
            Store::open(&global.state_dir).map_err(|error| match error {
                state::Error::Locked { .. } => anyhow::anyhow!(
                    "{}: the driver runs: stop it, import, start it again; nothing was changed",
                    global.state_dir.display()
                ),
                other => other.into(),
            })?
        } else {
            Store::rehearsal(&global.state_dir)?
        };
        let docker = Docker::new(&global.docker_host)?;
        // Nobody asks for names here: they come with what Docker is asked anyway.
        let (renamed, _) = mpsc::channel(1);
        let counters = Counters::new(global.bpffs.clone());
        let driver =
            Driver::new(global.name.clone(), store, counters, renamed).context("looking at the host")?;
        let mut rows = Vec::new();
        for Found { file, config } in found {
            let mut row = Row::of(file);
            match config {
                Ok((id, config)) => self.one(&driver, &docker, global, &id, &config, &mut row).await,
                Err(reason) => row.end(Status::Damaged, reason),
            }
            rows.push(row);
        }
        Ok(rows)
    }

    async fn one(
        &self,
        driver: &Driver,
        docker: &Docker,
        global: &Global,
        id: &NetworkId,
        config: &Config,
        row: &mut Row,
    ) {
        row.network_id = Some(id.clone());
        row.netdevice = Some(config.netdevice.clone());
        row.mode = Some(config.mode.clone()).filter(|mode| !mode.is_empty());
        if let Some(known) = driver.state().networks.get(id) {
            row.network.clone_from(&known.name);
            row.describe(known);
            row.status = Status::Known;
            return;
        }
        let known = match docker.network_config(id).await {
            Ok(Some(known)) => known,
            Ok(None) => {
                return row
                    .end(Status::Gone, "Docker has no such network any more; there is nothing to take over");
            }
            Err(error) => return row.end(Status::Refused, error.to_string()),
        };
        row.network = Some(known.name.clone());
        if known.driver != global.name {
            let reason = format!(
                "its driver is called {0}, this one {1}: run import, and serve, with --name {0}",
                known.driver, global.name
            );
            return row.end(Status::Refused, reason);
        }
        let users = known.users();
        if !users.is_empty() {
            let reason = format!("is in use by {}; stop what runs on it first", users.join(", "));
            return row.end(Status::Refused, reason);
        }
        let (request, notes) = config.request(id, &known, self.force);
        row.notes = notes;
        let done = if self.apply {
            driver.create_network(&request, &Caller::default()).await
        } else {
            driver.rehearse_network(&request).await.map(drop)
        };
        if let Err(error) = done {
            return row.end(Status::Refused, error.to_string());
        }
        // A comfort, as everywhere.
        let _ = driver.remember_names(id, NetworkNames { name: known.name, ..NetworkNames::default() }).await;
        if let Some(network) = driver.state().networks.get(id) {
            row.describe(network);
        }
        row.status = if self.apply { Status::Imported } else { Status::Ready };
    }
}

impl Row {
    fn of(file: PathBuf) -> Self {
        Self {
            file,
            network_id: None,
            network: None,
            mode: None,
            netdevice: None,
            vlan: None,
            gateways: Vec::new(),
            status: Status::Ready,
            reason: None,
            notes: Vec::new(),
        }
    }

    fn end(&mut self, status: Status, reason: impl Into<String>) {
        self.status = status;
        self.reason = Some(reason.into());
    }

    fn describe(&mut self, network: &Network) {
        self.mode = Some(network.mode.to_string());
        self.netdevice = Some(network.options.netdevice.clone());
        self.vlan = Some(network.options.vf.vlan.id);
        self.gateways = network.gateways.iter().map(ToString::to_string).collect();
    }
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "The original has left no networks.\n".into();
    }
    let mut table = table::new(&["NETWORK", "MODE", "NETDEVICE", "VLAN", "GATEWAY", "STATUS"], [3]);
    let mut remarks = String::new();
    for row in rows {
        let id = row.network_id.as_ref().map(NetworkId::short);
        let name = row.network.as_deref().or(id).unwrap_or("?");
        let cell = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
        let status = serde_json::to_value(row.status).ok();
        table.add_row([
            name.to_owned(),
            cell(row.mode.clone()),
            cell(row.netdevice.clone()),
            cell(row.vlan.map(|vlan| vlan.to_string())),
            cell(Some(row.gateways.join(" "))),
            cell(status.and_then(|status| status.as_str().map(str::to_owned))),
        ]);
        let remark = |text: &String| format!("{}: {text}\n", row.file.display());
        remarks.extend(row.notes.iter().chain(&row.reason).map(remark));
    }
    let ready = rows.iter().filter(|row| row.status == Status::Ready).count();
    let next = match ready {
        0 => "",
        _ => "\nNothing was changed. With --apply those that are ready are taken over.\n",
    };
    let gap = if remarks.is_empty() { "" } else { "\n" };
    format!("{}{gap}{remarks}{next}", table::text(&table))
}
