//! What `top` shows: rows, their order, and which of them.
use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
};

use crate::{
    cli::{
        rates::Rates,
        stats::{holder, hooks},
    },
    report::{Bypass, EndpointReport},
    state::EndpointId,
};

/// How many looks a sparkline remembers.
const REMEMBERED: usize = 120;

/// One container at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The endpoint's id.
    pub id: EndpointId,
    /// The container's name, else the endpoint's short id.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// The netdev's name on the host.
    pub netdevice: String,
    /// None at the first look, and while it is not counted.
    pub rates: Option<Rates>,
    /// Frames with a foreign source MAC, so far.
    pub spoofed: u64,
    /// Frames past our hooks, so far; none where nobody else counts.
    pub bypass: Option<u64>,
    /// `xdp/tcx`
    pub hooks: String,
}

impl Sample {
    /// As `stats` has it.
    pub fn new(report: &EndpointReport, rates: Option<Rates>) -> Self {
        let network = report.network.clone();
        Self {
            id: report.endpoint_id.clone(),
            container: holder(report).to_owned(),
            network: network.unwrap_or_else(|| "-".into()),
            netdevice: report.netdevice.clone().unwrap_or_else(|| "-".into()),
            rates,
            spoofed: report.tx.map_or(0, |tx| tx.spoofed),
            bypass: bypass(report),
            hooks: hooks(report),
        }
    }
}

/// Frames past our hooks, both ways.
fn bypass(report: &EndpointReport) -> Option<u64> {
    let Bypass { rx_packets, tx_packets } = report.bypass();
    rx_packets.or(tx_packets)?;
    Some(rx_packets.unwrap_or(0) + tx_packets.unwrap_or(0))
}

/// What rows are sorted by, in the order in which they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The container's name.
    Container,
    /// Received frames a second.
    RxPackets,
    /// Received bits a second.
    RxBits,
    /// Sent frames a second.
    TxPackets,
    /// Sent bits a second.
    TxBits,
    /// Frames with a foreign source MAC.
    Spoofed,
    /// Frames past our hooks.
    Bypass,
    /// Where frames are counted.
    Hook,
}

impl Column {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Container,
        Self::RxPackets,
        Self::RxBits,
        Self::TxPackets,
        Self::TxBits,
        Self::Spoofed,
        Self::Bypass,
        Self::Hook,
    ];

    /// What stands above it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Container => "CONTAINER",
            Self::RxPackets => "RX PPS",
            Self::RxBits => "RX BIT/S",
            Self::TxPackets => "TX PPS",
            Self::TxBits => "TX BIT/S",
            Self::Spoofed => "SPOOFED",
            Self::Bypass => "BYPASS",
            Self::Hook => "HOOK",
        }
    }

    /// Names from A to Z, numbers from the largest.
    fn compare(self, a: &Sample, b: &Sample) -> Ordering {
        let rate = |of: fn(&Rates) -> f64| {
            let rate = |sample: &Sample| sample.rates.as_ref().map_or(-1.0, of);
            rate(b).total_cmp(&rate(a))
        };
        match self {
            Self::Container => a.container.cmp(&b.container),
            Self::RxPackets => rate(|rates| rates.rx_packets_per_second),
            Self::RxBits => rate(|rates| rates.rx_bits_per_second),
            Self::TxPackets => rate(|rates| rates.tx_packets_per_second),
            Self::TxBits => rate(|rates| rates.tx_bits_per_second),
            Self::Spoofed => b.spoofed.cmp(&a.spoofed),
            Self::Bypass => b.bypass.cmp(&a.bypass),
            Self::Hook => a.hooks.cmp(&b.hooks),
        }
    }
}

/// All that is known, and how it is to be shown.
#[derive(Debug)]
pub struct Model {
    samples: Vec<Sample>,
    history: BTreeMap<EndpointId, VecDeque<f64>>,
    /// What rows are sorted by.
    pub sort: Column,
    /// The other way round.
    pub reverse: bool,
    /// Rows that have this in one of their names, in whatever case.
    pub filter: String,
    /// What is shown stays.
    pub paused: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            history: BTreeMap::new(),
            sort: Column::RxBits,
            reverse: false,
            filter: String::new(),
            paused: false,
        }
    }
}

impl Model {
    /// Takes in a look, unless it is paused.
    pub fn update(&mut self, samples: Vec<Sample>) {
        if self.paused {
            return;
        }
        let mut before = std::mem::take(&mut self.history);
        for sample in &samples {
            let mut history = before.remove(&sample.id).unwrap_or_default();
            if let Some(rates) = &sample.rates {
                history.push_back(rates.rx_bits_per_second + rates.tx_bits_per_second);
                history.drain(..history.len().saturating_sub(REMEMBERED));
            }
            self.history.insert(sample.id.clone(), history);
        }
        self.samples = samples;
    }

