//! What is measured on: a driver of its own, network namespaces in the place of containers, and clocks.
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::build;
use crate::daemon::{Daemon, Scratch};
use crate::process::{self, command};
use crate::step::wait_for;

/// Thousands of netdevs take their time.
const BATCH: Duration = Duration::from_mins(10);

/// Where nobody answers.
pub const NO_ENGINE: &str = "unix:///run/no-engine.sock";

/// A scrape serves others, too, for half a second.
pub const STALE: Duration = Duration::from_millis(600);

/// What all have that measure a driver.
#[derive(Args, Clone)]
pub struct Measured {
    /// A JSON object in place of tables
    #[arg(long)]
    pub json: bool,
    /// The driver to measure [default: this tree's release build]
    #[arg(long, value_name = "PATH")]
    driver: Option<PathBuf>,
}

impl Measured {
    /// Where the driver is: built as users have it, unless they name another.
    pub fn binary(&self) -> Result<PathBuf> {
        let Some(path) = &self.driver else { return build::driver(true) };
        path.canonicalize().with_context(|| format!("--driver {}", path.display()))
    }
}

/// `docker-passthrough serve` under a name of its own; nothing is left of it in the end.
pub struct Server {
    // In the order of the end: what it has pinned goes after it.
    daemon: Daemon,
    _pins: Pins,
    binary: PathBuf,
    options: Vec<String>,
    socket: PathBuf,
    metrics: PathBuf,
}

/// The driver's folder in the BPF file system.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// Starts it beside an engine, and waits until it answers.
    pub fn start(name: &str, binary: &Path, engine: &str, scratch: &Scratch) -> Result<Self> {
        let [state, metrics] = ["state", "metrics.sock"].map(|file| scratch.path().join(file));
        let bpffs = Path::new("/sys/fs/bpf").join(name);
        let options = ["--name", name, "--docker-host", engine, "--state-dir"].map(str::to_owned);
        let paths = [state.display().to_string(), "--bpffs".into(), bpffs.display().to_string()];
        let options: Vec<_> = options.into_iter().chain(paths).collect();
        let mut serve = command(binary);
        // A machine that is busy is slow, and what is made here need not be fast.
        serve
            .args(["serve", "--call-timeout", "60"])
            .args(&options)
            .arg("--metrics")
            .arg(format!("unix:{}", metrics.display()));
        let log = scratch.path().join("serve.log");
        let mut daemon = Daemon::start("docker-passthrough serve", &serve, log, Duration::from_secs(20))?;
        let socket = Path::new("/run/docker/plugins").join(format!("{name}.sock"));
        wait_for("the driver", Duration::from_secs(30), || {
            daemon.check()?;
            Ok(UnixStream::connect(&socket).is_ok() && UnixStream::connect(&metrics).is_ok())
        })
        .with_context(|| format!("the driver's last words:\n{}", daemon.last_words()))?;
        Ok(Self { daemon, _pins: Pins(bpffs), binary: binary.into(), options, socket, metrics })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        self.daemon.last_words()
    }

    /// A command of `docker-passthrough`, told about this driver.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(None, arguments)
    }

    /// The same of another build.
    pub fn command_of(&self, other: Option<&Path>, arguments: &[&str]) -> Command {
        let mut passthrough = command(other.unwrap_or(&self.binary));
        passthrough.args(arguments).args(&self.options);
        passthrough
    }

    /// What Docker would call.
    pub fn call(&self, name: &str, body: &Value) -> Result<Value> {
        let path = format!("/NetworkDriver.{name}");
        let answer = ask(&self.socket, "POST", &path, "", &body.to_string()).with_context(|| {
            format!("calling {name}; the driver's last words:\n{}", self.daemon.last_words())
        })?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("{name}: {answer}"))?;
        let complaint = answer["Err"].as_str().unwrap_or_default();
        ensure!(complaint.is_empty(), "{name}: {complaint}");
        Ok(answer)
    }

    /// What Prometheus would read.
    pub fn scrape(&self) -> Result<String> {
        ask(&self.metrics, "GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n", "")
    }

    /// The processor time that the driver has had.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid())
    }

    /// Gives a netdev of the host to a container, as far as the engine's calls do.
    pub fn hand_out(&self, netdevice: &str, netns: &str, options: &Value) -> Result<()> {
        let [network, endpoint] = [id()?, id()?];
        let mut generic = json!({"netdevice": netdevice, "mode": "passthrough"});
        if let (Some(generic), Some(options)) = (generic.as_object_mut(), options.as_object()) {
            generic.extend(options.clone());
        }
        self.call(
            "CreateNetwork",
            &json!({
                "NetworkID": network,
                "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic},
                "IPv4Data": [{
                    "AddressSpace": "LocalDefault", "Gateway": "198.18.0.1/15", "Pool": "198.18.0.0/15",
                }],
                "IPv6Data": [],
            }),
        )?;
        let mut of = json!({
            "NetworkID": network,
            "EndpointID": endpoint,
            "Interface": {"Address": "198.18.0.2/15", "AddressIPv6": "", "MacAddress": ""},
            "Options": {},
        });
        self.call("CreateEndpoint", &of)?;
        of["SandboxKey"] = format!("/run/netns/{netns}").into();
        self.call("Join", &of).map(drop)
    }
}

