//! The real binary, serving under a name of its own.
use std::{
    env, fs,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt as _, net::UnixListener, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{
    command, confined, eventually,
    http::{self, Answer},
    nic::{Nic, Traffic},
};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_docker-passthrough");

/// Another than that, with fault points.
const ENV_BINARY: &str = "DOCKER_PASSTHROUGH_TEST_BINARY";

/// Where it is. A build with fault points is copied: the next build without puts its own in that place.
fn binary() -> &'static str {
    const COPY: &str = "/run/docker-passthrough-with-faults";
    static COPIED: Once = Once::new();
    if cfg!(not(feature = "faults")) {
        return BINARY;
    }
    COPIED.call_once(|| {
        let built = env::var_os(ENV_BINARY).unwrap_or_else(|| BINARY.into());
        fs::copy(built, COPY).expect("a copy of the driver");
    });
    COPY
}

/// One driver: its process, and everything it keeps.
pub struct Driver {
    /// What `docker network create -d` calls it.
    pub name: String,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    /// Where its pins are.
    pub bpffs: PathBuf,
    docker_host: String,
    program: PathBuf,
    log: PathBuf,
    /// Behind a lock, so that a test can restart it under a container that borrows it.
    process: Mutex<Option<Child>>,
}

/// What a process has of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    pub fds: usize,
    pub threads: usize,
    /// Memory.
    pub kib: usize,
}

/// An element of `stats --json`. An endpoint that another call is just making or ending has no counters.
#[derive(Debug, Deserialize)]
pub struct Stats {
    pub endpoint_id: String,
    #[serde(deserialize_with = "or_empty")]
    pub network_id: String,
    pub container: Option<String>,
    #[serde(deserialize_with = "or_empty")]
    pub netdevice: String,
    #[serde(deserialize_with = "or_empty")]
    pub mode: String,
    #[serde(deserialize_with = "or_empty")]
    pub rx_hook: String,
    #[serde(deserialize_with = "or_empty")]
    pub tx_hook: String,
    rx: Option<Received>,
    tx: Option<Sent>,
}

fn or_empty<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
struct Received {
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Sent {
    packets: u64,
    bytes: u64,
    spoofed: u64,
}

impl Stats {
    /// What was counted.
    #[track_caller]
    pub fn traffic(&self) -> Traffic {
        let (Some(rx), Some(tx)) = (&self.rx, &self.tx) else { panic!("not counted: {self:?}") };
        Traffic { rx_packets: rx.packets, rx_bytes: rx.bytes, tx_packets: tx.packets, tx_bytes: tx.bytes }
    }

    /// How many frames had a source MAC that is not the endpoint's.
    #[track_caller]
    pub fn spoofed(&self) -> u64 {
        self.tx.as_ref().unwrap_or_else(|| panic!("not counted: {self:?}")).spoofed
    }
}

impl Driver {
    /// A driver without an engine, serving.
    #[track_caller]
    pub fn start() -> Self {
        let driver = Self::without_engine();
        driver.serve();
        driver
    }

    /// A driver beside an engine, serving.
    #[track_caller]
    pub fn start_beside(docker_host: &str) -> Self {
        let driver = Self::stopped(docker_host);
        driver.serve();
        driver
    }

    /// A driver without an engine, that does not run yet.
    pub fn without_engine() -> Self {
        Self::stopped("unix:///run/no-engine.sock")
    }

