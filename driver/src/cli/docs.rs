//! The commands in README.md and docs/, read by the parsers that users' commands are read by.
use std::{fs, path::Path};

use clap::Parser as _;
use serde_json::{Map, Value};

use super::Cli;
use crate::network::options;

#[allow(dead_code, reason = "what is typed, and where, is for the tests that type them")]
#[path = "../../tests/support/documents.rs"]
mod documents;

use documents::Typed;

/// Its words, up to a pipe; none if it is abridged.
fn words(command: &Typed) -> Option<Vec<&str>> {
    let words: Vec<_> = command.text.split_whitespace().take_while(|word| *word != "|").collect();
    (!command.text.contains('…')).then_some(words)
}

/// What was typed after `-o`.
fn network_options(words: &[&str]) -> Map<String, Value> {
    let typed = words.windows(2).filter(|pair| pair[0] == "-o").filter_map(|pair| pair[1].split_once('='));
    typed.map(|(key, value)| (key.to_owned(), Value::String(value.to_owned()))).collect()
}

#[test]
fn commands_of_ours_are_understood() {
    let mut read = 0;
    for command in documents::commands() {
        let Some(words) = words(&command) else { continue };
        // Variables may come before it.
        let program: Vec<_> =
            words.into_iter().skip_while(|word| word.starts_with("DOCKER_PASSTHROUGH_")).collect();
        if program.first() == Some(&"docker-passthrough") {
            let parsed = Cli::try_parse_from(&program);
            assert!(parsed.is_ok(), "{}: {}", command.place(), parsed.unwrap_err());
            read += 1;
        }
    }
    assert!(read >= 20, "only {read} commands were found: has the documents' form changed?");
}

#[test]
fn options_of_networks_are_right_and_each_has_an_example() {
    let (mut read, mut examples) = (0, Vec::new());
    for command in documents::commands() {
        let Some(words) = words(&command) else { continue };
        if !words.starts_with(&["docker", "network", "create"]) || words.contains(&"--config-from") {
            continue;
        }
        let generic = network_options(&words);
        let parsed = options::parse(&generic);
        assert!(parsed.is_ok(), "{}: {}", command.place(), parsed.unwrap_err());
        read += 1;
        if command.document == "docs/networks.md" {
            examples.extend(generic.keys().cloned());
        }
    }
    assert!(read >= 20, "only {read} commands were found: has the documents' form changed?");
    // The options that there are come from the answer to one that there isn't.
    let unknown = Map::from_iter([("no_such_option".to_owned(), Value::String("1".into()))]);
    let answer = options::parse(&unknown).unwrap_err().to_string();
    let (_, list) = answer.split_once("there are ").expect("a list of options");
    let known: Vec<_> = list.split([',', ' ']).filter(|word| !word.is_empty() && *word != "and").collect();
    assert!(known.len() >= 17, "{known:?}");
    for option in known {
        assert!(
            examples.iter().any(|example| example == option),
            "docs/networks.md has no example of {option}"
        );
    }
}

/// What the driver's sources have to say, each sentence on one line.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    let mut lines = text.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

/// The engine's own messages.
const ENGINES: [&str; 2] = ["plugin \"passthrough\" not found", "Post \"http://"];

#[test]
fn messages_that_are_explained_are_those_of_the_driver() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("src")).replace('`', "");
    let text = fs::read_to_string(root.join("../docs/troubleshooting.md")).unwrap();
    let messages = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let messages: Vec<_> = messages.map(|(message, _)| message).collect();
    assert!(messages.len() >= 25, "only {} messages were found: has its form changed?", messages.len());
    for message in messages.iter().filter(|message| !ENGINES.iter().any(|one| message.starts_with(one))) {
        // `key=value: ` is put before a reason.
        let (key, rest) =
            message.split_once(": ").filter(|(start, _)| start.contains('=')).unwrap_or(("", message));
        let key = key.split('=').next().unwrap_or_default();
        let known = |piece: &str| sources.contains(piece.trim_matches([' ', ':', ';', ',', '(', ')']));
        // Its numbers are the source's constants.
        let pieces = rest.split(|char: char| char == '…' || char.is_ascii_digit());
        assert!(
            known(key) && pieces.into_iter().all(known),
            "troubleshooting.md: no such message: {message}"
        );
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, text) in documents::all() {
        let path = root.join(&file);
        let folder = path.parent().unwrap_or(&root);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://");
            assert!(elsewhere || folder.join(path).exists(), "{file}: {link} leads nowhere");
        }
    }
}