/// One request and its answer's body; each on a connection of its own, as scrapers do it.
pub fn ask(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> Result<String> {
    let failed = || format!("{method} {path} at {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(90))).with_context(failed)?;
    let length = body.len();
    // Of version 1.0 the end is the connection's.
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: bench\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).with_context(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(failed)?;
    ensure!(head.contains(" 200 "), "{}: {head}\n{body}", failed());
    Ok(body.to_owned())
}

/// As Docker makes them.
pub fn id() -> Result<String> {
    let mut id = String::new();
    while id.len() < 64 {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("asking for a uuid")?;
        id.extend(uuid.chars().filter(char::is_ascii_hexdigit));
    }
    Ok(id)
}

/// Network namespaces that `ip netns` knows; they end with all that is in them.
pub struct Namespaces<'a> {
    names: Vec<String>,
    scratch: &'a Scratch,
}

impl<'a> Namespaces<'a> {
    /// None yet.
    pub fn new(scratch: &'a Scratch) -> Self {
        Self { names: Vec::new(), scratch }
    }

    /// Makes more.
    pub fn add(&mut self, names: &[String]) -> Result<()> {
        self.names.extend_from_slice(names);
        batch(self.scratch, names.iter().map(|name| format!("netns add {name}")))
    }
}

impl Drop for Namespaces<'_> {
    fn drop(&mut self) {
        let lines = self.names.iter().map(|name| format!("netns delete {name}"));
        if let Ok(mut ip) = batched(self.scratch, lines) {
            let _ = process::clean_up(&mut ip);
        }
    }
}

/// Many commands for one `ip`.
pub fn batch(scratch: &Scratch, lines: impl Iterator<Item = String>) -> Result<()> {
    process::text_within(BATCH, &mut batched(scratch, lines)?).map(drop)
}

/// The same in a namespace.
pub fn batch_in(netns: &str, scratch: &Scratch, lines: impl Iterator<Item = String>) -> Result<()> {
    let mut ip = batched(scratch, lines)?;
    process::text_within(BATCH, ip.args(["-n", netns])).map(drop)
}

fn batched(scratch: &Scratch, lines: impl Iterator<Item = String>) -> Result<Command> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = scratch.path().join(format!("{}.ip", NEXT.fetch_add(1, Ordering::Relaxed)));
    let text: String = lines.map(|line| line + "\n").collect();
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    let mut ip = command("ip");
    ip.arg("-batch").arg(path);
    Ok(ip)
}

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// By the clock on the wall.
    pub wall: Duration,
    /// Of processors.
    pub cpu: Duration,
}

impl Cost {
    /// Of work of the calling thread and of programs that it waits for.
    pub fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        Self::by(own_cpu, work)
    }

    /// Of work that another clock tells of.
    pub fn by(cpu: impl Fn() -> Result<Duration>, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (before, begun) = (cpu()?, Instant::now());
        work()?;
        Ok(Self { wall: begun.elapsed(), cpu: cpu()?.saturating_sub(before) })
    }
}

fn own_cpu() -> Result<Duration> {
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).context("the children's usage")?;
    let microseconds = children.user_time().num_microseconds() + children.system_time().num_microseconds();
    let children = Duration::from_micros(microseconds.try_into().unwrap_or(0));
    Ok(thread_cpu()? + children)
}

/// The processor time that all threads of a process have had.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let pid = i32::try_from(pid).context("a pid")?;
    since_start(clock_getcpuclockid(Pid::from_raw(pid)).context("the process's clock")?)
}

/// The processor time that the calling thread has had.
pub fn thread_cpu() -> Result<Duration> {
    since_start(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn since_start(clock: ClockId) -> Result<Duration> {
    Ok(clock_gettime(clock).context("reading a clock")?.into())
}

/// Runs a program for its output alone, which somebody would read.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = process::shown(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("starting `{name}`"))?;
    ensure!(output.status.success(), "`{name}`: {}", output.status);
    Ok(output.stdout)
}

/// Milliseconds, for tables.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
