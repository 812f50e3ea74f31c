//! The driver's log, on standard error: a line an event, whoever chose the names in it.
use std::{
    fmt,
    io::{self, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    str::FromStr,
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    filter::LevelFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Writer},
    },
    registry::LookupSpan,
};

/// How lines are written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum LogFormat {
    /// For people, and for systemd's journal, which gets the level and keeps the time itself
    Text,
    /// An object a line
    Json,
}

/// What is logged: a level, or a level for each target.
#[derive(Clone, Debug)]
pub struct Filter(String);

/// Its warnings are about attributes that it does not know, one a message.
const QUIETER: &str = "netlink_packet_route=error";

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A variable can be made empty where it can't be taken away.
        let text = if text.is_empty() { "info" } else { text };
        let all = format!("{QUIETER},{text}");
        let parsed = EnvFilter::builder().parse(&all);
        // To tracing a bare word is a target, and nothing else would be logged.
        let bare = text.split(',').find(|part| !part.contains('=') && part.parse::<LevelFilter>().is_err());
        if bare.is_some() || parsed.is_err() {
            let bad = bare.unwrap_or(text);
            return Err(format!("{bad}: must be error, warn, info, debug, trace or off, or TARGET=LEVEL"));
        }
        Ok(Self(all))
    }
}

/// Starts the log.
pub fn start(as_what: LogFormat, Filter(filter): Filter) {
    let filter = EnvFilter::new(filter);
    // Nobody may read it any more, or its disk be full: the driver goes on.
    let log =
        tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(io::stderr);
    let fields = format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{}", OneLine(&format!("{value:?}"))),
        // Of records of the `log` crate, and in the line already.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={}", OneLine(&format!("{value:?}"))),
    });
    let fields = fields.delimited(" ");
    match as_what {
        LogFormat::Text if is_journal() => {
            let line = format::format().without_time().with_target(false).with_ansi(false);
            log.fmt_fields(fields).with_ansi(false).event_format(Journal(line)).init();
        }
        LogFormat::Text => {
            log.fmt_fields(fields).with_ansi(io::stderr().is_terminal()).with_target(false).init();
        }
        LogFormat::Json => log.json().init(),
    }
}

/// Whether systemd's journal reads our standard error (`systemd.exec(5)`, `$JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(ours) = io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from) else { return false };
    ours.metadata().is_ok_and(|ours| stream == format!("{}:{}", ours.dev(), ours.ino()))
}

/// A line with its level in front, as the journal understands it (`sd-daemon(3)`).
struct Journal<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// Longer ones are nobody's names, and of no use in a log.
const MAX_FIELD: usize = 4096;

/// Without what would end the line, or do something to a terminal or to the order of what is read there.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bad = |c: char| {
            c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        let (text, cut) = self.0.split_at(self.0.floor_char_boundary(MAX_FIELD));
        for piece in text.split_inclusive(is_bad) {
            match piece.chars().next_back().filter(|last| is_bad(*last)) {
                None => f.write_str(piece)?,
                Some(last) => {
                    f.write_str(piece.strip_suffix(last).unwrap_or(piece))?;
                    write!(f, "{}", last.escape_default())?;
                }
            }
        }
        if cut.is_empty() { Ok(()) } else { f.write_str("…") }
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, MAX_FIELD, OneLine};

    #[test]
    fn a_filter_that_hides_all_by_accident_is_refused() {
        for (text, means) in [("", "info"), ("debug", "debug"), ("warn,docker_passthrough=trace", "warn")] {
            let Filter(filter) = text.parse().unwrap();
            assert!(filter.starts_with("netlink_packet_route=error,") && filter.contains(means), "{filter}");
        }
        for bad in ["inof", "docker_passthrough", "warn,x", "docker_passthrough=loud", "info debug"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
        assert!("inof".parse::<Filter>().unwrap_err().starts_with("inof: must be error, warn, info"));
    }

    #[test]
    fn a_line_stays_one() {
        let line = |text| OneLine(text).to_string();
        assert_eq!(line("plain, \"quoted\", grün\\n"), "plain, \"quoted\", grün\\n");
        assert_eq!(line("a\nb\r\0\u{7f}"), "a\\nb\\r\\u{0}\\u{7f}");
        assert_eq!(line("\u{1b}[31mred\u{9b}"), "\\u{1b}[31mred\\u{9b}");
        assert_eq!(line("\u{2028}x\u{202e}"), "\\u{2028}x\\u{202e}");
        let long = line(&"ü".repeat(3000));
        assert!(long.len() < MAX_FIELD + 4 && long.ends_with("ü…"), "{}", long.len());
    }
}
