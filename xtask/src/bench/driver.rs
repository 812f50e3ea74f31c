//! The release driver, and its predecessor in Go where it is given, in a machine of their own made of namespaces.
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::lab::{Cost, Measured, cpu_of};
use crate::daemon::Scratch;
use crate::interrupt;
use crate::must_be_root;
use crate::process::{self, command};

/// Set inside, to where the built driver is.
const INSIDE: &str = "DOCKER_PASSTHROUGH_BENCH_DRIVER";
/// Where an overlay of `/etc` keeps what is written.
const BOOT: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/docker/plugins /run/docker/netns /run/etc
mount -t tmpfs tmpfs /run/etc
mkdir /run/etc/upper /run/etc/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
ip link set lo up
exec "$@"
"#;
/// How long a driver may take to answer its first call, and any other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all of these have.
#[derive(Args, Clone)]
pub struct Common {
    #[command(flatten)]
    pub measured: Measured,
    /// The Go successor of the original, docker-sriov-plugin, to be measured beside it
    #[arg(long, value_name = "PATH")]
    pub peer: Option<PathBuf>,
}

/// Whose driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This one.
    Ours,
    /// The successor's in Go.
    Go,
}

/// Two drivers, and a folder for what they keep.
pub struct Room {
    ours: PathBuf,
    peer: Option<PathBuf>,
    scratch: Scratch,
}

impl Room {
    /// Builds the driver and becomes a process in namespaces of its own; there, makes the room.
    pub fn enter(what: &str, common: &Common) -> Result<Self> {
        must_be_root(&format!("bench {what}"), "network namespaces and BPF programs")?;
        let Some(ours) = std::env::var_os(INSIDE) else {
            let driver = common.measured.binary()?;
            let mut unshare = std::process::Command::new("unshare");
            unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
            unshare.args(["--propagation=private", "sh", "-c", BOOT, "sh"]);
            unshare.arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
            unshare.env("PATH", process::path()).env(INSIDE, driver);
            return Err(unshare.exec()).context("unshare (package util-linux)");
        };
        // Beside the build, so that the state is on a disk, and not in memory.
        let folder = crate::workspace::target("bench");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let scratch = Scratch::at(&folder.join(format!("room-{}", crate::daemon::unique()?)))?;
        Ok(Self { ours: ours.into(), peer: common.peer.clone(), scratch })
    }

    /// Ours, and the peer if there is one.
    pub fn all(&self) -> Vec<Whose> {
        let peer = self.peer.as_ref().map(|_| Whose::Go);
        std::iter::once(Whose::Ours).chain(peer).collect()
    }

    /// Where it is.
    pub fn binary(&self, whose: Whose) -> &Path {
        match (whose, &self.peer) {
            (Whose::Go, Some(peer)) => peer,
            _ => &self.ours,
        }
    }

