//! The driver's figures beside those in the kernel's map, which they must equal.
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::interrupt;
use crate::process::{self, command};

/// What `stats` promises.
const FIELDS: [&str; 5] = ["rx.packets", "rx.bytes", "tx.packets", "tx.bytes", "tx.spoofed"];
/// A late packet may come between two readings.
const ATTEMPTS: usize = 20;

type Counts = BTreeMap<String, u64>;

/// Counters on which all sources agree.
pub struct Figures {
    stats: Counts,
    /// Per CPU.
    map: Vec<Counts>,
}

impl Figures {
    /// Reads `stats --json` between two equal readings of the pinned map.
    pub fn agreed(map: &Path, endpoint: &str, stats: impl Fn() -> Result<String>) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            interrupt::check()?;
            let before = dump(map)?;
            let stats = of_endpoint(&stats()?, endpoint)?;
            if before != dump(map)? {
                continue;
            }
            for field in FIELDS {
                let (told, kernel) = (stats.get(field), sum(&before, field));
                ensure!(
                    told.copied() == kernel,
                    "`docker-passthrough stats` says {field} = {told:?}, the map {} adds up to {kernel:?}",
                    map.display()
                );
            }
            return Ok(Self { stats, map: before });
        }
        bail!("{} changed during each of {ATTEMPTS} readings: somebody is sending", map.display())
    }

    /// Shows them side by side.
    pub fn show(&self, map: &Path) {
        println!("$ bpftool map dump pinned {}", map.display());
        println!("{:12} {:>12} = {:>12}   per CPU", "", "stats", "map");
        for field in FIELDS {
            let cpus: Vec<_> = self.map.iter().map(|cpu| cpu.get(field).unwrap_or(&0).to_string()).collect();
            let told = self.stats.get(field).unwrap_or(&0);
            println!(
                "{field:12} {told:>12} = {:>12}   {}",
                sum(&self.map, field).unwrap_or(0),
                cpus.join(" + ")
            );
        }
    }

    /// The bulk traffic must be in them.
    pub fn at_least(&self, bytes: u64) -> Result<()> {
        for field in ["rx.bytes", "tx.bytes"] {
            let counted = sum(&self.map, field).unwrap_or(0);
            ensure!(counted >= bytes, "{bytes} bytes went each way, yet {field} is {counted}");
        }
        Ok(())
    }
}

fn sum(cpus: &[Counts], field: &str) -> Option<u64> {
    cpus.iter().map(|cpu| cpu.get(field)).sum()
}

/// What the map has for each CPU.
fn dump(map: &Path) -> Result<Vec<Counts>> {
    let text = process::text(command("bpftool").args(["--json", "map", "dump", "pinned"]).arg(map))?;
    let entries: Value = serde_json::from_str(&text).context("reading bpftool's JSON")?;
    // With BTF bpftool adds what is readable beside the bytes.
    let formatted = entries.pointer("/0/formatted/values").or_else(|| entries.pointer("/0/values"));
    let values = formatted.and_then(Value::as_array);
    let values =
        values.with_context(|| format!("{} is no per-CPU map with one entry: {text}", map.display()))?;
    let cpus: Vec<_> = values.iter().map(|value| counts(&value["value"])).collect();
    ensure!(
        cpus.iter().all(|cpu| FIELDS.iter().all(|field| cpu.contains_key(*field))),
        "{} lacks some of {}: {text}",
        map.display(),
        FIELDS.join(", ")
    );
    Ok(cpus)
}

fn of_endpoint(stats: &str, endpoint: &str) -> Result<Counts> {
    let all: Value =
        serde_json::from_str(stats).with_context(|| format!("`stats --json` is no JSON: {stats}"))?;
    let one = all.as_array().into_iter().flatten().find(|one| one["endpoint_id"] == endpoint);
    Ok(counts(one.with_context(|| format!("`stats --json` has no endpoint {endpoint}: {stats}"))?))
}

/// Every number, by its path.
fn counts(value: &Value) -> Counts {
    let mut found = Counts::new();
    let mut open = vec![(String::new(), value)];
    while let Some((path, value)) = open.pop() {
        if let Some(number) = value.as_u64() {
            found.insert(path, number);
        } else if let Some(fields) = value.as_object() {
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            open.extend(fields.iter().map(|(name, value)| (below(name), value)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{counts, of_endpoint};

    #[test]
    fn numbers_are_found_by_their_path() {
        let found = counts(&json!({"rx": {"packets": 1, "bytes": 2}, "mode": "passthrough", "size": [1, 2]}));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("rx.bytes".into(), 2), ("rx.packets".into(), 1)]);
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_named() {
        let error = of_endpoint(r#"[{"endpoint_id": "a"}]"#, "b").unwrap_err().to_string();
        assert!(error.contains("has no endpoint b"), "{error}");
    }
}
