//! The families: what each is called, what it means, and where its figures come from.
//!
//! What has no figure is left out, never 0: a netdev that is not found, hardware that does not count.
use std::fmt;

use driver_common::Detailed;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter},
    registry::{Registry, Unit},
};

use super::{
    Recorder,
    collect::{Row, Snapshot},
    labels::Labels,
};
use crate::{
    counters::{Hook, SpoofCheck},
    device::Stats,
    report::{RxReport, VfValues},
};

/// What all names begin with.
const PREFIX: &str = "docker_passthrough";

#[derive(Clone, Copy)]
enum Of {
    Packets,
    Bytes,
}

impl Of {
    fn unit(self) -> Unit {
        match self {
            Self::Packets => Unit::Other("packets".to_owned()),
            Self::Bytes => Unit::Bytes,
        }
    }
}

/// A family with a series for each endpoint that has a figure.
struct Family {
    /// Without prefix and unit.
    name: &'static str,
    of: Of,
    help: &'static str,
    value: fn(&Row) -> Option<u64>,
}

/// They only grow while the endpoint lives, and end with it.
const COUNTERS: [Family; 18] = [
    Family {
        name: "receive",
        of: Of::Packets,
        help: "Frames that the container received, as on the wire.",
        value: |row| Some(row.report.rx?.packets),
    },
    Family {
        name: "receive",
        of: Of::Bytes,
        help: "Bytes of these frames, from destination MAC to the end of the payload.",
        value: |row| Some(row.report.rx?.bytes),
    },
    Family {
        name: "transmit",
        of: Of::Packets,
        help: "Frames that the container sent, as on the wire.",
        value: |row| Some(row.report.tx?.packets),
    },
    Family {
        name: "transmit",
        of: Of::Bytes,
        help: "Bytes of these frames, from destination MAC to the end of the payload.",
        value: |row| Some(row.report.tx?.bytes),
    },
    Family {
        name: "transmit_spoofed",
        of: Of::Packets,
        help: "Frames that the container tried to send from a MAC that is not its own.",
        value: |row| Some(row.report.tx?.spoofed),
    },
    Family {
        name: "transmit_spoofed_dropped",
        of: Of::Packets,
        help: "Those of them that were dropped: all on an unprivileged network, none on a privileged one.",
        value: |row| {
            let spoofed = row.report.tx?.spoofed;
            row.spoof_check.map(|check| if matches!(check, SpoofCheck::Drop(_)) { spoofed } else { 0 })
        },
    },
    Family {
        name: "netdev_receive",
        of: Of::Packets,
        help: "Packets received, as the netdev's kernel driver counts them.",
        value: |row| netdev(row, |stats| stats.rx_packets),
    },
    Family {
        name: "netdev_receive",
        of: Of::Bytes,
        help: "Bytes received, as the netdev's kernel driver counts them.",
        value: |row| netdev(row, |stats| stats.rx_bytes),
    },
    Family {
        name: "netdev_receive_dropped",
        of: Of::Packets,
        help: "Packets received and dropped, as the netdev's kernel driver counts them.",
        value: |row| netdev(row, |stats| stats.rx_dropped),
    },
    Family {
        name: "netdev_transmit",
        of: Of::Packets,
        help: "Packets sent, as the netdev's kernel driver counts them.",
        value: |row| netdev(row, |stats| stats.tx_packets),
    },
    Family {
        name: "netdev_transmit",
        of: Of::Bytes,
        help: "Bytes sent, as the netdev's kernel driver counts them.",
        value: |row| netdev(row, |stats| stats.tx_bytes),
    },
    Family {
        name: "netdev_transmit_dropped",
        of: Of::Packets,
        help: "Packets dropped instead of being sent, as the netdev's kernel driver counts them.",
        value: |row| netdev(row, |stats| stats.tx_dropped),
    },
    Family {
        name: "vf_receive",
        of: Of::Packets,
        help: "Frames that the hardware received for the VF.",
        value: |row| vf(row, |vf| vf.rx_packets),
    },
    Family {
        name: "vf_receive",
        of: Of::Bytes,
        help: "Bytes that the hardware received for the VF.",
        value: |row| vf(row, |vf| vf.rx_bytes),
    },
    Family {
        name: "vf_receive_dropped",
        of: Of::Packets,
        help: "Frames that the hardware received for the VF and dropped.",
        value: |row| vf(row, |vf| vf.rx_dropped),
    },
    Family {
        name: "vf_transmit",
        of: Of::Packets,
        help: "Frames that the hardware sent for the VF.",
        value: |row| vf(row, |vf| vf.tx_packets),
    },
    Family {
        name: "vf_transmit",
        of: Of::Bytes,
        help: "Bytes that the hardware sent for the VF.",
        value: |row| vf(row, |vf| vf.tx_bytes),
    },
    Family {
        name: "vf_transmit_dropped",
        of: Of::Packets,
        help: "Frames that the hardware dropped instead of sending them for the VF.",
        value: |row| vf(row, |vf| vf.tx_dropped),
    },
];

