//! The driver with the rights that its systemd unit gives it, and no others.
use std::{env, fs, path::Path};

/// The unit, as packages install it.
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd/docker-passthrough.service");

/// Set if each driver of a suite is to have no more.
const ENV_CONFINED: &str = "DOCKER_PASSTHROUGH_TEST_CONFINED";

/// Whether each driver of this run has no more.
pub fn is_asked_for() -> bool {
    env::var_os(ENV_CONFINED).is_some()
}

/// What a setting of the unit's service is.
#[track_caller]
pub fn setting(name: &str) -> String {
    let unit = fs::read_to_string(Path::new(UNIT)).unwrap_or_else(|e| panic!("{UNIT}: {e}"));
    let found = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("{UNIT} has no {name}")).to_owned()
}

/// The capabilities that it has, as `setpriv` calls them: `net_admin`.
#[track_caller]
pub fn capabilities() -> Vec<String> {
    let all = setting("CapabilityBoundingSet");
    all.split(' ').map(|name| name.strip_prefix("CAP_").expect("CAP_…").to_lowercase()).collect()
}

/// What takes capabilities away.
const PROGRAM: &str = "setpriv";

/// Whether it is started by that already.
pub fn is_prefixed(program: &[&str]) -> bool {
    program.first() == Some(&PROGRAM)
}

/// What a program is started by, to have these capabilities alone and never more.
pub fn prefix(capabilities: &[String]) -> Vec<String> {
    let set: Vec<_> = capabilities.iter().map(|name| format!("+{name}")).collect();
    let set = format!("-all,{}", set.join(","));
    let mut words = vec![PROGRAM.to_owned(), "--no-new-privs".into(), "--inh-caps=-all".into()];
    words.push(format!("--bounding-set={set}"));
    words
}
