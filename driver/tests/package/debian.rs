//! One life of the package.
use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::support::{
    assert_names, command,
    driver::Driver,
    nic::{Nic, Traffic},
    simulated::{self, Container},
    trials,
};

trials![lintian_has_no_complaint, installed_upgraded_and_purged];

/// What `cargo xtask deb` makes.
fn package() -> String {
    let package = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debian/docker-passthrough.deb");
    assert!(Path::new(package).exists(), "{package} is missing: cargo xtask deb");
    package.to_owned()
}

fn lintian_has_no_complaint() {
    command::run("lintian", &["--allow-root", "--fail-on", "error,warning,info", &package()]);
}

/// This machine's own root with a layer above it, which is gone with the machine.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        let folder = Path::new("/run/overlay");
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let root = folder.join("root");
        let options = "lowerdir=/,upperdir=/run/overlay/upper,workdir=/run/overlay/work";
        command::run("mount", &["-t", "overlay", "overlay", "-o", options, root.to_str().unwrap()]);
        let root = Self(root);
        for name in ["proc", "sys", "dev", "run"] {
            command::run("mount", &["--rbind", &format!("/{name}"), &root.at(name).display().to_string()]);
        }
        fs::copy(package(), root.at("docker-passthrough.deb")).unwrap();
        root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// dpkg with these words; what it and the package's scripts say.
    #[track_caller]
    fn dpkg(&self, words: &[&str]) -> String {
        let root = self.0.display().to_string();
        let shell = "exec 2>&1; exec chroot \"$0\" env DEBIAN_FRONTEND=noninteractive dpkg \"$@\"";
        command::run("sh", &[&["-c", shell, &root], words].concat())
    }

    fn has(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }
}

fn installed_upgraded_and_purged() {
    let root = Root::new();
    root.dpkg(&["--install", "/docker-passthrough.deb"]);
    for path in [
        "usr/bin/docker-passthrough",
        "usr/libexec/docker/cli-plugins/docker-passthrough",
        "usr/share/doc/docker-passthrough/copyright",
        "usr/share/man/man8/docker-passthrough.8.gz",
        "usr/share/man/man8/docker-passthrough-stats.8.gz",
        "usr/share/bash-completion/completions/docker-passthrough",
        "usr/share/zsh/vendor-completions/_docker-passthrough",
        "usr/share/fish/vendor_completions.d/docker-passthrough.fish",
        "etc/systemd/system/sockets.target.wants/docker-passthrough.socket",
        "etc/systemd/system/multi-user.target.wants/docker-passthrough.service",
    ] {
        assert!(root.has(path), "{path}");
    }
    let conffile = root.at("etc/default/docker-passthrough");
    fs::write(&conffile, "DOCKER_PASSTHROUGH_LOG=debug\n").unwrap();

    let driver = Driver::installed(&root.0, "unix:///run/no-engine.sock");
    driver.serve();
    let nic = Nic::new();
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    nic.ping(&nic.near4(2), 3);
    // Frames come and go while it is upgraded and, as the package's scripts have systemd do, started again.
    let traffic = nic.far.background(&format!("busybox ping -i 0.005 {}", nic.near4(2)));
    root.dpkg(&["--install", "/docker-passthrough.deb"]);
    driver.terminate();
    driver.serve();
    drop(traffic);
    let stats = driver.agrees_with(&nic, Traffic::default());
    assert!(stats.traffic().rx_packets > 10, "{stats:?}");
    assert_eq!(fs::read_to_string(&conffile).unwrap(), "DOCKER_PASSTHROUGH_LOG=debug\n");

    // A container has a netdev: what that was like is kept.
    let said = root.dpkg(&["--purge", "docker-passthrough"]);
    assert_names(&said, &["containers have netdevs", "/var/lib/docker-passthrough"]);
    assert!(root.has("var/lib/docker-passthrough/state.json") && !root.has("usr/bin/docker-passthrough"));
    assert!(!root.has("etc/default/docker-passthrough"));
    container.stop();
    driver.done("DeleteNetwork", &json!({"NetworkID": network}));
    let network = simulated::create_network(&driver, &nic);
    let container = Container::start(&driver, &nic, &network);
    root.dpkg(&["--install", "/docker-passthrough.deb"]);
    // Somebody has taken the pins away: the state tells alone.
    fs::remove_dir_all(driver.bpffs.join(&container.endpoint)).unwrap();
    let said = root.dpkg(&["--purge", "docker-passthrough"]);
    assert_names(&said, &["containers have netdevs", "/var/lib/docker-passthrough"]);
    assert!(root.has("var/lib/docker-passthrough/state.json"));
    container.stop();
    // Nor from under a driver that runs, however it was installed.
    root.dpkg(&["--install", "/docker-passthrough.deb"]);
    let said = root.dpkg(&["--purge", "docker-passthrough"]);
    assert_names(&said, &["or a driver runs", "/var/lib/docker-passthrough"]);
    assert!(root.has("var/lib/docker-passthrough/state.json"));
    // A network without a container has nothing to lose.
    root.dpkg(&["--install", "/docker-passthrough.deb"]);
    driver.terminate();
    let said = root.dpkg(&["--purge", "docker-passthrough"]);
    assert!(!said.contains("containers have netdevs"), "{said}");
    for path in
        ["var/lib/docker-passthrough", "etc/default/docker-passthrough", "usr/share/doc/docker-passthrough"]
    {
        assert!(!root.has(path), "{path} is left");
    }
    assert!(!driver.bpffs.exists(), "{} is left", driver.bpffs.display());
    let units = command::attempt(
        "find",
        &[root.at("etc/systemd/system").to_str().unwrap(), "-name", "docker-passthrough*"],
    );
    assert_eq!(units.as_deref(), Ok(""));
}
