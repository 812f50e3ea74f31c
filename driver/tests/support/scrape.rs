//! Metrics as a scraper gets them.
use std::{collections::BTreeMap, path::PathBuf};

use super::{
    driver::Driver,
    http::{Answer, Connection},
};

/// What OpenMetrics is announced as.
pub const OPENMETRICS: &str = "application/openmetrics-text";

/// A driver that serves metrics, at a socket.
#[track_caller]
pub fn serve(driver: &Driver) {
    driver.serve_with(&["--metrics", &address(driver)]);
}

/// Where they are, as `--metrics` has it.
pub fn address(driver: &Driver) -> String {
    format!("unix:{}", socket(driver).display())
}

/// The socket.
pub fn socket(driver: &Driver) -> PathBuf {
    PathBuf::from(format!("/run/{}/metrics.sock", driver.name))
}

/// One request for `/metrics`.
#[track_caller]
pub fn request(driver: &Driver, method: &str, path: &str, accept: &str) -> Answer {
    let mut connection = Connection::open(&socket(driver)).expect("a connection to the metrics");
    connection.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n").as_bytes());
    let answer =
        if method == "HEAD" { connection.read_head().map(head_only) } else { connection.read_answer() };
    answer.unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", driver.log()))
}

fn head_only(head: String) -> Answer {
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    Answer { status, head, body: Vec::new() }
}

/// The text in a format.
#[track_caller]
pub fn text(driver: &Driver, accept: &str) -> String {
    let answer = request(driver, "GET", "/metrics", accept);
    let text = String::from_utf8(answer.body).expect("text");
    assert_eq!(answer.status, 200, "{text}");
    text
}

/// A line that is no comment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    /// A label, empty if it has none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut rest = labels.strip_suffix('}').expect("the end of the labels");
        let mut found = BTreeMap::new();
        while let Some((label, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().expect("the end of a value") {
                    (_, '\\') => match chars.next().expect("an escaped character").1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (at, '"') => break at,
                    (_, other) => value.push(other),
                }
            };
            assert!(found.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            rest = after[end + 1..].trim_start_matches(',');
        }
        Self { name: name.to_owned(), labels: found, value: value.parse().expect("a number") }
    }
}

/// All samples of one scrape.
#[derive(Debug)]
pub struct Scrape(pub Vec<Sample>);

impl Scrape {
    /// Asks a driver.
    #[track_caller]
    pub fn of(driver: &Driver) -> Self {
        Self::parse(&text(driver, OPENMETRICS))
    }

    /// Reads either format.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(samples.map(Sample::parse).collect())
    }

    /// The samples of this name whose labels have these values.
    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &&Sample| labels.iter().all(|(label, value)| sample.label(label) == *value);
        self.0
            .iter()
            .filter(|sample| sample.name == format!("docker_passthrough_{name}"))
            .filter(has)
            .collect()
    }

    /// The only one.
    #[track_caller]
    pub fn one(&self, name: &str, labels: &[(&str, &str)]) -> &Sample {
        match self.all(name, labels)[..] {
            [one] => one,
            ref other => panic!("{name} {labels:?}: {other:?}"),
        }
    }

    /// Its value, which is whole.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.one(name, labels);
        self.find(name, labels).expect("the only one")
    }

    /// The same, if there is one: what takes too long is left out.
    #[track_caller]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let value = self.all(name, labels).first()?.value;
        assert!(value >= 0.0 && value.fract() == 0.0, "{name}: {value}");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just looked at")]
        let whole = value as u64;
        Some(whole)
    }
}
