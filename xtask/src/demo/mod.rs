//! `demo`: the main job from end to end, without any hardware, leaving nothing behind.
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::daemon::{Daemon, Scratch, Undo, unique};
use crate::engine::{self, Engine};
use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::step::{self, note, say, wait_for};
use crate::{build, busybox, interrupt, must_be_root};

mod figures;
mod wire;

use figures::Figures;
use wire::Wire;

/// Bytes of bulk traffic each way.
const BULK: usize = 8 << 20;

/// What the demo takes.
#[derive(Args)]
pub struct Options {
    /// A netdev of this host to hand to the container [default: a stand-in NIC]
    #[arg(long, value_name = "NAME")]
    netdevice: Option<String>,
    /// The subnet at the netdevice's far end
    #[arg(long, requires_all = ["netdevice", "gateway"], value_name = "ADDRESS/LENGTH")]
    subnet: Option<String>,
    /// A host at the netdevice's far end
    #[arg(long, requires_all = ["netdevice", "subnet"], value_name = "ADDRESS")]
    gateway: Option<String>,
    /// When all is done, leave it up until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Everything that is up. Fields are dropped, thus undone, in this order.
struct Stage {
    container: Option<Undo>,
    network: Option<Undo>,
    image: Option<Undo>,
    /// `docker-passthrough serve`.
    driver: Option<Daemon>,
    engine: Engine,
    wire: Wire,
    /// What `serve` leaves for the next `serve`.
    _pins: Pins,
    scratch: Scratch,
    /// The driver's, the container's and the image's name.
    name: String,
    binary: PathBuf,
    bpffs: PathBuf,
}

/// Runs the demo.
pub fn run(options: &Options) -> Result<()> {
    must_be_root("demo", "it makes netdevs and starts containers")?;
    if let Some(netdevice) = &options.netdevice {
        wire::must_exist(netdevice)?;
    }
    let mut needs = engine::needs();
    needs.push(Need::program("bpftool", &["bpftool"]));
    needs.push(Need::program("ip", &["iproute2"]));
    packages::ensure("the demo", &needs)?;
    busybox::ensure()?;
    let binary = build::driver(false)?;
    let id = unique()?;
    let outcome = perform(options, &id, binary);
    let left = leftovers(&id)?;
    if let Err(error) = &outcome
        && !left.is_empty()
    {
        step::show(error);
    }
    ensure!(left.is_empty(), "the demo left behind:\n    {}", left.join("\n    "));
    outcome?;
    say("The demo is over: it worked, and nothing of it is left");
    Ok(())
}

/// Ends with everything undone.
fn perform(options: &Options, id: &str, binary: PathBuf) -> Result<()> {
    let mut stage = Stage::set(options, id, binary)?;
    let outcome = stage.play(options.keep);
    let last_words = stage.driver.as_ref().map(Daemon::last_words);
    say("Cleaning up");
    drop(stage);
    match last_words {
        Some(words) if outcome.as_ref().is_err_and(|error| !error.is::<interrupt::Interrupted>()) => {
            outcome.with_context(|| format!("the demo failed; the driver's last words:\n{words}"))
        }
        _ => outcome,
    }
}

impl Stage {
    fn set(options: &Options, id: &str, binary: PathBuf) -> Result<Self> {
        let name = format!("demo-{id}");
        let scratch = Scratch::new(&format!("docker-passthrough-{name}"))?;
        let bpffs = Path::new("/sys/fs/bpf").join(&name);
        let wire = match &options.netdevice {
            Some(netdevice) => Wire::real(netdevice, options.subnet.as_deref(), options.gateway.as_deref()),
            None => Wire::stand_in(id, &scratch)?,
        };
        let engine = Engine::find_or_start(&name, &scratch)?;
        Ok(Self {
            container: None,
            network: None,
            image: None,
            driver: None,
            engine,
            wire,
            _pins: Pins(bpffs.clone()),
            scratch,
            name,
            binary,
            bpffs,
        })
    }

