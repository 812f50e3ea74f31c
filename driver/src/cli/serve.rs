//! `serve`: the driver.
use std::{
    collections::BTreeMap, num::NonZeroUsize, path::PathBuf, process::ExitCode, str::FromStr, sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, builder::BoolishValueParser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Global, heap,
    logging::{self, Filter, LogFormat},
    watchdog,
};
use crate::{
    counters::Counters,
    docker::{Docker, PLUGINS},
    http::{
        listener::{self, Listener},
        refusal::refuse_waiting,
    },
    metrics::{self, Recorder},
    network::Driver,
    plugin::{routes::Calls, server},
    state::{EndpointId, NetworkId, Store},
};

/// After the kernel could not tell what becomes of netdevs, it is asked to again.
const LOOK: Duration = Duration::from_secs(10);

/// As many threads answer calls as there are processors, but no more than this: what blocks has its own.
const WORKERS: usize = 4;

/// How long after something that is left to do: what hindered it may be over then.
const SOON: Duration = Duration::from_millis(500);

/// When Docker is asked again about a network that it does not have.
const AGAIN: Duration = Duration::from_secs(1);

/// How often in a row Docker has to say that it has no such network.
const CERTAIN: u32 = 2;

/// After a call, the engine takes this long to know the container, and to let go of its locks.
const NAMES_AFTER: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4)];

/// The exit code where to start again would help nothing: `RestartPreventExitStatus=` of the unit.
const FOR_GOOD: u8 = 3;

#[derive(Debug, Args)]
#[command(after_help = "\
Logs to standard error. Takes its socket from systemd where socket activation passes one.

Examples:
  docker-passthrough serve
  docker-passthrough serve --name lab --state-dir /var/lib/lab --bpffs /sys/fs/bpf/lab
  docker-passthrough serve --log debug --log-format json

Exit codes: 0 ended by a signal, 1 failed, 2 wrong usage, 3 what it remembers can't be used until somebody mends it.")]
pub struct Serve {
    /// The plugin's socket [default: /run/docker/plugins/NAME.sock]
    #[arg(long, env = "DOCKER_PASSTHROUGH_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How the log is written to standard error
    #[arg(long, env = "DOCKER_PASSTHROUGH_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, also for a part, as in
    /// warn,docker_passthrough::network=debug
    #[arg(long, env = "DOCKER_PASSTHROUGH_LOG", value_name = "FILTER", default_value = "info")]
    log: Filter,
    /// Have the kernel report frames sent with a foreign source MAC, at most one a second per endpoint
    /// and CPU. An endpoint then takes 128 KiB more, and containers that run already report too
    #[arg(long, env = "DOCKER_PASSTHROUGH_BPF_LOG", value_parser = BoolishValueParser::new())]
    bpf_log: bool,
    /// Serve metrics at /metrics there, for Prometheus: HOST:PORT, or unix: and the path of a socket
    #[arg(long, env = "DOCKER_PASSTHROUGH_METRICS", value_name = "ADDR")]
    metrics: Option<Maybe>,
    /// Answer each call of Docker within this time, if need be by undoing it: more for a NIC that takes long to
    /// make its VFs
    #[arg(long, env = "DOCKER_PASSTHROUGH_CALL_TIMEOUT", value_name = "SECONDS", default_value = "10",
        value_parser = seconds)]
    call_timeout: Duration,
    /// For tests: how often all endpoints are looked at, in seconds
    #[arg(long, hide = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    look: Duration,
}

/// An address, or as nothing: a variable can be made empty where it can't be taken away.
#[derive(Clone, Debug)]
struct Maybe(Option<metrics::Address>);

impl FromStr for Maybe {
    type Err = <metrics::Address as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(if text.is_empty() { None } else { Some(text.parse()?) }))
    }
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse::<std::num::NonZeroU32>().map(|seconds| Duration::from_secs(seconds.get().into()))
}