    /// A driver that does not run yet.
    pub fn stopped(docker_host: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("passthrough-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Two levels, so that an id with `..` in it would end up where a test can see it.
        let state_dir = PathBuf::from(format!("/run/{name}/var/state"));
        fs::create_dir_all(state_dir.parent().expect("a parent")).expect("a folder for the state");
        Self {
            socket: PathBuf::from(format!("/run/docker/plugins/{name}.sock")),
            bpffs: PathBuf::from(format!("/sys/fs/bpf/{name}")),
            log: PathBuf::from(format!("/run/{name}/log")),
            docker_host: docker_host.to_owned(),
            program: binary().into(),
            process: Mutex::default(),
            state_dir,
            name,
        }
    }

    /// The one that a package has installed below `root`, in the folders that are its own.
    pub fn installed(root: &Path, docker_host: &str) -> Self {
        let driver = Self::stopped(docker_host);
        Self {
            name: "passthrough".into(),
            socket: "/run/docker/plugins/passthrough.sock".into(),
            bpffs: "/sys/fs/bpf/passthrough".into(),
            state_dir: root.join("var/lib/docker-passthrough"),
            program: root.join("usr/bin/docker-passthrough"),
            log: driver.log.clone(),
            docker_host: driver.docker_host.clone(),
            process: Mutex::default(),
        }
    }

    /// The folder that tells its fault points what to do.
    pub fn faults(&self) -> PathBuf {
        PathBuf::from(format!("/run/{}/faults", self.name))
    }

    /// The command line, with the options that every subcommand takes.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = command::prepared(&self.program.display().to_string(), &[subcommand]);
        self.complete(&mut command);
        command
    }

    /// The same, with another folder for the state.
    pub fn command_with_state(&self, subcommand: &str, state_dir: &Path) -> Command {
        let mut command = command::prepared(BINARY, &[subcommand]);
        self.complete_with(&mut command, state_dir);
        command
    }

    fn complete(&self, command: &mut Command) {
        self.complete_with(command, &self.state_dir);
    }

    fn complete_with(&self, command: &mut Command, state_dir: &Path) {
        command
            .args(["--name", &self.name, "--docker-host", &self.docker_host])
            .arg("--state-dir")
            .arg(state_dir)
            .arg("--bpffs")
            .arg(&self.bpffs);
    }

    fn serve_command(&self, program: &[&str]) -> Command {
        let log = fs::File::options().create(true).append(true).open(&self.log).expect("a log file");
        let words = program.iter().map(ToString::to_string);
        let words: Vec<String> = if confined::is_asked_for() && !confined::is_prefixed(program) {
            confined::prefix(&confined::capabilities()).into_iter().chain(words).collect()
        } else {
            words.collect()
        };
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve");
        self.complete(&mut command);
        command.env("RUST_LOG", "debug").stdin(Stdio::null());
        // Where its fault points look, in a build that has them.
        command.env("DOCKER_PASSTHROUGH_FAULTS", self.faults());
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        command
    }

    fn serve_command_with(&self, options: &[&str]) -> Command {
        let program = self.program.display().to_string();
        let mut command = self.serve_command(&[&program]);
        command.args(options);
        command
    }

    /// Starts it, and waits until it answers.
    #[track_caller]
    pub fn serve(&self) {
        self.serve_with(&[]);
    }

    /// Starts it with more options, and waits until it answers.
    #[track_caller]
    pub fn serve_with(&self, options: &[&str]) {
        self.spawn(self.serve_command_with(options));
    }

    /// Starts it with these capabilities and no others, and waits until it answers.
    #[track_caller]
    pub fn serve_confined(&self, capabilities: &[String]) {
        let prefix = confined::prefix(capabilities);
        let program: Vec<&str> = prefix.iter().map(String::as_str).chain([binary()]).collect();
        self.spawn(self.serve_command(&program));
    }

    /// Starts it with variables of the environment, and waits until it answers.
    #[track_caller]
    pub fn serve_in(&self, environment: &[(&str, &str)]) {
        let mut command = self.serve_command(&[binary()]);
        command.envs(environment.iter().copied());
        self.spawn(command);
    }

    /// Starts it as systemd does, with a socket that listens already.
    #[track_caller]
    pub fn serve_activated(&self, listener: UnixListener) {
        self.spawn(self.activated(listener));
    }

    /// The same, and does not wait: it may not live to answer.
    #[track_caller]
    pub fn begin_activated(&self, listener: UnixListener) {
        self.launch(self.activated(listener));
    }

    fn activated(&self, listener: UnixListener) -> Command {
        // The listener comes as standard input, and exec keeps the pid that the shell has named.
        let shell = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null"#;
        let mut command = self.serve_command(&["sh", "-c", shell, "sh", binary()]);
        command.stdin(OwnedFd::from(listener));
        command
    }