/// Frames by class, where `counters=detailed`: a series for each class, told apart by a label more.
struct Classes {
    /// Without prefix, direction and unit.
    name: &'static str,
    help: &'static str,
    label: &'static str,
    each: &'static [Class],
}

/// Its name, and how many frames are of it.
type Class = (&'static str, fn(&Detailed) -> u64);

const CLASSES: [Classes; 5] = [
    Classes {
        name: "cast",
        help: "by what their destination MAC is.",
        label: "cast",
        each: &[
            ("unicast", |counted| counted.unicast),
            ("multicast", |counted| counted.multicast),
            ("broadcast", |counted| counted.broadcast),
        ],
    },
    Classes {
        name: "ethertype",
        help: "by their EtherType, behind VLAN tags.",
        label: "ethertype",
        each: &[
            ("ipv4", |counted| counted.ipv4),
            ("ipv6", |counted| counted.ipv6),
            ("arp", |counted| counted.arp),
            ("other", |counted| counted.other_ethertype),
        ],
    },
    Classes {
        name: "protocol",
        help: "by the protocol over IP, where it is one of these.",
        label: "protocol",
        each: &[
            ("tcp", |counted| counted.tcp),
            ("udp", |counted| counted.udp),
            ("icmp", |counted| counted.icmp),
        ],
    },
    Classes {
        name: "tagged",
        help: "that bear a tag.",
        label: "tag",
        each: &[("vlan", |counted| counted.vlan_tagged)],
    },
    Classes {
        name: "size",
        help: "by their size in octets, FCS and padding included (etherStats, RFC 2819).",
        label: "octets",
        each: &[
            ("64", |counted| counted.pkts_64_octets),
            ("65-127", |counted| counted.pkts_65_to_127_octets),
            ("128-255", |counted| counted.pkts_128_to_255_octets),
            ("256-511", |counted| counted.pkts_256_to_511_octets),
            ("512-1023", |counted| counted.pkts_512_to_1023_octets),
            ("1024-1518", |counted| counted.pkts_1024_to_1518_octets),
            ("1519-max", |counted| counted.pkts_1519_to_max_octets),
        ],
    },
];

/// A direction: its name, what is said of frames, and where its classes are.
type Direction = (&'static str, &'static str, fn(&Row) -> Option<Detailed>);

const DIRECTIONS: [Direction; 2] = [
    ("receive", "Frames that the container received", |row| row.report.rx?.detailed),
    ("transmit", "Frames that the container sent", |row| row.report.tx?.detailed),
];

/// Differences of counters that are not read at the same moment: they may shrink a little, so they are no
/// counters.
const GAUGES: [Family; 2] = [
    Family {
        name: "receive_bypass",
        of: Of::Packets,
        help: "Frames that the hardware or the netdev received and our hook did not see: DPDK, RDMA, AF_XDP.",
        value: |row| row.report.bypass().rx_packets,
    },
    Family {
        name: "transmit_bypass",
        of: Of::Packets,
        help: "Frames that the hardware or the netdev sent and our hook did not see: DPDK, RDMA, PACKET_QDISC_BYPASS.",
        value: |row| row.report.bypass().tx_packets,
    },
];

fn netdev(row: &Row, field: fn(&Stats) -> u64) -> Option<u64> {
    row.report.netdev.as_ref().map(field)
}

fn vf(row: &Row, field: fn(&VfValues) -> Option<u64>) -> Option<u64> {
    row.report.vf.as_ref().and_then(|vf| field(&vf.counters))
}

/// The text of the scrape with this number in OpenMetrics.
pub fn openmetrics(snapshot: Snapshot, recorder: &Recorder, number: u64) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    let size = 4096 + 8192 * snapshot.endpoints.len();
    registry.register_collector(Box::new(snapshot));
    registry.register_with_unit(
        "call_duration",
        "How long Docker's calls took to be answered",
        Unit::Seconds,
        recorder.durations.clone(),
    );
    registry.register(
        "call_errors",
        "Calls of Docker's that were answered with an error",
        recorder.errors.clone(),
    );
    let help = "How often metrics were gathered; who asks at the same time is told the same";
    registry.register("collections", help, ConstCounter::new(number));
    let mut text = String::with_capacity(size);
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.endpoints(&mut encoder)?;
        self.driver(&mut encoder)
    }
}

