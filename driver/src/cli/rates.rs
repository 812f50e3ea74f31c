//! How fast counters move: their differences over the time that really passed.
use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

use crate::{report::EndpointReport, state::EndpointId};

/// Per second, between two looks at one endpoint. The field names are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Time between the looks.
    pub seconds: f64,
    /// Frames received.
    pub rx_packets_per_second: f64,
    /// Bits received, FCS, preamble and gaps between frames not included.
    pub rx_bits_per_second: f64,
    /// Frames sent.
    pub tx_packets_per_second: f64,
    /// Bits sent.
    pub tx_bits_per_second: f64,
    /// Frames with a source MAC that is not the endpoint's.
    pub spoofed_per_second: f64,
}

/// What one endpoint had counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    spoofed: u64,
}

impl Counts {
    /// None while it is not counted.
    fn of(report: &EndpointReport) -> Option<Self> {
        let (rx, tx) = (report.rx?, report.tx?);
        Some(Self {
            rx_packets: rx.packets,
            rx_bytes: rx.bytes,
            tx_packets: tx.packets,
            tx_bytes: tx.bytes,
            spoofed: tx.spoofed,
        })
    }
}

/// Remembers the last look.
#[derive(Debug, Default)]
pub struct Meter {
    at: Option<Instant>,
    counts: BTreeMap<EndpointId, Counts>,
}

impl Meter {
    /// The rates since the last call, in the order of `reports`; none for endpoints that were not there.
    pub fn rates(&mut self, at: Instant, reports: &[EndpointReport]) -> Vec<Option<Rates>> {
        self.since_last(at, reports.iter().map(|report| (report.endpoint_id.clone(), Counts::of(report))))
    }

    fn since_last(
        &mut self,
        at: Instant,
        counts: impl Iterator<Item = (EndpointId, Option<Counts>)>,
    ) -> Vec<Option<Rates>> {
        let seconds = self.at.replace(at).and_then(|before| at.checked_duration_since(before));
        let before = std::mem::take(&mut self.counts);
        let rate = |(id, now): (EndpointId, Option<Counts>)| {
            let now = now?;
            let rates = before.get(&id).and_then(|before| between(before, &now, seconds?.as_secs_f64()));
            self.counts.insert(id, now);
            rates
        };
        counts.map(rate).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is counted between two looks is far below 2^52")]
fn between(before: &Counts, now: &Counts, seconds: f64) -> Option<Rates> {
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    (seconds > 0.0).then(|| Rates {
        seconds,
        rx_packets_per_second: per_second(before.rx_packets, now.rx_packets),
        rx_bits_per_second: 8.0 * per_second(before.rx_bytes, now.rx_bytes),
        tx_packets_per_second: per_second(before.tx_packets, now.tx_packets),
        tx_bits_per_second: 8.0 * per_second(before.tx_bytes, now.tx_bytes),
        spoofed_per_second: per_second(before.spoofed, now.spoofed),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(meter: &mut Meter, at: Instant, counts: &[(&str, Option<u64>)]) -> Vec<Option<Rates>> {
        let counts = counts.iter().map(|(id, packets)| {
            let counts = packets.map(|packets| Counts {
                rx_packets: packets,
                rx_bytes: 100 * packets,
                tx_packets: 2 * packets,
                tx_bytes: 0,
                spoofed: packets,
            });
            (id.parse().unwrap(), counts)
        });
        meter.since_last(at, counts)
    }

    #[test]
    fn differences_over_the_time_that_passed() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!(look(&mut meter, start, &[("a0", Some(10))]), [None]);
        let later = start + Duration::from_millis(2500);
        let rates = look(&mut meter, later, &[("b0", Some(7)), ("a0", Some(1010))]);
        assert_eq!(rates[0], None, "one that is new");
        let rates = rates[1].unwrap();
        let close = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-6, "{value} {wanted}");
        close(rates.seconds, 2.5);
        close(rates.rx_packets_per_second, 400.0);
        close(rates.rx_bits_per_second, 320_000.0);
        close(rates.tx_packets_per_second, 800.0);
        close(rates.spoofed_per_second, 400.0);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_is_not_counted_has_no_rate() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        look(&mut meter, at(0), &[("a0", Some(10))]);
        look(&mut meter, at(1), &[]);
        assert_eq!(look(&mut meter, at(2), &[("a0", Some(20))]), [None]);
        assert_eq!(look(&mut meter, at(3), &[("a0", None)]), [None]);
        assert_eq!(look(&mut meter, at(3), &[("a0", Some(30))]), [None]);
    }
}
