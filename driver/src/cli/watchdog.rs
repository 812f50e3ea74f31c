//! Signs of life for the service manager: given only while the socket answers.
use std::{io, path::PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::MissedTickBehavior,
};

/// What Docker asks first, on a connection of its own.
const QUESTION: &[u8] =
    b"POST /Plugin.Activate HTTP/1.1\r\nHost: plugin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// The answer is about 200 bytes.
const MAX_ANSWER: u64 = 4096;

/// Asks the driver as Docker would, as often as the service manager's `WatchdogSec` wants, and passes on each
/// answer as a sign of life. Does nothing where nobody waits for one.
pub fn start(socket: Option<PathBuf>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let Some(path) = socket else {
        tracing::warn!("no watchdog: the socket has no path to ask at");
        return;
    };
    // Asked, and answered, well within the limit.
    let period = limit / 3;
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let asked = tokio::time::timeout(period, ask(&path)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(()) => _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]),
                Err(error) => tracing::error!(%error, "the socket does not answer: no sign of life is given"),
            }
        }
    });
}

async fn ask(path: &PathBuf) -> io::Result<()> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(QUESTION).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(io::Error::other(format!("the answer is {:?}", String::from_utf8_lossy(&answer))))
}