impl Serve {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        heap::one_arena();
        logging::start(self.log_format, self.log);
        more_descriptors();
        let path = self.socket.unwrap_or_else(|| default_socket(&global.name));
        let docker = Docker::new(&global.docker_host)?;
        let store = match Store::open(&global.state_dir) {
            Err(error) if error.is_for_good() => {
                // Docker waits for ever, and with a lock that others wait for.
                if let Some(socket) = listener::passed()? {
                    refuse_waiting(&socket, &error.to_string())?;
                }
                super::complain(&error.into());
                return Ok(FOR_GOOD.into());
            }
            opened => opened?,
        };
        let bpffs = global.bpffs.clone();
        let counters = if self.bpf_log { Counters::reporting(bpffs) } else { Counters::new(bpffs) };
        counters.prepare()?;
        let listener = listener::listen(&path)?;
        let metrics = self.metrics.and_then(|Maybe(address)| address);
        let metrics = metrics.map(|address| anyhow::Ok((address.listen()?, address))).transpose()?;
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(WORKERS);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        runtime.block_on(async {
            let (renamed, names) = mpsc::channel(64);
            let driver = Arc::new(Driver::new(global.name.clone(), store, counters, renamed)?);
            let shutdown = CancellationToken::new();
            on_signal(shutdown.clone())?;
            let Listener { socket, file } = listener;
            // Ours was bound under another name, and renamed.
            let bound = socket.local_addr().context("the plugin's socket")?;
            let reached = if file.is_some() { Some(path) } else { bound.as_pathname().map(PathBuf::from) };
            socket.set_nonblocking(true).context("the plugin's socket")?;
            let socket = tokio::net::UnixListener::from_std(socket).context("the plugin's socket")?;
            let ending = shutdown.clone();
            tokio::spawn(async move {
                // At once, so that the engine asks the next driver, while this one finishes.
                ending.cancelled().await;
                drop(file);
            });
            tokio::spawn(keep_names(Arc::clone(&driver), docker.clone(), names));
            tokio::spawn(Arc::clone(&driver).keep_filters());
            // Beside the calls: the socket answers at once.
            tokio::spawn(keep_watching(Arc::clone(&driver)));
            tokio::spawn(keep_true(Arc::clone(&driver), self.look));
            tokio::spawn(keep_compared(Arc::clone(&driver), docker, self.look));
            let recorder = Recorder::new(Calls::names());
            if let Some((listening, address)) = metrics {
                let serving =
                    metrics::serve(listening, Arc::clone(&driver), recorder.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tracing::info!(%address, "metrics are served");
                    if let Err(error) = serving.await {
                        tracing::error!(%address, %error, "serving metrics");
                    }
                });
            }
            let networks = driver.state().networks.len();
            tracing::info!(
                driver = global.name,
                version = env!("CARGO_PKG_VERSION"),
                networks,
                "ready for Docker's calls"
            );
            let _ = sd_notify::notify(&[NotifyState::Ready]);
            watchdog::start(reached);
            server::serve(socket, Calls::new(driver, recorder, self.call_timeout), shutdown).await;
            anyhow::Ok(())
        })?;
        runtime.shutdown_timeout(Duration::from_secs(1));
        tracing::info!("ended");
        Ok(ExitCode::SUCCESS)
    }
}

/// The socket of a driver of this name.
pub fn default_socket(name: &str) -> PathBuf {
    PathBuf::from(format!("{PLUGINS}/{name}.sock"))
}

/// A connection takes one, and so does each look into a namespace: as many as root may have.
fn more_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "raising the limit of open files");
    }
}

fn on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("finishing what is under way");
        // Before the end begins, which with nothing under way is at once.
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        shutdown.cancel();
    });
    Ok(())
}

