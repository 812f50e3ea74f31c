//! Named network namespaces: a far end, or what a container would be.
use std::{path::PathBuf, process::Command};

use super::{
    command::{self, Background},
    look::Place,
};

/// A network namespace that is gone, with the devices in it, when this goes out of scope.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes it, with loopback up.
    #[track_caller]
    pub fn new(name: String) -> Self {
        command::ip(&format!("netns add {name}"));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// Its name for `ip`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that Docker would call the sandbox key.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// `ip` inside.
    #[track_caller]
    pub fn ip(&self, line: &str) -> String {
        self.run(&format!("ip {line}"))
    }

    /// The number of a netdev inside.
    #[track_caller]
    pub fn ifindex(&self, netdev: &str) -> u32 {
        let shown = self.ip(&format!("-o link show dev {netdev}"));
        shown.split(':').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// The machine's programs inside.
    pub fn place(&self) -> Place {
        Place::Named(self.path())
    }

    /// One of them; panics if it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.place().run(line)
    }

    /// A program that goes on inside until the answer is dropped.
    #[track_caller]
    pub fn background(&self, line: &str) -> Background {
        Background::start(
            Command::new("nsenter")
                .arg(format!("--net={}", self.path().display()))
                .args(line.split_whitespace()),
        )
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = command::attempt("ip", &["netns", "del", &self.name]);
    }
}