    /// Starts it as a unit of systemd's, whose journal reads what it logs.
    #[track_caller]
    pub fn serve_as_unit(&self) {
        let mut command = self.serve_command(&[BINARY]);
        let log = fs::metadata(&self.log).expect("its log");
        command.env("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()));
        self.spawn(command);
    }

    /// Starts it with its log going there.
    #[track_caller]
    pub fn serve_logging_to(&self, log: impl Into<Stdio>) {
        let mut command = self.serve_command(&[binary()]);
        command.stderr(log);
        self.spawn(command);
    }

    /// Starts it with more options, and does not wait: it may not live to answer.
    #[track_caller]
    pub fn begin(&self, options: &[&str]) {
        self.launch(self.serve_command_with(options));
    }

    #[track_caller]
    fn launch(&self, mut command: Command) {
        assert!(self.process().is_none(), "{} runs already", self.name);
        *self.process() = Some(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    }

    #[track_caller]
    fn spawn(&self, command: Command) {
        self.launch(command);
        eventually("the driver serves", || {
            if let Some(status) = self.ended() {
                panic!("the driver ended at once, {status}:\n{}", self.log());
            }
            match http::request(&self.socket, "POST", "/Plugin.Activate", b"") {
                Ok(Answer { status: 200, .. }) => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log())),
            }
        });
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("a running driver").id()
    }

    /// How many BPF maps it holds open, beside the one that all endpoints' programs share.
    #[track_caller]
    pub fn open_maps(&self) -> usize {
        self.open("anon_inode:bpf-map").checked_sub(1).expect("the programs' constants, once they are read")
    }

