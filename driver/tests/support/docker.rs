//! A private engine: its data in the machine's memory, its plugin folder the machine's own.
use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use serde_json::Value;

use super::{PATIENCE, command, eventually, eventually_within};

/// Another engine's daemon than the one that is installed; its containerd and runc beside it.
const ENV_DOCKERD: &str = "DOCKER_PASSTHROUGH_TEST_DOCKERD";
/// Another client, for what an old one can't say.
const ENV_CLI: &str = "DOCKER_PASSTHROUGH_TEST_DOCKER";

/// The image that every container runs: busybox and nothing else.
pub const IMAGE: &str = "busybox:local";

/// The daemon that is started.
pub fn dockerd() -> String {
    env::var(ENV_DOCKERD).unwrap_or_else(|_| "dockerd".to_owned())
}

/// Whether the engine is the one that is installed.
pub fn is_installed() -> bool {
    env::var_os(ENV_DOCKERD).is_none()
}

/// An engine; its containers go with it.
pub struct Engine {
    folder: PathBuf,
    options: Vec<&'static str>,
    process: Mutex<Option<Child>>,
}

static SHARED: OnceLock<Engine> = OnceLock::new();

/// Ends the shared engine, if there is one: statics are not dropped.
pub fn stop_shared() {
    if let Some(engine) = SHARED.get() {
        engine.terminate();
    }
}

impl Engine {
    /// The engine of all tests that do not restart theirs.
    #[track_caller]
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// An engine of one's own, with more options.
    #[track_caller]
    pub fn start(options: &[&'static str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let folder = PathBuf::from(format!("/run/engine{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder).expect("a folder for the engine");
        fs::write(folder.join("daemon.json"), "{}").expect("an empty configuration");
        let engine = Self { folder, options: options.to_vec(), process: Mutex::default() };
        engine.serve();
        engine.import_image();
        engine
    }

    /// The machine's own, which systemd runs; of its folders, only that of its socket is known.
    #[track_caller]
    pub fn of_systemd() -> Self {
        let engine = Self { folder: "/run".into(), options: Vec::new(), process: Mutex::default() };
        eventually_within(3 * PATIENCE, "the engine answers", || engine.api("GET", "/version"));
        engine.import_image();
        engine
    }

    /// Starts the daemon, and waits until it answers.
    #[track_caller]
    pub fn serve(&self) {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let dockerd = dockerd();
        let log = fs::File::options().create(true).append(true).open(at("log")).expect("a log file");
        let mut daemon = Command::new(&dockerd);
        daemon
            .args(["--config-file", &at("daemon.json"), "--data-root", &at("data")])
            .args(["--exec-root", &at("exec"), "--pidfile", &at("pid"), "-H", &self.host()])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        if let Some(folder) = Path::new(&dockerd).parent().filter(|f| !f.as_os_str().is_empty()) {
            let path = env::var("PATH").unwrap_or_default();
            daemon.env("PATH", format!("{}:{path}", folder.display()));
        }
        let mut start = || {
            let child = daemon.spawn();
            child.unwrap_or_else(|e| panic!("{dockerd} (package docker.io, or {ENV_DOCKERD}): {e}"))
        };
        *self.process.lock().expect("the engine's process") = Some(start());
        let mut starts = 1;
        eventually_within(3 * PATIENCE, "the engine answers", || {
            let mut process = self.process.lock().expect("the engine's process");
            let ended = process.as_mut().and_then(|p| p.try_wait().expect("its status"));
            if ended.is_some() {
                // It gives its containerd 15 s, and a busy machine may need more.
                assert!(starts < 3, "the engine ended at once:\n{}", self.log());
                *process = Some(start());
                starts += 1;
            }
            self.api("GET", "/version").map_err(|complaint| format!("{complaint}\n{}", self.log()))
        });
    }

    /// Ends it as systemd does.
    #[track_caller]
    pub fn terminate(&self) {
        let mut process = self.process.lock().expect("the engine's process");
        let mut daemon = process.take().expect("a running engine");
        let pid = Pid::from_raw(daemon.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("SIGTERM to the engine");
        eventually("the engine ends", || {
            daemon.try_wait().expect("its status").ok_or_else(|| format!("it runs:\n{}", self.log()))
        });
    }

    /// `kill -9`; its containers run on.
    #[track_caller]
    pub fn kill(&self) {
        let mut daemon = self.process.lock().expect("the engine's process").take().expect("a running engine");
        daemon.kill().expect("kill -9");
        daemon.wait().expect("its status");
    }

    /// What a client connects to.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// Where its containers' namespaces are, among others.
    pub fn exec(&self) -> PathBuf {
        self.folder.join("exec")
    }

    /// Where it keeps what it has.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What the engine itself answers, or its complaint: for what is asked often, as a client is a program
    /// of its own each time.
    pub fn api(&self, method: &str, path: &str) -> Result<Value, String> {
        let exchange = || {
            let mut stream = UnixStream::connect(self.folder.join("docker.sock"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // 1.0: the body comes in one piece, and ends with the connection.
            stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
            io::read_to_string(stream)
        };
        let answer = exchange().map_err(|error| format!("{method} {path}: {error}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) {
            Ok(serde_json::from_str(body).unwrap_or_default())
        } else {
            Err(format!("{method} {path}: {answer}"))
        }
    }

    /// The client's standard output, or its complaint.
    pub fn attempt(&self, args: &[&str]) -> Result<String, String> {
        let program = env::var(ENV_CLI).unwrap_or_else(|_| "/usr/bin/docker".to_owned());
        let mut client = command::prepared(&program, args);
        client.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.folder.join("client"));
        command::finish(&program, &mut client)
    }

    /// The client's standard output; panics if it complains.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        self.attempt(args).unwrap_or_else(|complaint| panic!("docker {}: {complaint}", args.join(" ")))
    }

    /// What a container has written to its standard error.
    pub fn logs(&self, container: &str) -> String {
        let show = r#"exec "$0" --host "$1" logs --tail 60 "$2" 2>&1"#;
        let program = env::var(ENV_CLI).unwrap_or_else(|_| "/usr/bin/docker".to_owned());
        command::attempt("sh", &["-c", show, &program, &self.host(), container])
            .unwrap_or_else(|complaint| complaint)
    }

    fn import_image(&self) {
        let root = self.folder.join("image");
        for folder in ["bin", "tmp"] {
            fs::create_dir_all(root.join(folder)).expect("a folder for the image");
        }
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("busybox is missing: install the package busybox-static");
        fs::copy(busybox, root.join("bin/busybox")).expect("a copy of busybox");
        for applet in command::run(busybox, &["--list"]).lines().filter(|&name| name != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).expect("a link to busybox");
        }
        let archive = self.folder.join("image.tar").display().to_string();
        command::run("tar", &["-C", &root.display().to_string(), "-cf", &archive, "."]);
        self.docker(&["import", &archive, IMAGE]);
    }

    /// The end of what it has logged.
    pub fn log(&self) -> String {
        let journal = || command::attempt("journalctl", &["--no-pager", "--unit", "docker.service"]);
        let log = fs::read_to_string(self.folder.join("log")).or_else(|_| journal()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the last of what the engine logged ---\n{}\n---", self.log());
        }
        let running = self.process.lock().is_ok_and(|process| process.is_some());
        if running && !thread::panicking() {
            self.terminate();
        } else if let Some(mut daemon) = self.process.lock().ok().and_then(|mut p| p.take()) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
