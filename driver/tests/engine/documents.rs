//! The commands in README.md and docs/ are typed as they stand, in a shell, before a real engine whose sockets
//! and folders are in their usual places. Only a NIC, images and what `cargo xtask` makes are put there.
use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::support::{
    command,
    docker::Engine,
    documents::{NOT_TYPED, Typed, commands},
    driver::BINARY,
    eventually,
    http::{self, Answer},
    nic::Nic,
    packed::script,
    terminal::Terminal,
    trials,
};

trials![commands_of_all_documents, nothing_is_listed_that_is_not_there];

/// The netdev that the documents hand out whole.
const NETDEV: &str = "ens2f0";
/// What the driver logs.
const LOG: &str = "/run/documents/log";
const SOCKETS: &str = "/run/docker/plugins";

fn commands_of_all_documents() {
    let desk = Desk::new();
    let mut documents: BTreeMap<String, Vec<Typed>> = BTreeMap::new();
    for typed in commands() {
        documents.entry(typed.document.clone()).or_default().push(typed);
    }
    let mut typed = 0;
    for (document, commands) in documents {
        let mut sitting = Sitting { desk: &desk, driver: None };
        let here = commands.iter().filter(|typed| typed.reason().is_none() && !typed.wants_hardware());
        for command in here {
            sitting.prepare(&document, command);
            sitting.types(command);
            typed += 1;
        }
        sitting.clear();
    }
    assert!(typed >= 40, "only {typed} commands were found: has the documents' form changed?");
}

fn nothing_is_listed_that_is_not_there() {
    let all = commands();
    for (part, reason) in NOT_TYPED {
        assert!(all.iter().any(|typed| typed.text.contains(part)), "no command has {part:?}, which {reason}");
    }
}

/// A machine with an engine, as a reader would have it.
struct Desk {
    engine: Engine,
    nic: Nic,
    /// A clone of the repository in which everything was made.
    clone: PathBuf,
    path: String,
}

impl Desk {
    fn new() -> Self {
        for folder in ["/etc", "/usr/bin", "/usr/local", "/var/lib"] {
            cover(folder);
        }
        command::run("mount", &["--make-shared", "/run"]);
        let engine = Engine::start(&["--exec-root=/run/docker"]);
        symlink(engine.socket(), "/run/docker.sock").unwrap();
        let clone = PathBuf::from("/run/documents");
        let (target, bin) = (clone.join("target"), clone.join("bin"));
        for folder in [&bin, &target.join("release")] {
            fs::create_dir_all(folder).unwrap();
        }
        let contrib = Path::new(&script("")).canonicalize().unwrap();
        symlink(contrib, clone.join("contrib")).unwrap();
        fs::copy(BINARY, target.join("release/docker-passthrough")).unwrap();
        let at = |name: &str| target.join(name).display().to_string();
        let image = [BINARY, "docker-passthrough:latest", &at("docker-passthrough-image.tar")];
        command::run(&script("image/make.sh"), &image);
        command::run(&script("plugin/make.sh"), &[BINARY, &at("docker-passthrough-plugin")]);
        // The client that the engine is tested with goes before others.
        let client = env::var("DOCKER_PASSTHROUGH_TEST_DOCKER").unwrap_or("/usr/bin/docker".into());
        symlink(client, bin.join("docker")).unwrap();
        let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
        let desk = Self { engine, nic: Nic::called(NETDEV), clone, path };
        desk.images();
        desk
    }

    /// Images that do something when they are started, and end when they are told to.
    fn images(&self) {
        for name in ["nginx", "redis"] {
            let file = format!(
                "FROM {}\nCMD [\"sh\", \"-c\", \"trap exit TERM; sleep 1000000 & wait\"]\n",
                crate::support::docker::IMAGE
            );
            let folder = self.clone.join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("Dockerfile"), file).unwrap();
            let mut build = self.shell(&format!("docker build -q -t {name} {}", folder.display()));
            command::finish("bash", build.env("DOCKER_BUILDKIT", "0")).unwrap();
        }
    }

    /// A shell in the clone.
    fn shell(&self, text: &str) -> Command {
        let mut shell = command::prepared("bash", &["-euo", "pipefail", "-c", text]);
        shell
            .current_dir(&self.clone)
            .env("PATH", &self.path)
            .env("DOCKER_CONFIG", self.clone.join("config"));
        shell.env_remove("DOCKER_HOST");
        shell
    }

    #[track_caller]
    fn run(&self, text: &str) -> String {
        command::finish("bash", &mut self.shell(text)).unwrap_or_else(|complaint| {
            let log = fs::read_to_string(LOG).unwrap_or_default();
            panic!("{text}: {complaint}\n{log}\n{}", self.engine.log());
        })
    }
}

