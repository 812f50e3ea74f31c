//! The commands in README.md and docs/, for tests that type them.
use std::{fs, path::Path};

/// What no test types, by a part of it, and why; what becomes of it elsewhere. Anything else is typed by
/// `engine documents::*`, or by `package-sriov documents::*` if it is about VFs.
pub const NOT_TYPED: [(&str, &str); 13] = [
    ("…", "is abridged"),
    (
        "cargo xtask",
        "builds, or runs tests; what its image, plugin and package are is `engine installed::*`, `package debian::*`",
    ),
    ("demo-97a74b", "is what `cargo xtask demo` types"),
    ("apt install", "`package debian::installed_upgraded_and_purged`, by dpkg"),
    ("systemctl", "is for systemd; the units: `protocol service::*`, `confined::*`"),
    ("docker build", "begins with an image out of a registry"),
    ("--config-only", "makes a bridge on the host: `package swarm::*`"),
    ("--scope swarm", "the same"),
    ("docker service", "the same"),
    ("ethtool -L", "is for a NIC with queues"),
    ("ethtool -G", "is for a NIC with rings"),
    ("ethtool -C", "is for a NIC with interrupts"),
    ("--name x2", "is refused, as it shows: `sriov choice::seven_containers_and_the_eighth_is_told`"),
];

/// Netdevs and networks that are, or stand on, a PF or a bond: no machine of namespaces has them.
const OF_HARDWARE: [&str; 4] = ["netdevice=ens2f1", "netdevice=bond0", "--network red", "--network=red"];

/// A command as somebody would type it.
#[derive(Clone, Debug)]
pub struct Typed {
    /// The document's name: `docs/numbers.md`.
    pub document: String,
    pub line: usize,
    /// On one line, without prompt and comment.
    pub text: String,
}

impl Typed {
    /// Why it is not typed, if it is not.
    pub fn reason(&self) -> Option<&'static str> {
        NOT_TYPED.iter().find(|(part, _)| self.text.contains(part)).map(|(_, reason)| *reason)
    }

    /// Whether it is about VFs, or a bond.
    pub fn wants_hardware(&self) -> bool {
        OF_HARDWARE.iter().any(|part| self.text.contains(part))
    }

    /// Where it is written.
    pub fn place(&self) -> String {
        format!("{}:{}: {}", self.document, self.line, self.text)
    }
}

/// The documents, without those that are not for users: their names in the repository, and what is in them.
#[track_caller]
pub fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let docs = fs::read_dir(root.join("docs")).expect("docs/").map(|entry| entry.expect("a name").path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let name = |path: &Path| path.strip_prefix(root).expect("a path below").display().to_string();
    let mut names: Vec<_> = docs.map(|path| name(&path)).chain(["README.md".into()]).collect();
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(root.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// All of them, in the documents' order.
#[track_caller]
pub fn commands() -> Vec<Typed> {
    all().iter().flat_map(|(name, text)| of_document(name, text)).collect()
}

/// Of blocks that say they are something else, none; of those with prompts, what is behind one.
fn of_document(document: &str, text: &str) -> Vec<Typed> {
    let mut commands = Vec::new();
    let mut block: Option<(bool, Vec<(usize, &str)>)> = None;
    for (line, words) in (1..).zip(text.lines().map(str::trim)) {
        match (words.strip_prefix("```"), &mut block) {
            (Some(language), None) => block = Some((["", "console"].contains(&language), Vec::new())),
            (Some(_), Some((typed, lines))) => {
                if *typed {
                    commands.extend(of_block(document, lines));
                }
                block = None;
            }
            (None, Some((_, lines))) => lines.push((line, words)),
            (None, None) => {}
        }
    }
    commands
}

fn of_block(document: &str, lines: &[(usize, &str)]) -> Vec<Typed> {
    let prompted = lines.iter().any(|(_, words)| words.starts_with("$ "));
    let mut commands: Vec<Typed> = Vec::new();
    let mut goes_on = false;
    for (line, words) in lines {
        let words = match words.strip_prefix("$ ") {
            Some(words) => words,
            None if prompted && !goes_on => continue,
            None => words,
        };
        let words = words.split(" # ").next().unwrap_or_default().trim_end();
        let (words, more) = words.strip_suffix('\\').map_or((words, false), |words| (words.trim_end(), true));
        match commands.last_mut().filter(|_| goes_on) {
            Some(begun) => begun.text = format!("{} {words}", begun.text),
            None => commands.push(Typed { document: document.into(), line: *line, text: words.into() }),
        }
        goes_on = more;
    }
    commands.retain(|command| !command.text.is_empty());
    commands
}
