//! Docker's requests: a body of bounded size and time, then the call.
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::routes::{Calls, Failure};
use crate::http::server::{self, Limits};

/// Docker's requests are a few KiB.
const MAX_BODY: usize = 1 << 20;
/// A whole body must be there within this time.
const BODY: Duration = Duration::from_secs(10);
/// Docker holds a handful of connections, and keeps some open for its next call; each takes a descriptor, of which
/// there are more than these.
const LIMITS: Limits = Limits { connections: 4096, head: Duration::from_mins(5), whole: None };
/// Docker asks for this type, and takes any.
const PLUGIN_JSON: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves until `shutdown`, then finishes what is under way.
pub async fn serve(listener: UnixListener, calls: Calls, shutdown: CancellationToken) {
    let under_way = calls.clone();
    let answer = move |request| answer(calls.clone(), request);
    server::serve(listener, LIMITS, answer, shutdown, under_way.finish()).await;
}

async fn answer(calls: Calls, request: Request<Incoming>) -> Response<Full<Bytes>> {
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
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PLUGIN_JSON));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
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
