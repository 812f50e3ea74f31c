//! When a command that goes on by itself is asked to end.
use std::{
    io::Read as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Where Docker's client listens, as `@docker_cli_…`: a plugin holds a connection, and ends when that does.
const SOCKET: &str = "DOCKER_CLI_PLUGIN_SOCKET";

/// Told once somebody wants the program to end.
#[derive(Clone, Debug)]
pub struct Ending(watch::Receiver<bool>);

impl Ending {
    /// Listens from now on to SIGINT, SIGTERM, SIGHUP, and to Docker's client if it called us. To be made
    /// within a runtime.
    pub fn listen() -> anyhow::Result<Self> {
        let (told, ending) = watch::channel(false);
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signal = signal(kind).context("listening to signals")?;
            let told = told.clone();
            tokio::spawn(async move {
                if signal.recv().await.is_some() {
                    let _ = told.send(true);
                }
            });
        }
        if let Some(mut client) = client() {
            // Not of the runtime's: nobody waits for a read that never returns.
            std::thread::spawn(move || {
                while client.read(&mut [0]).is_ok_and(|count| count > 0) {}
                let _ = told.send(true);
            });
        }
        Ok(Self(ending))
    }

    /// Waits for it.
    pub async fn wanted(&mut self) {
        if self.0.wait_for(|wanted| *wanted).await.is_err() {
            // Nobody is left who could want it.
            std::future::pending::<()>().await;
        }
    }
}

/// Older clients have no such socket, and some have it as a file.
fn client() -> Option<UnixStream> {
    let name = std::env::var(SOCKET).ok()?;
    match name.strip_prefix('@') {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).ok()?).ok(),
        None => UnixStream::connect(name).ok(),
    }
}
