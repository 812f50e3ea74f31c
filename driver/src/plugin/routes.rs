//! Which call does what.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::messages::{
    CreateEndpoint, CreateNetwork, DeleteNetwork, EndpointCreated, GwAllocCheck, GwAllocChecked, Join,
    JoinAnswer, OneEndpoint, decode,
};
use crate::{
    blocking,
    metrics::Recorder,
    network::{self, Driver, caller::Caller},
    state::{EndpointId, NetworkId},
};

/// Half of those that the runtime has for what blocks.
const THREADS: usize = 256;

/// Docker's calls.
const PATHS: [&str; 16] = [
    "/Plugin.Activate",
    "/NetworkDriver.GetCapabilities",
    "/NetworkDriver.GwAllocCheck",
    "/NetworkDriver.AllocateNetwork",
    "/NetworkDriver.FreeNetwork",
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.DeleteNetwork",
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.DeleteEndpoint",
    "/NetworkDriver.EndpointOperInfo",
    "/NetworkDriver.Join",
    "/NetworkDriver.Leave",
    "/NetworkDriver.DiscoverNew",
    "/NetworkDriver.DiscoverDelete",
    "/NetworkDriver.ProgramExternalConnectivity",
    "/NetworkDriver.RevokeExternalConnectivity",
];

/// A call's name, `Join`; none if there is no such call.
fn name(path: &str) -> Option<&'static str> {
    let known = PATHS.into_iter().find(|known| *known == path)?;
    known.rsplit('.').next()
}

/// Why a call has no result, and the status it is answered with. Docker shows the text either way.
#[derive(Debug)]
pub struct Failure {
    /// HTTP status.
    pub status: StatusCode,
    /// Goes into `Err`.
    pub reason: String,
}

