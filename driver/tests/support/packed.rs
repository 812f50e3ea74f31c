//! The driver as its users install it: packed by the scripts that pack it for them, run by an engine.
use std::{
    env,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    command,
    docker::Engine,
    driver::Driver,
    eventually,
    http::{self, Answer},
    look::text,
};

const BINARY: &str = env!("CARGO_BIN_EXE_docker-passthrough");
/// The driver that is packed in a guest, where `strip` is missing and 200 MB take minutes.
const ENV_PACKED: &str = "DOCKER_PASSTHROUGH_TEST_PACKED";

/// Whether it is the packed driver that is to be tested.
pub fn is_asked_for() -> bool {
    env::var_os(ENV_PACKED).is_some()
}

/// What the environment says of how long a call may take, for a driver that does not have ours.
fn call_timeout() -> Option<String> {
    const CALL_TIMEOUT: &str = "DOCKER_PASSTHROUGH_CALL_TIMEOUT";
    env::var(CALL_TIMEOUT).ok().map(|seconds| format!("{CALL_TIMEOUT}={seconds}"))
}

fn binary() -> String {
    env::var(ENV_PACKED).unwrap_or_else(|_| BINARY.into())
}

/// What it takes if it is not privileged.
pub const CAPABILITIES: [&str; 4] = ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "NET_BROADCAST"];

/// A script in `contrib/`.
pub fn script(name: &str) -> String {
    format!("{}/../contrib/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The driver in a container of the engine that it serves.
pub struct Packed<'a> {
    engine: &'a Engine,
    /// Its names and folders, for a look from outside.
    pub driver: Driver,
    pub container: String,
    pub image: String,
}

impl<'a> Packed<'a> {
    /// Loads the image and runs it with these options, beside those that each way of running it has.
    #[track_caller]
    pub fn run(engine: &'a Engine, options: &[&str]) -> Self {
        let driver = Driver::stopped(&engine.host());
        let archive = driver.state_dir.parent().unwrap().join("image.tar").display().to_string();
        let image = format!("{}:test", driver.name);
        command::run(&script("image/make.sh"), &[&binary(), &image, &archive]);
        engine.docker(&["load", "--input", &archive]);
        std::fs::remove_file(&archive).unwrap();
        let state = format!("{0}:{0}", driver.state_dir.display());
        let docker = format!("{}:/var/run/docker.sock", engine.socket().display());
        // Of this engine they are elsewhere than in /run/docker/netns. Systemd has /run shared already.
        let namespaces = format!("{0}:{0}:rslave", engine.exec().display());
        command::run("mount", &["--make-shared", "/run"]);
        let mut variables = vec![
            format!("DOCKER_PASSTHROUGH_NAME={}", driver.name),
            format!("DOCKER_PASSTHROUGH_STATE_DIR={}", driver.state_dir.display()),
            format!("DOCKER_PASSTHROUGH_BPFFS={}", driver.bpffs.display()),
        ];
        variables.extend(call_timeout());
        let container = format!("{}-itself", driver.name);
        let mut args =
            vec!["run", "-d", "--name", &container, "--restart=always", "--net=host", "--pid=host"];
        args.extend(["-v", "/run/docker:/run/docker:rslave", "-v", "/sys:/sys"]);
        args.extend(["-v", &state, "-v", &docker, "-v", &namespaces]);
        args.extend(variables.iter().flat_map(|variable| ["-e", variable.as_str()]));
        args.extend(options);
        args.push(&image);
        engine.docker(&args);
        let packed = Self { engine, driver, container, image };
        packed.wait();
        packed
    }

    /// Waits until it answers.
    #[track_caller]
    pub fn wait(&self) {
        eventually("the driver in its container serves", || {
            match http::request(&self.driver.socket, "POST", "/Plugin.Activate", b"") {
                Ok(Answer { status: 200, .. }) => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log())),
            }
        });
    }

    /// Whether its container runs.
    pub fn engine_says_running(&self) -> bool {
        self.engine.attempt(&["inspect", "-f", "{{.State.Running}}", &self.container]).as_deref()
            == Ok("true")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.engine.logs(&self.container)
    }

    /// The program inside of its container.
    #[track_caller]
    pub fn inside(&self, arguments: &[&str]) -> String {
        let program = ["exec", &self.container, "/usr/bin/docker-passthrough"];
        self.engine.docker(&[&program, arguments].concat())
    }

    /// Its first process, as the machine numbers it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.engine.docker(&["inspect", "-f", "{{.State.Pid}}", &self.container]).parse().expect("a pid")
    }
}

