//! `--watch`: the same again and again, until somebody has seen enough.
use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    str::FromStr,
    time::Duration,
};

use clap::Args;

use super::{ending::Ending, stats::print, table};

const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 3600.0;

/// Whether to look again, and when.
#[derive(Debug, Args)]
pub struct Watching {
    /// Look again after so many seconds, until Ctrl-C [without a number: 1]
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<Pause>,
}

/// What follows `--watch`.
#[derive(Clone, Debug, PartialEq)]
enum Pause {
    Seconds(f64),
    /// No number: the first container's name, as in `stats --watch web`.
    Name(String),
}

impl FromStr for Pause {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-')) {
            return Ok(Self::Name(text.to_owned()));
        }
        let seconds = text.parse().ok().filter(|seconds| (SHORTEST..=LONGEST).contains(seconds));
        seconds.map(Self::Seconds).ok_or_else(|| {
            format!("must be {SHORTEST} to {LONGEST} seconds; the name of a container goes before --watch")
        })
    }
}

impl Watching {
    /// Time between two looks, if there is to be more than one; a name that was meant as such goes where
    /// it belongs.
    pub fn every(&self, only: &mut Vec<String>) -> Option<Duration> {
        match self.watch.as_ref()? {
            Pause::Seconds(seconds) => Some(Duration::from_secs_f64(*seconds)),
            Pause::Name(name) => {
                only.insert(0, name.clone());
                Some(Duration::from_secs(1))
            }
        }
    }
}

/// Prints what `look` says, every so often. A terminal shows the last one only.
pub async fn repeat(
    every: Duration,
    json: bool,
    mut look: impl AsyncFnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let mut ending = Ending::listen()?;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        let text = tokio::select! {
            text = async { tick.tick().await; look().await } => text?,
            () = ending.wanted() => return Ok(()),
        };
        match (json, io::stdout().is_terminal()) {
            (true, _) => print(&text)?,
            (false, true) => print(&screen(&text, first))?,
            (false, false) => print(&format!("{}{text}", if first { "" } else { "\n" }))?,
        }
        first = false;
    }
}

/// Over what is there line by line, so that nothing flickers; not more than fits.
fn screen(text: &str, first: bool) -> String {
    let rows = table::size().map_or(usize::MAX, |(_, rows)| rows - 1);
    let lines: Vec<&str> = text.lines().collect();
    let shown = if lines.len() > rows { rows.saturating_sub(1) } else { lines.len() };
    let mut out = String::from(if first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    for line in &lines[..shown] {
        let _ = write!(out, "{line}\x1b[K\r\n");
    }
    if shown < lines.len() {
        let _ = write!(out, "({} more lines)\x1b[K\r\n", lines.len() - shown);
    }
    out + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_or_a_name() {
        assert_eq!("2".parse(), Ok(Pause::Seconds(2.0)));
        assert_eq!("0.5".parse(), Ok(Pause::Seconds(0.5)));
        assert_eq!("web".parse(), Ok(Pause::Name("web".into())));
        assert_eq!("1e0352fd32ac".parse(), Ok(Pause::Name("1e0352fd32ac".into())));
        for bad in ["0", "-1", "3601", "1.2.3", "123456789012"] {
            assert!(bad.parse::<Pause>().unwrap_err().contains("0.1 to 3600"), "{bad}");
        }
    }
}
