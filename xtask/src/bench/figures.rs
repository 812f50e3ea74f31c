//! Medians, spreads, and tables of them.

/// What was measured several times, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(1, 2)
    }

    /// A quarter of them is below it.
    pub fn lower_quartile(&self) -> f64 {
        self.quantile(1, 4)
    }

    /// A quarter of them is above it.
    pub fn upper_quartile(&self) -> f64 {
        self.quantile(3, 4)
    }

    /// The differences from what was measured at the same times: what changes with time is in both.
    pub fn over(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(sample, other)| sample - other).collect())
    }

    /// The ratios to what was measured at the same times.
    pub fn of(&self, others: &Self) -> Self {
        Self(self.0.iter().zip(&others.0).map(|(sample, other)| sample / other).collect())
    }

    fn quantile(&self, part: usize, of: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(last), all) = (sorted.len().checked_sub(1), part * sorted.len()) else { return f64::NAN };
        // Between two where it falls between them.
        let low = if all.is_multiple_of(of) { (all / of).max(1) - 1 } else { all / of };
        f64::midpoint(sorted[low], sorted[(all / of).min(last)])
    }
}

/// Lines up rows: the first column at the left, numbers at the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: &[f64]) -> Samples {
        let mut samples = Samples::default();
        for sample in of {
            samples.push(*sample);
        }
        samples
    }

    #[test]
    fn the_middle_one() {
        for (of, quartiles) in [
            (&[5.0][..], [5.0, 5.0, 5.0]),
            (&[5.0, 1.0], [1.0, 3.0, 5.0]),
            (&[5.0, 1.0, 9.0], [1.0, 5.0, 9.0]),
            (&[5.0, 1.0, 9.0, 7.0], [3.0, 6.0, 8.0]),
        ] {
            let of = samples(of);
            let found = [of.lower_quartile(), of.median(), of.upper_quartile()];
            assert!(found.iter().zip(quartiles).all(|(a, b)| (a - b).abs() < 1e-9), "{of:?}: {found:?}");
        }
        assert!(samples(&[]).median().is_nan());
    }

    #[test]
    fn differences_are_taken_at_the_same_time() {
        let over = samples(&[2.0, 12.0, 103.0]).over(&samples(&[1.0, 10.0, 100.0]));
        assert!((over.median() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_taken_at_the_same_time() {
        let of = samples(&[2.0, 10.0, 300.0]).of(&samples(&[1.0, 10.0, 100.0]));
        assert!((of.median() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "10"], ["bcd", "9"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a    10\nbcd   9\n");
    }
}