impl Snapshot {
    fn endpoints(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        for Family { name, of, help, value } in &COUNTERS {
            let unit = of.unit();
            let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Counter)?;
            for row in &self.endpoints {
                if let Some(value) = value(row) {
                    family
                        .encode_family(&row.labels)?
                        .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
                }
            }
        }
        self.by_class(encoder)?;
        for Family { name, of, help, value } in &GAUGES {
            let unit = of.unit();
            let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
            for row in &self.endpoints {
                if let Some(value) = value(row) {
                    family.encode_family(&row.labels)?.encode_gauge(&value)?;
                }
            }
        }
        let help = "1 if the netdev is reserved for an endpoint that is over and could not be given back, or can't be found.";
        let limbo = self.endpoints.iter().map(|row| (&row.labels, u64::from(row.in_limbo)));
        gauges(encoder, "netdev_in_limbo", help, limbo)?;
        let help = "How the endpoint is counted.";
        let mut family = encoder.encode_descriptor("endpoint", help, None, MetricType::Info)?;
        for row in &self.endpoints {
            let detailed = |rx: RxReport| if rx.detailed.is_some() { "detailed" } else { "basic" };
            let more = [
                ("mode", row.report.mode.as_deref()),
                ("rx_hook", row.report.rx_hook.map(Hook::name)),
                ("tx_hook", row.report.tx_hook.map(Hook::name)),
                ("counters", row.report.rx.map(detailed)),
                ("spoof_check", row.spoof_check.map(SpoofCheck::name)),
            ];
            let labels = (&row.labels, more.map(|(name, value)| (name, value.unwrap_or_default())));
            family.encode_info(&labels)?;
        }
        Ok(())
    }

    fn by_class(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let unit = Of::Packets.unit();
        for (direction, what, detailed) in DIRECTIONS {
            for Classes { name, help, label, each } in &CLASSES {
                let (name, help) = (format!("{direction}_{name}"), format!("{what}, {help}"));
                let mut family = encoder.encode_descriptor(&name, &help, Some(&unit), MetricType::Counter)?;
                for row in &self.endpoints {
                    let Some(counted) = detailed(row) else { continue };
                    for (class, value) in *each {
                        let labels = (&row.labels, [(*label, *class)]);
                        let value = value(&counted);
                        family
                            .encode_family(&labels)?
                            .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn driver(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "A network and its options.";
        let mut family = encoder.encode_descriptor("network", help, None, MetricType::Info)?;
        for labels in &self.networks {
            family.encode_info(labels)?;
        }
        let help = "The driver.";
        let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("driver", self.driver.clone())];
        encoder.encode_descriptor("build", help, None, MetricType::Info)?.encode_info(&labels)?;

        let pools = |count: fn(&crate::network::pool::Pool) -> usize| {
            self.pools.iter().map(move |pool| {
                let labels = vec![("pf", pool.pf.clone()), ("pciAddr", pool.pci_address.clone())];
                (labels, count(pool) as u64)
            })
        };
        gauges(encoder, "pf_vfs", "VFs that the PF has.", pools(|pool| pool.vfs))?;
        gauges(encoder, "pf_vfs_used", "VFs that containers have.", pools(|pool| pool.used))?;
        let help = "VFs that a container could get; what is neither used nor free is in use by others.";
        gauges(encoder, "pf_vfs_free", help, pools(|pool| pool.free))?;

        let help = "What the driver did without a call: comparing what it remembers with what is.";
        let done = self.upkeep.iter().map(|(action, done, _)| (action.name(), *done));
        counters(encoder, "reconcile_actions", help, done)?;
        let help = "What of this failed, and is tried again.";
        let failed = self.upkeep.iter().map(|(action, _, failed)| (action.name(), *failed));
        counters(encoder, "reconcile_failures", help, failed)?;

        let help = "1 if all netdevs and PFs answered in time for this scrape; else some of their series are missing.";
        gauges(encoder, "collect_complete", help, [(Labels::new(), u64::from(self.complete))])?;
        let help = "How long it took to gather this scrape.";
        let took = self.took.as_secs_f64();
        let unit = Unit::Seconds;
        let mut family =
            encoder.encode_descriptor("collect_duration", help, Some(&unit), MetricType::Gauge)?;
        family.encode_gauge(&took)
    }
}

fn gauges(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (impl EncodeLabelSet, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in rows {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

fn counters(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (action, value) in rows {
        let labels = [("action", action)];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
    }
    Ok(())
}
