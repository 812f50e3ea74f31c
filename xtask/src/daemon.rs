//! Programs that run beside us, and things to put back in order, until a guard is dropped.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::step::note;

/// A program that runs until this is dropped, its output in a file.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Daemon {
    /// Starts it. It is given `grace` to end by itself.
    pub fn start(name: &str, command: &Command, log: PathBuf, grace: Duration) -> Result<Self> {
        // Should we be killed with -9, it ends too.
        let mut guarded = process::command("setpriv");
        guarded.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let copy = file.try_clone().with_context(|| format!("opening {} twice", log.display()))?;
        let child = guarded.stdout(copy).stderr(file).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.into(), child, log, grace })
    }

    /// An error, with its last words, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("looking after {}", self.name))? {
            bail!("{} ended by itself: {status}\n{}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of its output.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        tail.iter().fold(String::new(), |text, line| text + "    " + line + "\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        process::end(&mut self.child, self.grace);
    }
}

/// A command that puts something back in order when this is dropped.
pub struct Undo(Option<Command>);

impl Undo {
    /// To be done at the end, whatever the end is.
    pub fn later(command: Command) -> Self {
        Self(Some(command))
    }

    /// It was done otherwise.
    pub fn not_needed(mut self) {
        self.0 = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(command) = &mut self.0 else { return };
        if let Err(error) = process::clean_up(command) {
            let error = format!("{error:#}");
            // It is registered before what it undoes, which may have failed.
            if !error.contains("No such") && !error.contains("not found") {
                note(&format!("could not clean up: {error}"));
            }
        }
    }
}

/// A folder that is gone when this is dropped, with all that was mounted in it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `/tmp/NAME`, or in `TMPDIR`. It must not exist.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // remove_dir_all would go into what is mounted.
        for mount in mounts_below(&self.0) {
            let _ = process::clean_up(process::command("umount").arg("--lazy").arg(mount));
        }
        if mounts_below(&self.0).is_empty()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            note(&format!("could not remove {}: {error}", self.0.display()));
        }
    }
}

/// The deepest first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    below.sort_unstable();
    below.reverse();
    below
}

/// A few letters that nobody else has.
pub fn unique() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("asking the kernel for a uuid")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).take(6).collect())
}
