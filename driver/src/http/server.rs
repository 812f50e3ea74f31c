//! Connections, with a bound on everything that a client can do with one.
use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// How long connections may take to end after the driver was told to.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What clients may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many connections there may be; more are closed at once.
    pub connections: usize,
    /// How long one may wait for a request, and for all of its head.
    pub head: Duration,
    /// How long one may live, which then has one request; none is for ever.
    pub whole: Option<Duration>,
}

/// A socket that listens.
pub trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn accept(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn accept(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Answers requests until `shutdown`. Then nobody is accepted any more, connections that are idle are closed, so
/// that nothing new is begun on them, `finish` is waited for, and connections have a little time to end.
pub async fn serve<A, F>(
    listener: A,
    limits: Limits,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    shutdown: CancellationToken,
    finish: impl Future<Output = ()>,
) where
    A: Accept,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut full = false;
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: they come back.
                    tracing::error!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            // Once: who opens many, opens many more.
            if !std::mem::replace(&mut full, true) {
                tracing::warn!(limit = limits.connections, "too many connections, more are closed");
            }
            continue;
        };
        full = false;
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answered = answer(request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(64 << 10)
            .keep_alive(limits.whole.is_none())
            // A client may close its writing half and wait for the answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let ended = match limits.whole {
                None => connection.await.map_err(|error| error.to_string()),
                Some(whole) => match tokio::time::timeout(whole, connection).await {
                    Ok(ended) => ended.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("cut off after {} s", whole.as_secs())),
                },
            };
            if let Err(error) = ended {
                tracing::debug!(error, "connection");
            }
            drop(permit);
        });
    }
    drop(listener);
    let (mut finish, mut closing) = (pin!(finish), pin!(graceful.shutdown()));
    let all_closed = tokio::select! {
        () = &mut closing => true,
        () = &mut finish => false,
    };
    if all_closed {
        finish.await;
    } else if tokio::time::timeout(SHUTDOWN, closing).await.is_err() {
        tracing::warn!("connections were still open and are cut off");
    }
}
