//! `docker passthrough …`: the binary as a plugin of Docker's command line (docker/cli,
//! docs/extend/cli_plugins.md). Docker hands over its own arguments whole, its global options first.
use std::ffi::OsString;

use anyhow::bail;
use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, parser::ValueSource,
};
use serde_json::json;

use super::Cli;

/// What the plugin is called, in `docker passthrough`.
const NAME: &str = "passthrough";

/// What Docker asks each program in its folders for plugins.
const METADATA: &str = "docker-cli-plugin-metadata";

/// Docker's global options that are followed by a value, and those that are not.
const VALUED: [(&str, Option<char>); 7] = [
    ("config", None),
    ("context", Some('c')),
    ("host", Some('H')),
    ("log-level", Some('l')),
    ("tlscacert", None),
    ("tlscert", None),
    ("tlskey", None),
];
const FLAGS: [(&str, Option<char>); 3] = [("debug", Some('D')), ("tls", None), ("tlsverify", None)];

/// The answer to [`METADATA`], if that is what is asked.
pub fn metadata(arguments: &[OsString]) -> Option<String> {
    let asked = matches!(arguments, [_, word] if word == METADATA);
    asked.then(|| {
        let answer = json!({
            "SchemaVersion": "0.1.0",
            "Vendor": "docker-passthrough",
            "Version": format!("v{}", env!("CARGO_PKG_VERSION")),
            "ShortDescription": "Containers on real network hardware, and their counters",
        });
        format!("{answer}\n")
    })
}

/// Whether Docker calls: after its global options, or after `help`, comes the plugin's name.
pub fn is_called(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).map(|word| word.to_str().unwrap_or_default());
    while let Some(word) = words.next() {
        let (option, valued_inside) = match word.split_once('=') {
            Some((option, _)) => (option, true),
            None => (word, false),
        };
        let is = |options: &[(&str, Option<char>)]| {
            options.iter().any(|(long, short)| {
                option.strip_prefix("--") == Some(long)
                    || short.is_some_and(|short| option.strip_prefix('-') == Some(short.to_string().as_str()))
            })
        };
        match word {
            NAME => return true,
            "help" | "--help" | "-h" => {}
            _ if is(&FLAGS) => {}
            _ if is(&VALUED) => {
                if !valued_inside {
                    words.next();
                }
            }
            // `-Hunix:///run/docker.sock`
            _ if VALUED.iter().any(|(_, short)| short.is_some_and(|short| glued(word, short))) => {}
            _ => return false,
        }
    }
    false
}

fn glued(word: &str, short: char) -> bool {
    word.strip_prefix('-').and_then(|rest| rest.strip_prefix(short)).is_some_and(|value| !value.is_empty())
}

/// Docker's command line, as far as it concerns the plugin.
pub fn command() -> Command {
    let passthrough = reworded(Cli::command().name(NAME).bin_name("docker passthrough"));
    let valued = VALUED.map(|(long, short)| option(long, short).action(ArgAction::Append).num_args(1));
    let flags = FLAGS.map(|(long, short)| {
        option(long, short).action(ArgAction::Append).num_args(0..=1).require_equals(true)
    });
    Command::new("docker")
        .bin_name("docker")
        .args(valued)
        .args(flags)
        .subcommand_required(true)
        .subcommand(passthrough)
}

fn option(long: &'static str, short: Option<char>) -> Arg {
    let option = Arg::new(long).long(long).hide(true);
    match short {
        Some(short) => option.short(short),
        None => option,
    }
}

/// The examples as they are typed with Docker in front.
fn reworded(mut command: Command) -> Command {
    if let Some(help) = command.get_after_help() {
        let help = help.to_string().replace("docker-passthrough ", "docker passthrough ");
        command = command.after_help(help);
    }
    command.mut_subcommands(reworded)
}