    /// The rows, in order.
    pub fn rows(&self) -> Vec<&Sample> {
        let wanted = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        let mut rows: Vec<_> = self
            .samples
            .iter()
            .filter(|row| {
                has(&row.container)
                    || has(&row.network)
                    || has(&row.netdevice)
                    || row.id.as_str().starts_with(&wanted)
            })
            .collect();
        rows.sort_by(|a, b| {
            let order = self.sort.compare(a, b);
            let order = if self.reverse { order.reverse() } else { order };
            // Rows that are alike do not change places at each look.
            order.then_with(|| a.container.cmp(&b.container)).then_with(|| a.id.cmp(&b.id))
        });
        rows
    }

    /// How many there are, whether shown or not.
    pub fn total(&self) -> usize {
        self.samples.len()
    }

    /// Bits a second both ways at the last looks, the newest last.
    pub fn history(&self, id: &EndpointId) -> impl DoubleEndedIterator<Item = f64> {
        self.history.get(id).into_iter().flatten().copied()
    }

    /// Sorts by the next column to the right, or to the left.
    pub fn move_sort(&mut self, right: bool) {
        let (all, count) = (Column::ALL, Column::ALL.len());
        let now = all.iter().position(|column| *column == self.sort).unwrap_or_default();
        self.sort = all[(now + if right { 1 } else { count - 1 }) % count];
        self.reverse = false;
    }
}

/// A line of bars: the last `width` values, each by its part of the largest.
pub fn sparkline(values: impl DoubleEndedIterator<Item = f64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut last: Vec<f64> = values.rev().take(width).collect();
    last.reverse();
    let largest = last.iter().copied().fold(0.0, f64::max);
    let bar = |value: f64| {
        let level = BARS.iter().take_while(|_| largest > 0.0).enumerate();
        #[expect(clippy::cast_precision_loss, reason = "eight of them")]
        let reached = level.filter(|(index, _)| value / largest * 8.0 > *index as f64).last();
        reached.map_or(BARS[0], |(_, bar)| *bar)
    };
    let bars: String = last.iter().map(|&value| bar(value)).collect();
    format!("{bars:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: &str, container: &str, rx: f64, spoofed: u64) -> Sample {
        Sample {
            id: id.parse().unwrap(),
            container: container.into(),
            network: "red".into(),
            netdevice: format!("nic-{id}"),
            rates: Some(Rates {
                seconds: 1.0,
                rx_packets_per_second: rx / 10.0,
                rx_bits_per_second: rx,
                tx_packets_per_second: 0.0,
                tx_bits_per_second: 1.0,
                spoofed_per_second: 0.0,
            }),
            spoofed,
            bypass: None,
            hooks: "tcx/tcx".into(),
        }
    }

    fn names(model: &Model) -> Vec<&str> {
        model.rows().iter().map(|row| row.container.as_str()).collect()
    }

    fn model() -> Model {
        let mut model = Model::default();
        let new = Sample { rates: None, ..sample("a3", "new", 0.0, 5) };
        model.update(vec![sample("a1", "web", 10.0, 0), sample("a2", "db", 300.0, 0), new]);
        model
    }

    #[test]
    fn sorted_by_any_column_either_way() {
        let mut model = model();
        assert_eq!(names(&model), ["db", "web", "new"]);
        model.reverse = true;
        assert_eq!(names(&model), ["new", "web", "db"]);
        model.reverse = false;
        for (column, wanted) in [
            (Column::Container, ["db", "new", "web"]),
            (Column::RxPackets, ["db", "web", "new"]),
            (Column::Spoofed, ["new", "db", "web"]),
            (Column::Hook, ["db", "new", "web"]),
        ] {
            model.sort = column;
            assert_eq!(names(&model), wanted, "{column:?}");
        }
        model.move_sort(true);
        assert_eq!(model.sort, Column::Container);
        model.move_sort(false);
        assert_eq!(model.sort, Column::Hook);
    }

    #[test]
    fn filtered_by_any_name() {
        let mut model = model();
        for (filter, wanted) in [
            ("WE", &["web"][..]),
            ("nic-a2", &["db"]),
            ("a3", &["new"]),
            ("red", &["db", "web", "new"]),
            ("zz", &[]),
        ] {
            model.filter = filter.into();
            assert_eq!(names(&model), wanted, "{filter}");
            assert_eq!(model.total(), 3);
        }
    }

    #[test]
    fn paused_is_paused_and_the_gone_are_forgotten() {
        let mut model = model();
        model.paused = true;
        model.update(Vec::new());
        assert_eq!(model.total(), 3);
        model.paused = false;
        let web = "a1".parse().unwrap();
        model.update(vec![sample("a1", "web", 20.0, 0)]);
        assert_eq!(model.history(&web).collect::<Vec<_>>(), [11.0, 21.0]);
        for _ in 0..2 * REMEMBERED {
            model.update(vec![sample("a1", "web", 30.0, 0)]);
        }
        assert_eq!(model.history(&web).count(), REMEMBERED);
        model.update(Vec::new());
        assert_eq!(model.history(&web).count(), 0);
    }

    #[test]
    fn bars() {
        let line = |values: &[f64], width| sparkline(values.iter().copied(), width);
        assert_eq!(line(&[0.0, 4.0, 8.0], 5), "  ▁▄█");
        assert_eq!(line(&[9.0, 0.0, 0.0], 2), "▁▁");
        assert_eq!(line(&[], 3), "   ");
    }
}