/// Lays a folder of the machine's own over one of the host's.
#[track_caller]
fn cover(folder: &str) {
    let layer = PathBuf::from(format!("/run/covers/{}", folder.replace('/', "-")));
    let [upper, work] = ["upper", "work"].map(|name| layer.join(name));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).unwrap();
    }
    let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
    command::run("mount", &["-t", "overlay", "overlay", "-o", &options, folder]);
}

/// Whether this machine has not all that its kernel knows, as one in a container.
fn lacks_a_capability() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bound = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    u64::from_str_radix(bound.trim(), 16).unwrap().count_ones() <= last
}

/// Somebody who goes through one document.
struct Sitting<'a> {
    desk: &'a Desk,
    driver: Option<Child>,
}

impl Sitting<'_> {
    /// Sees to it that there is what a command takes for granted.
    fn prepare(&mut self, document: &str, typed: &Typed) {
        let text = &typed.text;
        let has = |part: &str| text.contains(part);
        let begins = |part: &str| text.starts_with(part);
        // One driver at a time, and one network on the netdev.
        if has(" serve")
            || has(" import")
            || has("docker run -d --name docker-passthrough")
            || begins("docker plugin")
        {
            if self.driver.is_some() && !document.ends_with("migrating.md") {
                self.free();
            }
            self.stop();
        }
        let in_container = "docker rm -f docker-passthrough || true";
        if has(" serve") || has("--name docker-passthrough ") || begins("docker plugin create") {
            self.desk.run(in_container);
        }
        if document.ends_with("migrating.md") {
            return self.prepare_original(text);
        }
        let serving = self.driver.is_some();
        if begins("docker network create -d passthrough ") {
            self.serve_if(!serving);
            self.free();
        } else if begins("docker network create") {
            self.free();
        } else if has("stats")
            || has("docker-passthrough ls")
            || has(" top")
            || begins("bpftool")
            || begins("curl")
        {
            self.serve_if(!serving && !has("--state-dir"));
            self.container_if_none();
        }
    }

    fn serve_if(&mut self, not: bool) {
        if not {
            self.install();
            self.serve("docker-passthrough serve");
        }
    }

    /// Where the documents have it, unless they have put it there.
    fn install(&self) {
        if !Path::new("/usr/local/bin/docker-passthrough").exists() {
            self.desk.run("install target/release/docker-passthrough /usr/local/bin/");
        }
    }

    /// The container that the documents look at.
    fn container_if_none(&self) {
        if self.desk.run("docker ps -q --filter name=^web$").is_empty() {
            self.free();
            let managed = !self.desk.run("docker plugin ls -q").is_empty();
            let driver = if managed { "passthrough:latest" } else { "passthrough" };
            self.desk.run(&format!(
                "docker network create -d {driver} -o netdevice={NETDEV} -o mode=passthrough -o counters=detailed \
                 --subnet=194.168.1.0/24 --gateway=194.168.1.1 nic0"
            ));
            self.desk.run("docker run -d --name web --network nic0 nginx");
        }
    }

    /// Two containers of the original's, its own, and the network that it had.
    fn prepare_original(&mut self, text: &str) {
        if text.starts_with("docker stop") {
            self.serve_if(self.driver.is_none());
            self.container_if_none();
            for name in ["db", "docker-passthrough-plugin"] {
                self.desk.run(&format!("docker run -d --network none --name {name} nginx"));
            }
        } else if text == "docker-passthrough import" {
            let (id, netdevice) = (self.desk.run("docker network inspect -f {{.Id}} nic0"), NETDEV);
            for plugin in ["docker-passthrough-plugin", "docker-sriov-plugin"] {
                let folder = Path::new("/etc/docker/mellanox").join(plugin);
                fs::create_dir_all(&folder).unwrap();
                if plugin == "docker-passthrough-plugin" {
                    let config =
                        json!({"Netdevice": netdevice, "Mode": "passthrough", "Gateway": "194.168.1.1/24"});
                    fs::create_dir_all(folder.join(&id)).unwrap();
                    fs::write(folder.join(&id).join("config.json"), config.to_string()).unwrap();
                }
            }
            fs::remove_file("/var/lib/docker-passthrough/state.json").unwrap();
        }
    }

    /// Types it, and panics unless it does well.
    #[track_caller]
    fn types(&mut self, typed: &Typed) {
        let text = self.filled_in(&typed.text);
        eprintln!("{}", typed.place());
        let words: Vec<_> = text.split(' ').collect();
        if words.last() == Some(&"serve") {
            self.serve(&text);
        } else if words.contains(&"--watch") || words.last() == Some(&"top") {
            self.watch(&text);
        } else if text.ends_with("docker-passthrough doctor") {
            // Its status is the host's health.
            let output = self.desk.shell(&text).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {output:?}", typed.place());
        } else if words.contains(&"--privileged") && lacks_a_capability() {
            // Engines give what there is, but for 20.10, which gives all or nothing.
            if let Err(complaint) = command::finish("bash", &mut self.desk.shell(&text)) {
                assert!(complaint.contains("unable to apply caps"), "{}: {complaint}", typed.place());
                return;
            }
        } else {
            self.desk.run(&text);
        }
        if text.starts_with("docker run -d --name docker-passthrough") {
            self.answers("passthrough");
        }
    }

    /// With the ids that a reader would have there.
    fn filled_in(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if text.contains("ENDPOINT") {
            let stats: Value =
                serde_json::from_str(&self.desk.run("docker-passthrough stats --json")).unwrap();
            text = text.replace("ENDPOINT", stats[0]["endpoint_id"].as_str().unwrap());
        }
        let example = "/var/lib/docker/plugins/0a1b2c";
        if text.contains(example) {
            let id = self.desk.run("docker plugin inspect -f {{.Id}} passthrough");
            let folder = self.desk.engine.data().join("plugins").join(id);
            text = text.replace(example, &folder.display().to_string());
        }
        text
    }

    /// A driver in another terminal.
    #[track_caller]
    fn serve(&mut self, text: &str) {
        self.stop();
        let log = fs::File::options().create(true).append(true).open(LOG).unwrap();
        let mut shell = self.desk.shell(text);
        // The README says so in a sentence.
        shell.env("DOCKER_PASSTHROUGH_METRICS", "127.0.0.1:9639");
        shell.stdout(Stdio::null()).stderr(log);
        self.driver = Some(shell.spawn().unwrap());
        let name = if text.contains("--name sriov") { "sriov" } else { "passthrough" };
        self.answers(name);
    }

    #[track_caller]
    fn answers(&self, name: &str) {
        let socket = Path::new(SOCKETS).join(format!("{name}.sock"));
        eventually("the driver serves", || match http::request(&socket, "POST", "/Plugin.Activate", b"") {
            Ok(Answer { status: 200, .. }) => Ok(()),
            other => Err(format!(
                "{other:?}\n{}\n{}",
                fs::read_to_string(LOG).unwrap_or_default(),
                self.desk.engine.logs("docker-passthrough")
            )),
        });
    }

    fn stop(&mut self) {
        if let Some(mut driver) = self.driver.take() {
            // The shell has become the driver.
            let _ = kill(Pid::from_raw(driver.id().try_into().unwrap()), Signal::SIGTERM);
            driver.wait().unwrap();
        }
    }

    /// What goes on until somebody ends it.
    #[track_caller]
    fn watch(&self, text: &str) {
        let mut terminal = Terminal::run(&self.desk.shell(text), 30, 120);
        terminal.shows("a table", |shown| shown.contains("CONTAINER").then_some(()));
        if text.ends_with("top") {
            terminal.press("q");
        } else {
            terminal.press("\x03");
        }
        let status = terminal.end();
        assert!(status.success(), "{text}: {status}: {}", terminal.text());
    }

    /// Takes away the networks on the netdev, and who uses them.
    fn free(&self) {
        let networks = "docker network ls -q --filter type=custom";
        self.desk.run(&format!(
            "for network in $({networks}); do \
             for id in $(docker ps -aq --filter network=$network); do docker rm -f $id; done; \
             docker network rm $network; done"
        ));
    }

    /// The desk as it was.
    fn clear(mut self) {
        let managed = !self.desk.run("docker plugin ls -q").is_empty();
        // The last may have had another name.
        self.serve_if(!managed);
        self.free();
        self.desk.run("docker ps -aq | xargs -r docker rm -f");
        self.stop();
        self.desk.run("for id in $(docker plugin ls -q); do docker plugin rm -f $id; done");
        let _ = fs::remove_dir_all("/var/lib/docker-passthrough");
        assert!(self.desk.nic.look().is_some(), "{NETDEV} is lost");
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