/// The command line that Docker handed over. Ends the program where that is wrong, or asks for help.
pub fn parse(arguments: &[OsString]) -> anyhow::Result<Cli> {
    let matches = command().get_matches_from(help_last(arguments));
    let Some(inner) = matches.subcommand_matches(NAME) else { bail!("{NAME}: is not called") };
    let mut cli = Cli::from_arg_matches(inner).unwrap_or_else(|error| error.exit());
    if inner.value_source("docker_host") == Some(ValueSource::DefaultValue)
        && let Some(host) = host(&matches)?
    {
        cli.global.docker_host = host;
    }
    Ok(cli)
}

/// `docker --help passthrough` asks for our help, not for Docker's.
fn help_last(arguments: &[OsString]) -> Vec<OsString> {
    let mut words = arguments.to_vec();
    let is_help = |word: &OsString| word == "--help" || word == "-h";
    let name = words.iter().position(|word| word == NAME).unwrap_or_default();
    if let Some(help) = words[..name].iter().position(is_help) {
        let help = words.remove(help);
        words.push(help);
    }
    words
}

/// The engine that the user has chosen for Docker's own commands. What we show is this machine's, so only
/// one on a socket of this machine's can be meant.
fn host(matches: &ArgMatches) -> anyhow::Result<Option<String>> {
    let given = |long: &str| {
        let values = matches.get_many::<String>(long);
        values.and_then(|mut values| values.next_back()).cloned()
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (host, context) = match (given("host"), given("context")) {
        (None, None) => (variable("DOCKER_HOST"), variable("DOCKER_CONTEXT")),
        given => given,
    };
    if host.is_none()
        && let Some(context) = context.filter(|context| context != "default")
    {
        bail!(
            "context {context}: contexts are not read; name the engine's socket: --docker-host unix:///PATH"
        );
    }
    if let Some(remote) = host.as_ref().filter(|host| !host.starts_with("unix://")) {
        bail!(
            "{remote}: may be another machine's engine, and what is shown is this machine's; \
             name this one's socket: --docker-host unix:///PATH"
        );
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn docker_is_told_from_people() {
        for line in [
            "p passthrough",
            "p passthrough stats web",
            "p -H unix:///x passthrough stats",
            "p -Hunix:///x passthrough stats",
            "p --host=unix:///x --debug -l info passthrough ls",
            "p --tls=false passthrough ls",
            "p help passthrough",
            "p --help passthrough",
        ] {
            assert!(is_called(&words(line)), "{line}");
        }
        for line in
            ["p", "p stats passthrough", "p --name passthrough stats", "p help stats", "p -H passthrough"]
        {
            assert!(!is_called(&words(line)), "{line}");
        }
    }

    #[test]
    fn dockers_options_are_understood() {
        command().debug_assert();
        for (line, host) in [
            ("p -H unix:///x.sock passthrough ls", "unix:///x.sock"),
            ("p --debug --tlsverify=false -H unix:///x.sock passthrough ls", "unix:///x.sock"),
            ("p -H unix:///x.sock passthrough ls --docker-host unix:///y.sock", "unix:///y.sock"),
            ("p -H unix:///x.sock passthrough --docker-host unix:///y.sock ls", "unix:///y.sock"),
            ("p -c default passthrough ls", "unix:///var/run/docker.sock"),
        ] {
            assert_eq!(parse(&words(line)).unwrap().global.docker_host, host, "{line}");
        }
        for line in ["p -H tcp://10.0.0.1:2376 passthrough ls", "p -c far passthrough ls"] {
            let error = parse(&words(line)).unwrap_err().to_string();
            assert!(error.contains("--docker-host"), "{error}");
        }
    }

    #[test]
    fn help_is_ours() {
        assert_eq!(help_last(&words("p --help passthrough ls")), words("p passthrough ls --help"));
        assert_eq!(help_last(&words("p -D passthrough ls -h")), words("p -D passthrough ls -h"));
    }

    #[test]
    fn metadata_is_told_only_when_asked() {
        let answer = metadata(&words("p docker-cli-plugin-metadata")).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["SchemaVersion"], "0.1.0");
        assert!(metadata(&words("p stats docker-cli-plugin-metadata")).is_none());
    }
}
