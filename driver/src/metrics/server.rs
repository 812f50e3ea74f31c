//! `GET /metrics`, gathered once for all who ask at the same time.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::Shared};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{Recorder, address::Listening, classic::classic, collect::collect, families::openmetrics};
use crate::{
    http::server::{self, Limits},
    network::Driver,
};

/// A scrape is one request on a connection. Prometheus itself waits for 10 s unless told otherwise.
const LIMITS: Limits =
    Limits { connections: 64, head: Duration::from_secs(5), whole: Some(Duration::from_secs(30)) };
/// How long a scrape is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// A scrape that was begun so short a time ago serves once more: many scrapers are no load.
const FRESH: Duration = Duration::from_millis(500);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves until `shutdown`.
pub async fn serve(
    listening: Listening,
    driver: Arc<Driver>,
    recorder: Recorder,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let scrapes = Arc::new(Scrapes { driver, recorder, last: Mutex::default() });
    let answer = move |request| answer(Arc::clone(&scrapes), request);
    let nothing = std::future::ready(());
    match listening {
        Listening::Tcp(socket) => {
            let socket = tokio::net::TcpListener::from_std(socket)?;
            server::serve(socket, LIMITS, answer, shutdown, nothing).await;
        }
        Listening::Unix(socket, file) => {
            let socket = tokio::net::UnixListener::from_std(socket)?;
            server::serve(socket, LIMITS, answer, shutdown, nothing).await;
            drop(file);
        }
    }
    Ok(())
}

/// A scrape's text, which is some MB for a thousand endpoints and never copied, or why there is none.
type Text = Result<Bytes, Arc<str>>;

type Running = Shared<futures_util::future::BoxFuture<'static, Text>>;

struct Scrapes {
    driver: Arc<Driver>,
    recorder: Recorder,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    /// How many there were.
    count: u64,
    /// When the last was begun, and what comes of it. One at a time: the kernel may keep one waiting.
    begun: Option<(Instant, AbortHandle, Running)>,
}

impl Scrapes {
    /// The text of a scrape that is under way or just done, else of a new one.
    async fn text(&self) -> Text {
        let running = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match &last.begun {
                Some((begun, task, running)) if !task.is_finished() || begun.elapsed() < FRESH => {
                    running.clone()
                }
                _ => {
                    last.count += 1;
                    let (task, running) = self.begin(last.count);
                    last.begun = Some((Instant::now(), task, running.clone()));
                    running
                }
            }
        };
        match tokio::time::timeout(PATIENCE, running).await {
            Ok(text) => text,
            Err(_) => {
                Err(format!("not done within {} s: the kernel keeps us waiting", PATIENCE.as_secs()).into())
            }
        }
    }

    /// In a task of its own, whatever becomes of who asked.
    fn begin(&self, count: u64) -> (AbortHandle, Running) {
        let (driver, recorder) = (Arc::clone(&self.driver), self.recorder.clone());
        let task = tokio::spawn(async move {
            let snapshot = collect(&driver).await.map_err(|error| error.to_string())?;
            let text = tokio::task::spawn_blocking(move || openmetrics(snapshot, &recorder, count));
            text.await.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
        });
        let handle = task.abort_handle();
        let running = task.map(|done| match done {
            Ok(Ok(text)) => Ok(text.into()),
            Ok(Err(reason)) => Err(reason.into()),
            Err(panic) => Err(panic.to_string().into()),
        });
        (handle, running.boxed().shared())
    }
}

async fn answer(scrapes: Arc<Scrapes>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return respond(StatusCode::NOT_FOUND, PLAIN, "the metrics are at /metrics\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "metrics are read by GET or HEAD\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match scrapes.text().await {
        Ok(text) if wants_openmetrics(request.headers()) => respond(StatusCode::OK, OPENMETRICS, text),
        Ok(text) => respond(StatusCode::OK, CLASSIC, classic(&String::from_utf8_lossy(&text)).into()),
        Err(reason) => {
            tracing::warn!(%reason, "a scrape has no answer");
            respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n").into())
        }
    }
}

/// All but those who ask for text and do not know of OpenMetrics.
fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let accept = accept.collect::<Vec<_>>().join(",").to_ascii_lowercase();
    accept.contains("application/openmetrics-text") || !accept.contains("text/")
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_unless_text_is_asked_for() {
        let asks = |accept: &'static str| {
            wants_openmetrics(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(wants_openmetrics(&HeaderMap::new()));
        assert!(asks("*/*"));
        assert!(asks("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"));
        assert!(!asks("text/plain"));
        assert!(!asks("text/html,application/xhtml+xml,*/*;q=0.8"));
    }
}
