//! A real Prometheus, and its tool.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{command, eventually, unique};

/// One of the package's programs: unpacked by `cargo xtask test`, or installed.
fn program(name: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/prometheus/usr/bin").join(name);
    if unpacked.is_file() { unpacked } else { PathBuf::from(name) }
}

/// `promtool …`; panics with what it complains of.
#[track_caller]
pub fn promtool(args: &[&str]) -> String {
    command::run(&program("promtool").display().to_string(), args)
}

/// `promtool check metrics`; panics if it finds anything to improve but the one label whose name is a contract
/// older than it.
#[track_caller]
pub fn check_metrics(text: &str) {
    let file = PathBuf::from(format!("/run/scrape{}", unique()));
    fs::write(&file, text.replace(",pciAddr=\"", ",pci_addr=\"")).expect("a file");
    let line = format!("{} check metrics < {} 2>&1", program("promtool").display(), file.display());
    let found = command::run("sh", &["-c", &line]);
    assert_eq!(found, "");
}

/// A server that scrapes one driver each second, its data in the machine's memory.
pub struct Prometheus {
    process: Child,
    folder: PathBuf,
    address: String,
}

impl Prometheus {
    /// Scrapes `target`, `HOST:PORT`.
    #[track_caller]
    pub fn start(target: &str) -> Self {
        let n = unique();
        let folder = PathBuf::from(format!("/run/prometheus{n}"));
        fs::create_dir(&folder).expect("a folder for Prometheus");
        let address = format!("127.0.0.1:{}", 12_000 + n);
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: docker_passthrough\n    \
             static_configs: [{{targets: ['{target}']}}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config).expect("its configuration");
        let log = fs::File::create(folder.join("log")).expect("a log file");
        let mut server = Command::new(program("prometheus"));
        server
            .arg(format!("--config.file={}/prometheus.yml", folder.display()))
            .arg(format!("--storage.tsdb.path={}/data", folder.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        let process = server.spawn().unwrap_or_else(|e| panic!("prometheus (package prometheus): {e}"));
        let mut started = Self { process, folder, address };
        eventually("Prometheus is ready", || {
            let ended = started.process.try_wait().expect("its status");
            assert!(ended.is_none(), "it ended at once:\n{}", started.log());
            started.get("/-/ready")
        });
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let url = format!("http://{}{path}", self.address);
        command::attempt("busybox", &["wget", "-q", "-O", "-", &url])
    }

    /// The answer to an instant query.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let escaped: Vec<String> = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self
            .get(&format!("/api/v1/query?query={}", escaped.concat()))
            .unwrap_or_else(|e| panic!("{expression}: {e}\n{}", self.log()));
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer}")).clone()
    }

    /// The only value of an instant query; none if there is no series.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression);
        assert!(found.len() <= 1, "{expression}: {found:?}");
        Some(found.first()?["value"][1].as_str().expect("a value").parse().expect("a number"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
        if std::thread::panicking() {
            eprintln!("--- what Prometheus logged ---\n{}\n---", self.log());
        }
    }
}
