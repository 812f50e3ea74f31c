//! As much of Docker's API as the driver asks: whether there is a network of this id. Played, so that it can
//! say what an engine would whose driver died under it.
use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::json;

/// An engine that answers as long as the test runs.
pub struct Docker {
    path: PathBuf,
    removed: Arc<Mutex<BTreeSet<String>>>,
    empty: Arc<Mutex<BTreeSet<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Docker {
    /// One that has all networks, and is too busy to tell anything of them.
    pub fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let path = PathBuf::from(format!("/run/played{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&path).expect("a socket for Docker's API");
        let (removed, empty) = <(Arc<Mutex<_>>, Arc<Mutex<_>>)>::default();
        let known = (Arc::clone(&removed), Arc::clone(&empty));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (removed, empty) = known.clone();
                let count = Arc::clone(&count);
                thread::spawn(move || answer(stream, &removed, &empty, &count));
            }
        });
        Self { path, removed, empty, asked }
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Nobody reaches it meanwhile.
    pub fn away_while(&self, meanwhile: impl FnOnce()) {
        let aside = self.path.with_extension("aside");
        fs::rename(&self.path, &aside).expect("its socket");
        meanwhile();
        fs::rename(&aside, &self.path).expect("its socket");
    }

    /// What a driver is told.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// It does not have this network, from now on.
    pub fn has_no(&self, network: &str) {
        self.removed.lock().expect("the networks").insert(network.to_owned());
    }

    /// It has no container in this network, from now on.
    pub fn has_nobody_in(&self, network: &str) {
        self.empty.lock().expect("the networks").insert(network.to_owned());
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers one request after the other: they have no bodies.
fn answer(
    mut stream: UnixStream,
    removed: &Mutex<BTreeSet<String>>,
    empty: &Mutex<BTreeSet<String>>,
    asked: &AtomicUsize,
) {
    let mut request = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        asked.fetch_add(1, Ordering::Relaxed);
        let head = String::from_utf8_lossy(&request).into_owned();
        let id = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let is_in = |networks: &Mutex<BTreeSet<String>>| networks.lock().is_ok_and(|ids| ids.contains(id));
        let (status, body) = if is_in(removed) {
            ("404 Not Found", json!({"message": format!("network {id} not found")}))
        } else if is_in(empty) {
            ("200 OK", json!({"Name": "played", "Containers": {}}))
        } else {
            ("503 Service Unavailable", json!({"message": "busy"}))
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
        request.clear();
    }
}
