//! Frames by class, as a table.
use driver_common::Detailed;

use super::table;
use crate::report::EndpointReport;

/// Groups of classes, each with its name for people.
fn classes(of: &Detailed) -> [Vec<(&'static str, u64)>; 4] {
    [
        vec![
            ("unicast", of.unicast),
            ("multicast", of.multicast),
            ("broadcast", of.broadcast),
            ("VLAN-tagged", of.vlan_tagged),
        ],
        vec![("IPv4", of.ipv4), ("IPv6", of.ipv6), ("ARP", of.arp), ("other EtherType", of.other_ethertype)],
        vec![("TCP", of.tcp), ("UDP", of.udp), ("ICMP", of.icmp)],
        vec![
            ("64 octets", of.pkts_64_octets),
            ("65-127", of.pkts_65_to_127_octets),
            ("128-255", of.pkts_128_to_255_octets),
            ("256-511", of.pkts_256_to_511_octets),
            ("512-1023", of.pkts_512_to_1023_octets),
            ("1024-1518", of.pkts_1024_to_1518_octets),
            ("1519 and more", of.pkts_1519_to_max_octets),
        ],
    ]
}

/// A table of packets for each endpoint whose network has `counters=detailed`, each after an empty line.
/// Its numbers are as `count` shows them.
pub fn tables(reports: &[EndpointReport], count: fn(u64) -> String) -> String {
    let mut text = String::new();
    for report in reports {
        let of = |side: Option<Option<Detailed>>| side.flatten();
        let Some(rx) = of(report.rx.map(|rx| rx.detailed)) else { continue };
        let Some(tx) = of(report.tx.map(|tx| tx.detailed)) else { continue };
        let name = report.container.as_deref().unwrap_or_else(|| report.endpoint_id.short());
        text.push('\n');
        text.push_str(&table_of(name, &rx, &tx, count));
    }
    if text.is_empty() {
        text.push_str(
            "\nNone of these is counted in detail: their networks were made without counters=detailed.\n",
        );
    }
    text
}

/// A container's name heads the column of classes, and leaves room for the others on 80 columns.
const NAME: usize = 24;

/// Two classes a line: those of the wire at the left, the sizes at the right.
fn table_of(name: &str, rx: &Detailed, tx: &Detailed, count: fn(u64) -> String) -> String {
    let rows = |groups: &[usize]| -> Vec<[String; 3]> {
        let (rx, tx) = (classes(rx), classes(tx));
        let of = |group: &usize| rx[*group].clone().into_iter().zip(tx[*group].clone());
        groups.iter().flat_map(of).map(|((name, rx), (_, tx))| [name.into(), count(rx), count(tx)]).collect()
    };
    let (left, right) = (rows(&[0, 1]), rows(&[2, 3]));
    let mut table =
        table::new(&[&table::cut(name, NAME), "RX PKTS", "TX PKTS", "", "RX PKTS", "TX PKTS"], [1, 2, 4, 5]);
    for index in 0..left.len().max(right.len()) {
        let cells = |side: &[[String; 3]]| side.get(index).cloned().unwrap_or_default();
        table.add_row([cells(&left), cells(&right)].concat());
    }
    table::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::units;

    #[test]
    fn a_table_fits_80_columns_with_numbers_as_they_are_after_a_year() {
        let many = Detailed { tcp: 1_234_567_890_123, ..Detailed::default() };
        let most =
            Detailed { unicast: 1_234_567_890_123, pkts_1519_to_max_octets: 1_234_567_890_123, ..many };
        for name in ["a-container-1", &"a-long-name-".repeat(5)] {
            let text = table_of(name, &most, &most, units::count);
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let text = table_of("a-container-1", &most, &most, units::count);
        for name in ["unicast ", "ARP", "TCP", "64 octets", "1519 and more"] {
            assert!(text.contains(name), "{text}");
        }
    }
}