impl Drop for Packed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what {} logged ---\n{}\n---", self.container, self.log());
        }
        let _ = self.engine.attempt(&["rm", "-f", &self.container]);
    }
}

/// The driver as a managed plugin of an engine.
pub struct Plugin<'a> {
    engine: &'a Engine,
    pub name: String,
    pub bpffs: PathBuf,
}

impl<'a> Plugin<'a> {
    /// Makes, sets and enables it.
    #[track_caller]
    pub fn enable(engine: &'a Engine, folder: &Path) -> Self {
        // For its names alone.
        let driver = Driver::stopped(&engine.host());
        let target = folder.join("plugin").display().to_string();
        command::run(&script("plugin/make.sh"), &[&binary(), &target]);
        engine.docker(&["plugin", "create", &driver.name, &target]);
        std::fs::remove_dir_all(&target).unwrap();
        let plugin = Self { engine, name: driver.name.clone(), bpffs: driver.bpffs.clone() };
        engine.docker(&[
            "plugin",
            "set",
            &plugin.name,
            &format!("docker.source={}", engine.socket().display()),
            &format!("DOCKER_PASSTHROUGH_NAME={}", plugin.name),
            &format!("DOCKER_PASSTHROUGH_BPFFS={}", plugin.bpffs.display()),
        ]);
        if let Some(variable) = call_timeout() {
            engine.docker(&["plugin", "set", &plugin.name, &variable]);
        }
        engine.docker(&["plugin", "enable", &plugin.name]);
        plugin
    }

    /// What `docker network create -d` calls it: engines know a managed plugin by its whole name.
    pub fn driver(&self) -> String {
        format!("{}:latest", self.name)
    }

    fn id(&self) -> String {
        self.engine.docker(&["plugin", "inspect", "-f", "{{.Id}}", &self.name])
    }

    /// Its state, as the host sees it.
    #[track_caller]
    pub fn state_dir(&self) -> PathBuf {
        self.engine.data().join("plugins").join(self.id()).join("propagated-mount")
    }

    /// Where it answers, as the host sees it.
    #[track_caller]
    pub fn socket(&self) -> PathBuf {
        Path::new("/run/docker/plugins").join(self.id()).join("passthrough.sock")
    }

    /// What the host's `doctor --json` says, if it is told of the plugin or not.
    #[track_caller]
    pub fn doctor(&self, is_told: bool) -> String {
        let mut doctor =
            command::prepared(BINARY, &["doctor", "--json", "--docker-host", &self.engine.host()]);
        doctor.arg("--bpffs").arg(&self.bpffs);
        if is_told {
            doctor.arg("--state-dir").arg(self.state_dir()).arg("--socket").arg(self.socket());
        }
        String::from_utf8(doctor.output().expect("doctor").stdout).expect("text")
    }

    /// How one check comes out, and what is found and what would mend it.
    #[track_caller]
    pub fn finding(&self, is_told: bool, check: &str) -> (String, String) {
        let findings = self.doctor(is_told);
        let findings: Vec<Value> = serde_json::from_str(&findings).expect("what doctor --json says");
        let found: Vec<_> = findings.iter().filter(|finding| finding["check"] == check).collect();
        let [one] = found[..] else { panic!("{} findings of {check}: {findings:#?}", found.len()) };
        (text(&one["status"]), format!("{}; {}", text(&one["found"]), text(&one["mend"])))
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the engine logged ---\n{}\n---", self.engine.log());
        }
        let _ = self.engine.attempt(&["plugin", "disable", "-f", &self.name]);
        let _ = self.engine.attempt(&["plugin", "rm", "-f", &self.name]);
    }
}
