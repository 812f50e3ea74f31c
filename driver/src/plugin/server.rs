//! HTTP on the plugin's socket, with a bound on everything a client can do.
use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use serde_json::json;
use tokio::{net::UnixListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::routes::{Calls, Failure};

/// Docker's requests are a few KiB.
const MAX_BODY: usize = 1 << 20;
/// A whole body must be there within this time.
const BODY: Duration = Duration::from_secs(10);
/// An idle connection is kept this long for Docker's next call; it keeps some open itself.
const IDLE: Duration = Duration::from_mins(5);
/// Docker holds a handful.
const MAX_CONNECTIONS: usize = 512;
/// How long connections may take to end after the driver was told to.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Docker asks for this type, and takes any.
const PLUGIN_JSON: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves until `shutdown`, then finishes what is under way.
pub async fn serve(listener: UnixListener, calls: Calls, shutdown: CancellationToken) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: they come back.
                    tracing::error!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!(limit = MAX_CONNECTIONS, "too many connections, this one is closed");
            continue;
        };
        let calls = calls.clone();
        let service = service_fn(move |request| answer(calls.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(64 << 10)
            // A client may close its writing half and wait for the answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
            drop(permit);
        });
    }
    drop(listener);
    calls.finish().await;
    if tokio::time::timeout(SHUTDOWN, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still open and are cut off");
    }
}

async fn answer(calls: Calls, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let failure = |status, reason: String| (status, json!({ "Err": reason }));
    let (status, value) = if !Calls::known(&path) {
        failure(StatusCode::NOT_FOUND, format!("{path}: no such call"))
    } else if request.method() != Method::POST {
        failure(StatusCode::METHOD_NOT_ALLOWED, format!("{}: calls are POST", request.method()))
    } else {
        match body(request).await {
            Err(Failure { status, reason }) => failure(status, reason),
            Ok(body) => match calls.call(&path, &body).await {
                Ok(value) => (StatusCode::OK, value),
                Err(Failure { status, reason }) => failure(status, reason),
            },
        }
    };
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(PLUGIN_JSON));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static("POST"));
    }
    Ok(response)
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Failure> {
    let too_large = || Failure {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        reason: format!("the body is larger than {MAX_BODY} bytes"),
    };
    // Announced already: nothing of it is waited for.
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let collected = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Failure { status: StatusCode::BAD_REQUEST, reason: format!("reading the body: {error}") })
        }
        Err(_) => Err(Failure {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: format!("the body did not arrive within {} s", BODY.as_secs()),
        }),
    }
}
