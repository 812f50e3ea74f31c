//! A Docker engine: the one that runs, or a private one that leaves nothing behind.
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::busybox;
use crate::daemon::{Daemon, Scratch};
use crate::packages::Need;
use crate::process::{self, command};
use crate::step::{say, wait_for};

/// What an engine takes.
pub fn needs() -> Vec<Need> {
    vec![
        Need::program("dockerd", &["docker.io"]),
        Need::program("docker", &["docker-cli", "docker.io"]),
        Need::program("iptables", &["iptables"]),
    ]
}

/// An engine and how to talk to it.
pub struct Engine {
    // In the order of the end: the engine before its folder.
    daemon: Option<Daemon>,
    _cgroup: Option<Cgroup>,
    socket: PathBuf,
    config: PathBuf,
    /// The command line tool.
    docker: PathBuf,
}

impl Engine {
    /// The engine that runs here, else a private one with its things in `scratch`.
    pub fn find_or_start(name: &str, scratch: &Scratch) -> Result<Self> {
        let usual = Path::new("/var/run/docker.sock");
        if answers(usual) {
            say(&format!("A Docker engine answers at {}: using it", usual.display()));
            return Self::at(usual, scratch);
        }
        Self::start(name, scratch)
    }

    fn at(socket: &Path, scratch: &Scratch) -> Result<Self> {
        // Of several, the one that came with the engine.
        let docker = ["/usr/bin/docker"].map(PathBuf::from).into_iter().find(|path| path.is_file());
        let docker = docker.or_else(|| process::find("docker")).context("there is no `docker` in PATH")?;
        let config = scratch.path().join("docker-config");
        fs::create_dir_all(&config).with_context(|| format!("creating {}", config.display()))?;
        Ok(Self { daemon: None, _cgroup: None, socket: socket.into(), config, docker })
    }

    /// A private one, whatever else runs.
    pub fn start(name: &str, scratch: &Scratch) -> Result<Self> {
        let home = scratch.path().join("engine");
        fs::create_dir(&home).with_context(|| format!("creating {}", home.display()))?;
        let [configuration, socket] = ["daemon.json", "docker.sock"].map(|file| home.join(file));
        fs::write(&configuration, "{}").with_context(|| format!("writing {}", configuration.display()))?;
        let mut dockerd = command("dockerd");
        for (option, file) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "docker.pid"),
        ] {
            dockerd.arg(option).arg(home.join(file));
        }
        dockerd.args([
            "--host",
            &format!("unix://{}", socket.display()),
            "--cgroup-parent",
            &format!("/{name}"),
        ]);
        // It shares the host's network with whatever else is there, and leaves that alone.
        dockerd.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        dockerd.args(["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"]);
        let cgroup = Cgroup(name.into());
        let mut daemon = Daemon::start("dockerd", &dockerd, home.join("log"), Duration::from_secs(20))?;
        wait_for("a private Docker engine", Duration::from_mins(1), || {
            daemon.check()?;
            Ok(answers(&socket))
        })
        .with_context(|| format!("dockerd's last words:\n{}", daemon.last_words()))?;
        Ok(Self { daemon: Some(daemon), _cgroup: Some(cgroup), ..Self::at(&socket, scratch)? })
    }

    /// Where it answers.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process of a private one.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::id)
    }

    /// Its address.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// `docker`, talking to it, with nobody's configuration.
    pub fn docker(&self) -> Command {
        let mut docker = command(&self.docker);
        docker.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", &self.config);
        for foreign in
            ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"]
        {
            docker.env_remove(foreign);
        }
        docker
    }

    /// Makes an image of busybox, with a file `/srv/data` of `size` bytes, for want of a registry.
    pub fn import_busybox(&self, name: &str, size: usize, scratch: &Scratch) -> Result<()> {
        let busybox = busybox::ensure()?;
        let root = scratch.path().join("image");
        let make = |folder: &str| {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))
        };
        ["bin", "srv", "proc", "sys", "dev", "etc", "tmp"].into_iter().try_for_each(make)?;
        fs::copy(&busybox, root.join("bin/busybox"))
            .with_context(|| format!("copying {}", busybox.display()))?;
        for applet in
            process::text(command(&busybox).arg("--list"))?.lines().filter(|name| *name != "busybox")
        {
            let link = root.join("bin").join(applet);
            std::os::unix::fs::symlink("busybox", &link)
                .with_context(|| format!("linking {}", link.display()))?;
        }
        fs::write(root.join("srv/data"), vec![b'.'; size]).context("writing the image's /srv/data")?;
        let archive = scratch.path().join("image.tar");
        process::text(command("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        process::text(self.docker().arg("import").arg(&archive).arg(name)).map(drop)
    }
}

/// Whether an engine answers there.
fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(" 200 ") && answer.ends_with("OK"))
}

/// The control groups of a private engine's containers, which it leaves behind.
struct Cgroup(String);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4));
        for group in groups {
            let _ = fs::remove_dir(Path::new(group).join(&self.0));
        }
    }
}