    fn play(&mut self, keep: bool) -> Result<()> {
        self.serve()?;
        self.image = Some(self.undone_by(&["image", "rm", "--force", &self.name]));
        self.engine.import_busybox(&self.name, BULK, &self.scratch)?;
        say("What a user types");
        self.create()?;
        self.traffic()?;
        say("What it counted");
        type_it("docker-passthrough", &mut self.passthrough(&["stats"]))?;
        let endpoint = self.inspect("{{range .NetworkSettings.Networks}}{{.EndpointID}}{{end}}")?;
        let map = self.bpffs.join(&endpoint).join("counters");
        let stats = || process::text(&mut self.passthrough(&["stats", "--json", &endpoint]));
        let figures = Figures::agreed(&map, &endpoint, stats)?;
        figures.show(&map);
        if !self.wire.is_real() {
            figures.at_least(BULK as u64)?;
        }
        if keep {
            self.wait_for_ctrl_c();
            return Ok(());
        }
        say("And back");
        self.type_docker(&["rm", "--force", &self.name])?;
        self.container.take().into_iter().for_each(Undo::not_needed);
        self.wire.wait_until_back()?;
        self.type_docker(&["network", "rm", &self.network_name()])?;
        self.network.take().into_iter().for_each(Undo::not_needed);
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        let serve = self.passthrough(&["serve"]);
        println!("$ {} &", shown_as("docker-passthrough", &serve));
        let log = self.scratch.path().join("serve.log");
        let mut driver = Daemon::start("docker-passthrough serve", &serve, log, Duration::from_secs(10))?;
        let socket = socket(&self.name);
        let ready = wait_for("the driver", Duration::from_secs(30), || {
            driver.check()?;
            Ok(UnixStream::connect(&socket).is_ok())
        });
        ready.with_context(|| format!("the driver's last words:\n{}", driver.last_words()))?;
        self.driver = Some(driver);
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        let (name, network) = (self.name.clone(), self.network_name());
        let netdevice = format!("netdevice={}", self.wire.netdevice());
        let subnet = format!("--subnet={}", self.wire.subnet());
        let gateway = format!("--gateway={}", self.wire.gateway());
        self.network = Some(self.undone_by(&["network", "rm", &network]));
        let options = ["-d", &name, "-o", &netdevice, "-o", "mode=passthrough", &subnet, &gateway];
        self.type_docker(&[&["network", "create"], &options[..], &[&network]].concat())?;
        self.container = Some(self.undone_by(&["rm", "--force", &name]));
        self.type_docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            &network,
            &name,
            "httpd",
            "-f",
            "-h",
            "/srv",
        ])?;
        self.type_docker(&["exec", &name, "ip", "address", "show", "eth0"])
    }

    fn traffic(&self) -> Result<()> {
        let gateway = self.wire.gateway();
        let pinged = self.type_docker(&["exec", &self.name, "ping", "-c", "3", "-i", "0.2", gateway]);
        if self.wire.is_real() {
            if pinged.is_err() {
                interrupt::check()?;
                note(&format!("{gateway} does not answer: the counters show what there was"));
            }
            return Ok(());
        }
        pinged?;
        let address = self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
        let url = format!("http://{gateway}/data");
        self.type_docker(&["exec", &self.name, "wget", "-q", "-O", "/dev/null", &url])?;
        note("and from the far end:");
        type_it("nsenter", &mut self.wire.busybox(&["ping", "-c", "3", "-i", "0.2", &address])?)?;
        let url = format!("http://{address}/data");
        type_it("nsenter", &mut self.wire.busybox(&["wget", "-q", "-O", "/dev/null", &url])?)
    }

    fn inspect(&self, format: &str) -> Result<String> {
        let answer = process::text(self.engine.docker().args(["inspect", "--format", format, &self.name]))?;
        let answer = answer.trim().to_owned();
        ensure!(!answer.is_empty(), "the container {} has no {format}: has it ended?", self.name);
        Ok(answer)
    }

    fn network_name(&self) -> String {
        format!("{}-net", self.name)
    }

    fn undone_by(&self, arguments: &[&str]) -> Undo {
        let mut docker = self.engine.docker();
        docker.args(arguments);
        Undo::later(docker)
    }

    fn type_docker(&self, arguments: &[&str]) -> Result<()> {
        type_it("docker", self.engine.docker().args(arguments))
    }

    /// `docker-passthrough`, told about our engine and folders.
    fn passthrough(&self, arguments: &[&str]) -> Command {
        let mut passthrough = command(&self.binary);
        passthrough.args(arguments).args(["--name", &self.name, "--docker-host", &self.engine.host()]);
        passthrough.arg("--state-dir").arg(self.scratch.path().join("state")).arg("--bpffs").arg(&self.bpffs);
        passthrough
    }

    fn wait_for_ctrl_c(&self) {
        say("It stays up until Ctrl-C. In another terminal:");
        note(&format!("export DOCKER_HOST={}", self.engine.host()));
        note(&format!("docker exec -it {} sh", self.name));
        note(&process::shown(&self.passthrough(&["stats", "--watch"])));
        while interrupt::check().is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Shows a command as a user would type it, and what it answers.
fn type_it(program: &str, command: &mut Command) -> Result<()> {
    println!("$ {}", shown_as(program, command));
    print!("{}", process::text(command)?);
    Ok(())
}

fn shown_as(program: &str, command: &Command) -> String {
    let mut plain = Command::new(program);
    plain.args(command.get_args());
    process::shown(&plain)
}

fn socket(name: &str) -> PathBuf {
    Path::new("/run/docker/plugins").join(name).with_extension("sock")
}

/// The driver's folder in the BPF file system.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            note(&format!("could not remove {}: {error}", self.0.display()));
        }
    }
}

/// Whatever still bears the demo's name.
fn leftovers(id: &str) -> Result<Vec<String>> {
    let folders = ["/sys/class/net", "/run/netns", "/run/docker/plugins", "/sys/fs/bpf", "/sys/fs/cgroup"]
        .map(PathBuf::from);
    let mut left = Vec::new();
    for folder in folders.into_iter().chain([std::env::temp_dir()]) {
        // Not all hosts have all of them.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.to_string_lossy().contains(id) {
                left.push(path.display().to_string());
            }
        }
    }
    for process in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(id) {
            left.push(format!("process {} {line}", process.file_name().display()));
        }
    }
    Ok(left)
}