    /// The folder of our driver's state.
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// Forgets what drivers before have left.
    pub fn clear(&self) -> Result<()> {
        for folder in [self.state_dir(), PathBuf::from(GO_STATE)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("emptying {}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Has both drivers remember so many networks, from before their start.
    pub fn remember(&self, networks: usize) -> Result<()> {
        self.clear()?;
        let ids: Vec<_> = (0..networks).map(network_id).collect();
        let of = |n: usize| json!({"mode": "passthrough", "options": {"netdevice": format!("absent{n}")}});
        let networks: serde_json::Map<_, _> =
            ids.iter().enumerate().map(|(n, id)| (id.clone(), of(n))).collect();
        let folder = self.state_dir();
        fs::create_dir_all(&folder)?;
        std::os::unix::fs::chown(&folder, Some(0), Some(0))?;
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        fs::write(folder.join("state.json"), json!({"version": 1, "networks": networks}).to_string())?;
        if self.peer.is_some() {
            for (n, id) in ids.iter().enumerate() {
                let folder = Path::new(GO_STATE).join(id);
                fs::create_dir_all(&folder)?;
                let config = json!({
                    "Version": 0, "Netdevice": format!("absent{n}"), "Mode": "passthrough",
                    "Gateway": "198.18.0.1/24", "vlan": 0, "Privileged": false, "Prefix": "eth",
                });
                fs::write(folder.join("config.json"), config.to_string())?;
            }
        }
        Ok(())
    }

    /// Starts a driver, and answers once it has answered its first call.
    pub fn start(&self, whose: Whose) -> Result<Server> {
        let socket = PathBuf::from(match whose {
            Whose::Ours => "/run/docker/plugins/bench.sock",
            Whose::Go => "/run/docker/plugins/sriov.sock",
        });
        let _ = fs::remove_file(&socket);
        let log = self.scratch.path().join(format!("{whose:?}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut serve = command(self.binary(whose));
        if whose == Whose::Ours {
            serve.args(["serve", "--name", "bench", "--docker-host", "unix:///run/no-engine.sock"]);
            serve.arg("--socket").arg(&socket).arg("--state-dir").arg(self.state_dir());
            serve.args(["--bpffs", BPFFS]);
        }
        serve.stdout(file.try_clone()?).stderr(file);
        let begun = Instant::now();
        let child = serve.spawn().with_context(|| format!("starting {}", self.binary(whose).display()))?;
        let mut server = Server { child, socket, log, start: Cost::default() };
        let mut client = loop {
            match server.connect() {
                Ok(client) => break client,
                Err(_) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_micros(100)),
                Err(error) => bail!("{whose:?} did not answer: {error:#}\n{}", server.last_words()),
            }
            ensure!(server.child.try_wait()?.is_none(), "{whose:?} ended: {}", server.last_words());
            interrupt::check()?;
        };
        client.call("/Plugin.Activate", b"{}")?;
        server.start = Cost { wall: begun.elapsed(), cpu: server.cpu()? };
        Ok(server)
    }
}

/// Our driver's pins.
pub const BPFFS: &str = "/sys/fs/bpf/bench";
/// Where the peer remembers its networks.
const GO_STATE: &str = "/etc/docker/mellanox/docker-sriov-plugin";

/// An id as Docker makes them.
pub fn network_id(n: usize) -> String {
    format!("{n:064x}")
}

/// A driver that serves, until this is dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    /// What it took to the first answer.
    pub start: Cost,
}

impl Drop for Server {
    fn drop(&mut self) {
        process::end(&mut self.child, Duration::from_secs(10));
    }
}

impl Server {
    /// A connection that is kept.
    pub fn connect(&self) -> Result<Client> {
        Client::new(&self.socket)
    }

    /// The processor time that it has had.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// A line of `/proc/PID/smaps_rollup` or `status`, in KiB.
    pub fn kib(&self, key: &str) -> Result<u64> {
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let text = of("status")? + &of("smaps_rollup")?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| word.parse().ok()).with_context(|| format!("no {key} of the driver"))
    }

    /// How many threads it has.
    pub fn threads(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.child.id()))?.count())
    }

    /// All that it has logged.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has logged this.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while !self.logged().contains(text) {
            interrupt::check()?;
            ensure!(begun.elapsed() < limit, "the driver did not log `{text}`: {}", self.last_words());
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = self.logged();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// A connection with one call at a time.
pub struct Client {
    stream: BufReader<UnixStream>,
    request: Vec<u8>,
    body: Vec<u8>,
}