    /// How many descriptors it has of what is called so, or begins so.
    pub fn open(&self, what: &str) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("its descriptors");
        // One that is closed meanwhile is none.
        let targets = open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with(what)).count()
    }

    /// What its process has of the machine.
    #[track_caller]
    pub fn footprint(&self) -> Footprint {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let status = fs::read_to_string(process.join("status")).expect("its status");
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of its status");
            line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
        };
        Footprint {
            fds: fs::read_dir(process.join("fd")).expect("its descriptors").count(),
            threads: number("Threads:"),
            kib: number("VmRSS:"),
        }
    }

    /// Waits until it has no more than before; freed memory may stay with the process, up to a bound.
    #[track_caller]
    pub fn settles_at(&self, before: Footprint) -> Footprint {
        /// What the allocator may keep.
        const KEPT_KIB: usize = 16 << 10;
        eventually("the driver lets go", || {
            let now = self.footprint();
            let has_grown =
                now.fds > before.fds || now.threads > before.threads + 1 || now.kib > before.kib + KEPT_KIB;
            if has_grown { Err(format!("{now:?}, before {before:?}")) } else { Ok(now) }
        })
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut process = self.process();
        let status = process.as_mut().expect("a running driver").try_wait().expect("its status");
        if status.is_some() {
            *process = None;
        }
        status
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill(&self) {
        let mut process = self.process().take().expect("a running driver");
        process.kill().expect("kill -9");
        assert_eq!(process.wait().expect("its status").signal(), Some(9));
    }

    /// Sends SIGTERM, and lets it go on.
    #[track_caller]
    pub fn ask_to_end(&self) {
        kill(Pid::from_raw(self.pid().try_into().expect("a pid")), Signal::SIGTERM).expect("SIGTERM");
    }

    /// It stands still meanwhile.
    #[track_caller]
    pub fn stop_for(&self, meanwhile: impl FnOnce()) {
        let pid = Pid::from_raw(self.pid().try_into().expect("a pid"));
        kill(pid, Signal::SIGSTOP).expect("SIGSTOP");
        meanwhile();
        kill(pid, Signal::SIGCONT).expect("SIGCONT");
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        eventually("the driver ends", || {
            self.ended().ok_or_else(|| format!("it still runs:\n{}", self.log()))
        })
    }

    /// Ends it as systemd does.
    #[track_caller]
    pub fn terminate(&self) {
        self.ask_to_end();
        let status = self.wait();
        assert!(status.success(), "after SIGTERM: {status}:\n{}", self.log());
    }

    /// Ends it, and panics if it leaves anything in the machine.
    #[track_caller]
    pub fn finish(self) {
        self.terminate();
        assert!(!self.socket.exists(), "its socket is still there");
        assert_eq!(entries(&self.bpffs), [""; 0], "pins left behind");
    }

    /// The answer to an operation of the network driver, or its complaint.
    #[track_caller]
    pub fn call(&self, operation: &str, body: &Value) -> Result<Value, String> {
        let answer = self.post(&format!("/NetworkDriver.{operation}"), body.to_string().as_bytes());
        let json = answer.json();
        match json.get("Err").and_then(Value::as_str) {
            Some(complaint) if !complaint.is_empty() => Err(complaint.to_owned()),
            _ => {
                assert_eq!(answer.status, 200, "{operation}: {json}");
                Ok(json)
            }
        }
    }

    /// The answer to an operation that has to succeed.
    #[track_caller]
    pub fn done(&self, operation: &str, body: &Value) -> Value {
        self.call(operation, body).unwrap_or_else(|complaint| panic!("{operation} {body}: {complaint}"))
    }

    /// The complaint about an operation that has to fail.
    #[track_caller]
    pub fn refused(&self, operation: &str, body: &Value) -> String {
        match self.call(operation, body) {
            Err(complaint) => complaint,
            Ok(answer) => panic!("{operation} {body} is accepted: {answer}"),
        }
    }

    /// One POST on a connection of its own.
    #[track_caller]
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        http::request(&self.socket, "POST", path, body)
            .unwrap_or_else(|e| panic!("POST {path}: {e}\n{}", self.log()))
    }

    /// Panics unless it answers.
    #[track_caller]
    pub fn assert_alive(&self) {
        assert_eq!(self.post("/Plugin.Activate", b"").json(), json!({"Implements": ["NetworkDriver"]}));
    }

    /// `stats --json`.
    #[track_caller]
    pub fn stats(&self) -> Vec<Stats> {
        self.stats_for(&[])
    }

    /// `stats --json` of some containers or endpoints.
    #[track_caller]
    pub fn stats_for(&self, wanted: &[&str]) -> Vec<Stats> {
        let mut command = self.command("stats");
        let answer = command::finish(binary(), command.arg("--json").args(wanted)).expect("stats --json");
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("stats --json: {e}: {answer}"))
    }

    /// `stats --json` as it is.
    #[track_caller]
    pub fn stats_json(&self) -> Vec<Value> {
        let mut command = self.command("stats");
        let answer = command::finish(BINARY, command.arg("--json")).expect("stats --json");
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("stats --json: {e}: {answer}"))
    }

    /// The one endpoint of a netdevice in `stats --json`.
    #[track_caller]
    pub fn stats_of(&self, netdevice: &str) -> Stats {
        let mut all = self.stats();
        all.retain(|stats| stats.netdevice == netdevice);
        let found = all.len();
        all.pop().filter(|_| found == 1).unwrap_or_else(|| panic!("{found} endpoints have {netdevice}"))
    }

    /// Waits until the counters are what the far end has counted since `since`, to the byte.
    #[track_caller]
    pub fn agrees_with(&self, nic: &Nic, since: Traffic) -> Stats {
        eventually("the driver counts what the far end counts", || {
            let mut far = nic.far_counters() - since;
            let stats = self.stats_of(&nic.name);
            if stats.rx_hook == "xdp" {
                far = far.with_rx_headers();
            }
            if stats.traffic() == far { Ok(stats) } else { Err(format!("far end {far:?}, driver {stats:?}")) }
        })
    }

    /// Waits until it knows whose the netdevice is: an engine that is busy may not tell at once.
    #[track_caller]
    pub fn names(&self, netdevice: &str, container: &str) {
        eventually("it names the container", || {
            let stats = self.stats_of(netdevice);
            if stats.container.as_deref() == Some(container) { Ok(()) } else { Err(format!("{stats:?}")) }
        });
    }

    /// The pins of an endpoint, sorted.
    pub fn pins(&self, endpoint: &str) -> Vec<String> {
        entries(&self.bpffs.join(endpoint))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(mut process) = self.process().take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the last of what {} logged ---\n{}\n---", self.name, last.join("\n"));
        }
    }
}

/// The names in a folder, sorted; none if there is no folder.
pub fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a folder's entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