/// Compares what is remembered with what is: at the start, when something is left to do, and each `look`.
async fn keep_true(driver: Arc<Driver>, look: Duration) {
    driver.adopt_all().await;
    let mut tick = every(look);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = driver.wanted() => tokio::time::sleep(SOON).await,
        }
        let looking = Arc::clone(&driver);
        // A task of its own: one pass that panics is not the last.
        let pass = tokio::spawn(async move {
            looking.reconcile().await;
            looking.tidy().await;
        });
        if let Err(error) = pass.await {
            tracing::error!(%error, "comparing what is remembered with what is");
        }
        heap::trim();
    }
}

/// Compares it with what Docker has. By itself: an engine may take long for each answer.
async fn keep_compared(driver: Arc<Driver>, docker: Docker, look: Duration) {
    let mut unknown = Unknown::new();
    let mut tick = every(look);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = tokio::time::sleep(AGAIN), if unknown.values().any(|times| *times < CERTAIN) => {}
        }
        compare_networks(&driver, &docker, &mut unknown).await;
    }
}

fn every(look: Duration) -> tokio::time::Interval {
    let mut tick = tokio::time::interval(look);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Has the kernel tell what becomes of netdevs, so that those that come home are not waited for.
async fn keep_watching(driver: Arc<Driver>) {
    loop {
        if let Err(error) = driver.watch().await {
            tracing::warn!(%error, "netdevs are only looked at from time to time");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What Docker says that it does not have, a network or an endpoint of it, and how often in a row it has.
type Unknown = BTreeMap<(NetworkId, Option<EndpointId>), u32>;

/// Remembers containers that were renamed, and forgets what Docker says that it does not have.
async fn compare_networks(driver: &Arc<Driver>, docker: &Docker, unknown: &mut Unknown) {
    let (state, before) = (driver.state(), std::mem::take(unknown));
    let mut missed = |id: &NetworkId, endpoint: Option<EndpointId>| {
        let key = (id.clone(), endpoint);
        let times = before.get(&key).copied().unwrap_or_default() + 1;
        unknown.insert(key, times);
        times >= CERTAIN
    };
    for (id, network) in &state.networks {
        match docker.network(id).await {
            Ok(None) => {
                if missed(id, None) {
                    driver.end_unknown(id, None).await;
                }
            }
            Ok(Some(names)) => {
                let absent = network.endpoints.keys().filter(|id| !names.containers.contains_key(*id));
                let absent: Vec<_> = absent.cloned().collect();
                if let Err(error) = driver.remember_names(id, names).await {
                    tracing::error!(network = id.short(), %error, "remembering names");
                }
                let mut over = Vec::new();
                for endpoint in absent {
                    if driver.is_waiting(id, &endpoint).await && missed(id, Some(endpoint.clone())) {
                        over.push(endpoint);
                    }
                }
                if !over.is_empty() {
                    driver.end_unknown(id, Some(over)).await;
                }
            }
            // Only Docker's own word counts.
            Err(_) => return unknown.clear(),
        }
    }
}

/// Asks Docker who has what, each time that may have changed, so that errors can name containers.
async fn keep_names(driver: Arc<Driver>, docker: Docker, mut renamed: mpsc::Receiver<NetworkId>) {
    while let Some(network) = renamed.recv().await {
        let (driver, docker) = (Arc::clone(&driver), docker.clone());
        tokio::spawn(async move {
            for pause in NAMES_AFTER {
                tokio::time::sleep(pause).await;
                match docker.network(&network).await {
                    Ok(Some(names)) => match driver.remember_names(&network, names).await {
                        Ok(true) => return,
                        Ok(false) => {}
                        Err(error) => {
                            tracing::warn!(network = network.short(), %error, "remembering names");
                        }
                    },
                    Ok(None) => {}
                    Err(error) => tracing::debug!(network = network.short(), %error, "no names"),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_none() {
        assert!(Maybe::from_str("").unwrap().0.is_none());
        assert!(Maybe::from_str("127.0.0.1:9639").unwrap().0.is_some());
        assert!(Maybe::from_str("9639").is_err());
    }
}