impl Client {
    fn new(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), request: Vec::new(), body: Vec::new() })
    }

    /// A call that has to succeed.
    pub fn call(&mut self, path: &str, body: &[u8]) -> Result<&[u8]> {
        self.request.clear();
        let head = format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", body.len());
        self.request.extend(head.as_bytes());
        self.request.extend(body);
        self.stream.get_mut().write_all(&self.request)?;
        let mut length = None;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let ok = line.starts_with("HTTP/1.1 200");
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "{path}: the connection was closed");
            if line.trim_end().is_empty() {
                break;
            }
            let (key, value) = line.split_once(':').unwrap_or_default();
            if key.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            }
        }
        self.body.resize(length.with_context(|| format!("{path}: no Content-Length"))?, 0);
        self.stream.read_exact(&mut self.body)?;
        let failed = !ok || self.body.starts_with(b"{\"Err\":\"") && !self.body.starts_with(b"{\"Err\":\"\"");
        ensure!(!failed, "{path}: {}", String::from_utf8_lossy(&self.body));
        Ok(&self.body)
    }

    /// The same, with a JSON body.
    pub fn ask(&mut self, path: &str, body: &Value) -> Result<()> {
        self.call(path, body.to_string().as_bytes()).map(drop)
    }
}

/// The calls of a container's life, on one netdev.
pub struct Life {
    network: String,
    endpoint: String,
    netdev: String,
}

impl Life {
    /// Of the netdev `nicN`, whose network and endpoint are numbered like it.
    pub fn new(n: usize) -> Self {
        Self { network: network_id(n), endpoint: format!("e{n:063x}"), netdev: netdev(n) }
    }

    /// The network's id.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The endpoint's id.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `CreateNetwork`
    pub fn create_network(&self, client: &mut Client) -> Result<()> {
        let options = json!({"netdevice": self.netdev, "mode": "passthrough"});
        let pool = json!([{"AddressSpace": "x", "Pool": "198.18.0.0/24", "Gateway": "198.18.0.1/24"}]);
        let options = json!({"com.docker.network.generic": options});
        let body = json!({"NetworkID": self.network, "Options": options, "IPv4Data": pool, "IPv6Data": []});
        client.ask("/NetworkDriver.CreateNetwork", &body)
    }

    /// `CreateEndpoint`
    pub fn create_endpoint(&self, client: &mut Client) -> Result<()> {
        let interface = json!({"Address": "198.18.0.2/24", "AddressIPv6": "", "MacAddress": ""});
        let mut body = self.ids();
        body["Interface"] = interface;
        body["Options"] = json!({});
        client.ask("/NetworkDriver.CreateEndpoint", &body)
    }

    /// `Join`
    pub fn join(&self, client: &mut Client, sandbox: &str) -> Result<()> {
        let mut body = self.ids();
        body["SandboxKey"] = sandbox.into();
        body["Options"] = json!({});
        client.ask("/NetworkDriver.Join", &body)
    }

    /// `Leave`
    pub fn leave(&self, client: &mut Client) -> Result<()> {
        client.ask("/NetworkDriver.Leave", &self.ids())
    }

    /// `DeleteEndpoint`
    pub fn delete_endpoint(&self, client: &mut Client) -> Result<()> {
        client.ask("/NetworkDriver.DeleteEndpoint", &self.ids())
    }

    /// `DeleteNetwork`
    pub fn delete_network(&self, client: &mut Client) -> Result<()> {
        client.ask("/NetworkDriver.DeleteNetwork", &json!({"NetworkID": self.network}))
    }

    fn ids(&self) -> Value {
        json!({"NetworkID": self.network, "EndpointID": self.endpoint})
    }
}

/// The name of a netdev to hand out.
pub fn netdev(n: usize) -> String {
    format!("nic{n}")
}

/// Makes netdevs to hand out, the ends of veths; the others are in another namespace, so that there are no
/// more netdevs here than would be handed out.
pub fn make_netdevs(numbers: impl Iterator<Item = usize>) -> Result<()> {
    if !Path::new("/run/netns/far").exists() {
        process::text(command("ip").args(["netns", "add", "far"]))?;
    }
    let line = |n| format!("link add {} type veth peer name far{n} netns far\n", netdev(n));
    let batch: String = numbers.map(line).collect();
    let file = PathBuf::from("/run/netdevs.batch");
    fs::write(&file, batch)?;
    process::text_within(Duration::from_mins(5), command("ip").arg("-batch").arg(file)).map(drop)
}