impl Failure {
    fn malformed(reason: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

impl From<network::Error> for Failure {
    fn from(error: network::Error) -> Self {
        // With 200 the user reads the reason, without it "404 Not Found" and the like before it.
        Self { status: StatusCode::OK, reason: error.to_string() }
    }
}

/// A call's answer.
pub type Answer = Result<Value, Failure>;

/// All that a call needs.
#[derive(Clone)]
pub struct Calls {
    driver: Arc<Driver>,
    /// Operations under way, which a client that hangs up or a shutdown does not cut short.
    under_way: TaskTracker,
    recorder: Recorder,
    /// How many operations may have a thread of their own. What else blocks takes from the same pool, and others may
    /// wait for that: the rest of the operations do as that does.
    threads: Arc<Semaphore>,
    /// When a call is answered at the latest: Docker waits for ever, and holds a lock of the container meanwhile.
    timeout: Duration,
}

impl Calls {
    /// Calls are carried out by `driver`, `recorder` is told of them, and they are answered within `timeout`.
    pub fn new(driver: Arc<Driver>, recorder: Recorder, timeout: Duration) -> Self {
        let threads = Arc::new(Semaphore::new(THREADS));
        Self { driver, under_way: TaskTracker::new(), recorder, threads, timeout }
    }

    /// Waits until nothing is under way any more, as long as a call may take.
    pub async fn finish(&self) {
        self.under_way.close();
        if tokio::time::timeout(self.timeout, self.under_way.wait()).await.is_err() {
            let left = self.under_way.len();
            tracing::warn!(left, "operations still under way are cut off; the next driver finishes them");
        }
    }

    /// Whether there is such a call.
    pub fn known(path: &str) -> bool {
        name(path).is_some()
    }

    /// The calls there are, as [`Recorder`] has them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PATHS.into_iter().filter_map(name)
    }

    /// Carries out the call at `path`, which is a [known](Self::known) one.
    pub async fn call(&self, path: &str, body: &[u8]) -> Answer {
        let begun = Instant::now();
        let answer = self.dispatch(path, body).await;
        let Some(name) = name(path) else { return answer };
        self.recorder.answered(name, begun.elapsed(), answer.is_err());
        // Nothing was begun that would say so itself.
        if let Err(Failure { status: StatusCode::BAD_REQUEST, reason }) = &answer {
            tracing::error!(call = name, error = reason, "refused");
        }
        answer
    }

    async fn dispatch(&self, path: &str, body: &[u8]) -> Answer {
        let driver = Arc::clone(&self.driver);
        match path {
            "/Plugin.Activate" => Ok(json!({"Implements": ["NetworkDriver"]})),
            "/NetworkDriver.GetCapabilities" => {
                Ok(json!({"Scope": "local", "ConnectivityScope": "local", "GwAllocChecker": true}))
            }
            "/NetworkDriver.GwAllocCheck" => {
                let call: GwAllocCheck = decode(body).map_err(Failure::malformed)?;
                to_json(&GwAllocChecked::from(call))
            }
            "/NetworkDriver.CreateNetwork" => {
                let call: CreateNetwork = decode(body).map_err(Failure::malformed)?;
                let call = call.into_request().map_err(Failure::malformed)?;
                self.create_network(call).await
            }
            "/NetworkDriver.DeleteNetwork" => {
                let call: DeleteNetwork = decode(body).map_err(Failure::malformed)?;
                let span =
                    tracing::info_span!("call", call = "DeleteNetwork", network = call.network.short());
                self.run(span, Caller::default(), async move { driver.delete_network(&call.network).await })
                    .await?;
                Ok(json!({}))
            }
            "/NetworkDriver.CreateEndpoint" => {
                let call: CreateEndpoint = decode(body).map_err(Failure::malformed)?;
                self.create_endpoint(call.into_request().map_err(Failure::malformed)?).await
            }
            "/NetworkDriver.DeleteEndpoint" => {
                let OneEndpoint { network, endpoint } = decode(body).map_err(Failure::malformed)?;
                let span = self.span("DeleteEndpoint", &network, &endpoint);
                self.run(span, Caller::default(), async move {
                    driver.delete_endpoint(&network, &endpoint).await
                })
                .await?;
                Ok(json!({}))
            }
            "/NetworkDriver.Join" => {
                let Join { network, endpoint, sandbox } = decode(body).map_err(Failure::malformed)?;
                let span = self.span("Join", &network, &endpoint);
                let joined =
                    self.run(span, Caller::default(), async move {
                        driver.join(&network, &endpoint, sandbox).await
                    })
                    .await?;
                to_json(&JoinAnswer::from(joined))
            }
            // Docker takes the netdev out of the container after this, and before DeleteEndpoint. One that it
            // does not find there any more it remembers, and engine 28 crashes when that one leaves again
            // ("close of closed channel": `RemoveInterface`, moby's libnetwork/osl).
            "/NetworkDriver.Leave" => {
                let OneEndpoint { network, endpoint } = decode(body).map_err(Failure::malformed)?;
                let span = self.span("Leave", &network, &endpoint);
                logged(async { Ok(()) }).instrument(span).await?;
                Ok(json!({}))
            }
            // Engines before 28 don't start a container whose endpoint has no answer to this.
            "/NetworkDriver.EndpointOperInfo" => Ok(json!({"Value": {}})),
            // Docker does the rest itself. An error to ProgramExternalConnectivity would cost the netdev
            // on engine 28.
            _ => Ok(json!({})),
        }
    }

    async fn create_endpoint(&self, call: network::CreateEndpoint) -> Answer {
        let driver = Arc::clone(&self.driver);
        let span = self.span("CreateEndpoint", &call.network, &call.endpoint);
        let (asked, caller) = (call.mac, Caller::default());
        let wanted = caller.clone();
        let created = self.run(span, caller, async move { driver.create_endpoint(&call, &wanted).await });
        to_json(&EndpointCreated::new(asked, created.await?))
    }

    async fn create_network(&self, call: network::CreateNetwork) -> Answer {
        let driver = Arc::clone(&self.driver);
        let span = tracing::info_span!("call", call = "CreateNetwork", network = call.network.short());
        let caller = Caller::default();
        let wanted = caller.clone();
        self.run(span, caller, async move { driver.create_network(&call, &wanted).await }).await?;
        Ok(json!({}))
    }

    /// What the log says of all that is done for the call: for whom, too, once that is known.
    fn span(&self, call: &'static str, network: &NetworkId, endpoint: &EndpointId) -> tracing::Span {
        let state = self.driver.state();
        let known = state.endpoint(network, endpoint);
        let container = known.and_then(|endpoint| endpoint.container.as_deref());
        tracing::info_span!("call", call, network = network.short(), endpoint = endpoint.short(), container)
    }

    /// Runs an operation to its end, whatever becomes of the caller, and answers in time.
    async fn run<T: Send + 'static>(
        &self,
        span: tracing::Span,
        caller: Caller,
        operation: impl Future<Output = network::Result<T>> + Send + 'static,
    ) -> Result<T, Failure> {
        let logged = logged(operation).instrument(span);
        let mut task = match Arc::clone(&self.threads).try_acquire_owned() {
            Ok(thread) => self.under_way.spawn_blocking(|| {
                let _thread = thread;
                blocking::here(logged)
            }),
            Err(_) => self.under_way.spawn(logged),
        };
        let done = match tokio::time::timeout(self.timeout, &mut task).await {
            Ok(done) => done,
            Err(_) if caller.give_up() => {
                let reason =
                    format!("not done within {} s; the driver's log says why", self.timeout.as_secs());
                return Err(Failure { status: StatusCode::OK, reason });
            }
            // Settled this very moment.
            Err(_) => task.await,
        };
        match done {
            Ok(done) => Ok(done?),
            Err(panic) => {
                Err(Failure { status: StatusCode::INTERNAL_SERVER_ERROR, reason: panic.to_string() })
            }
        }
    }
}

/// An operation that says how it came out.
async fn logged<T>(operation: impl Future<Output = network::Result<T>>) -> network::Result<T> {
    let begun = Instant::now();
    let done = operation.await;
    // For a death between what was done and the answer.
    #[cfg(feature = "faults")]
    let _ = crate::fault::reach("call.done").await;
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &done {
        Ok(_) => tracing::info!(millis, "done"),
        Err(error) => tracing::error!(millis, %error, "failed"),
    }
    done
}

fn to_json(answer: &impl serde::Serialize) -> Answer {
    serde_json::to_value(answer)
        .map_err(|error| Failure { status: StatusCode::INTERNAL_SERVER_ERROR, reason: error.to_string() })
}
