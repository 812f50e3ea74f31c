//! How suites came out, by what their test programs say at their ends.
use std::fmt;

use anyhow::{Result, bail, ensure};

use crate::step::{note, say};

/// How a suite came out.
pub enum Outcome {
    Ran(Tally),
    /// It can't be run here, and this is why.
    Skipped(String),
    /// It did not get to the end.
    Broken(String),
}

/// What a suite's test programs said at their ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u32,
    pub failed: u32,
    ignored: u32,
}

/// What a suite came to, a line each, and then all of them together.
pub fn conclude(outcomes: &[(String, Outcome)], strict: bool) -> Result<()> {
    say("The tests");
    let mut all = Tally::default();
    let (mut skipped, mut bad) = (Vec::new(), Vec::new());
    for (suite, outcome) in outcomes {
        note(&format!("{suite:12} {outcome}"));
        match outcome {
            Outcome::Ran(tally) => {
                all.passed += tally.passed;
                all.failed += tally.failed;
                all.ignored += tally.ignored;
                if tally.failed > 0 {
                    bad.push(suite.clone());
                }
            }
            Outcome::Skipped(_) => skipped.push(suite.clone()),
            Outcome::Broken(_) => bad.push(suite.clone()),
        }
    }
    let ran = outcomes.len() - skipped.len();
    let skipping =
        if skipped.is_empty() { String::new() } else { format!("; SKIPPED: {}", skipped.join(", ")) };
    let line = format!("{all}, in {ran} of {} suites{skipping}", outcomes.len());
    if !bad.is_empty() {
        bail!("tests failed in {}: {line}", bad.join(", "));
    }
    ensure!(skipped.is_empty() || !strict, "nothing may be left out: {line}");
    ensure!(ran == 0 || all.passed > 0, "not one test was run: {line}");
    say(&format!("No test failed: {line}"));
    Ok(())
}

impl Tally {
    /// Adds up the last lines of test programs, if there are any.
    pub fn of(output: &str) -> Option<Self> {
        let lines = output.lines().filter_map(|line| line.split_once("test result: "));
        let tallies = lines.map(|(_, counts)| {
            let count = |what| {
                let before = counts.split(what).next().filter(|before| before.len() < counts.len());
                before.and_then(|before| before.trim().rsplit(' ').next()?.parse().ok()).unwrap_or(0)
            };
            Self { passed: count(" passed"), failed: count(" failed"), ignored: count(" ignored") }
        });
        tallies.reduce(|a, b| Self {
            passed: a.passed + b.passed,
            failed: a.failed + b.failed,
            ignored: a.ignored + b.ignored,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} not run", self.ignored)?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ran(tally) => tally.fmt(f),
            Self::Skipped(why) => write!(f, "SKIPPED: {why}"),
            Self::Broken(why) => write!(f, "FAILED: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn the_ends_of_test_programs_are_added_up() {
        let output = "test a ... ok\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s\n\
            \r\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\r\n";
        assert_eq!(Tally::of(output), Some(Tally { passed: 15, failed: 2, ignored: 1 }));
    }

    #[test]
    fn without_an_end_there_is_no_tally() {
        assert_eq!(Tally::of("test a ... ok\nKernel panic"), None);
    }
}
