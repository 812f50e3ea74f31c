//! Numbers for people.

/// A number of bytes in binary units, as `docker stats` and `ip -s -h` have them: `1.5 GiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.995 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A number of frames: exact as long as it has seven digits at most, then `12.3 M`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn count(count: u64) -> String {
    if count < 10_000_000 { count.to_string() } else { rate(count as f64) }
}

/// So many a second, in decimal units, as rates on a wire are given: `9.87 G`.
pub fn rate(mut value: f64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if value < 999.5 {
        let decimals = usize::from((0.05..9.95).contains(&value));
        return format!("{:.decimals$}", value.max(0.0));
    }
    value /= 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (104_857_600, "100 MiB"),
            (1_048_575, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn decimal() {
        for (number, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.5, "0.5"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00 k"),
            (14_880_952.4, "14.9 M"),
            (9_995_000.0, "10.0 M"),
            (99_960_000.0, "100 M"),
            (1e11, "100 G"),
            (-1.0, "0"),
        ] {
            assert_eq!(rate(number), text, "{number}");
        }
        assert_eq!((count(9_999_999), count(10_000_000)), ("9999999".into(), "10.0 M".into()));
    }
}
