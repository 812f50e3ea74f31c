//! What series are told apart by.
use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue as _, LabelSetEncoder};

use crate::{
    report::EndpointReport,
    state::{Endpoint, Mode, Network, NetworkId},
};

/// Names and values. What is not known is empty, which to Prometheus is the same as not there.
pub type Labels = Vec<(&'static str, String)>;

/// The same as text, made once for all of an endpoint's series: in each of them it stands anew.
#[derive(Debug)]
pub struct Text {
    /// Escaped, but for the value of the last.
    text: String,
    last: String,
}

impl From<&Labels> for Text {
    fn from(labels: &Labels) -> Self {
        let (mut text, mut last) = (String::new(), String::new());
        for (name, value) in labels {
            if !text.is_empty() {
                let escaped = last.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                text.extend(["=\"", &escaped, "\","]);
            }
            text.push_str(name);
            last.clone_from(value);
        }
        Self { text, last }
    }
}

impl EncodeLabelSet for &Text {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        (*self).encode(encoder)
    }
}

impl EncodeLabelSet for Text {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut label = encoder.encode_label();
        // A name is written as it is.
        let mut name = label.encode_label_key()?;
        name.write_str(&self.text)?;
        let mut value = name.encode_label_value()?;
        self.last.as_str().encode(&mut value)?;
        value.finish()
    }
}

/// Whose series they are. The names are a contract.
pub fn endpoint(report: &EndpointReport, remembered: Option<(&Network, &Endpoint)>) -> Labels {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let grant = remembered.and_then(|(_, endpoint)| endpoint.vf.as_ref());
    // As the network has it: it stays while the PF is away.
    let pf = remembered.filter(|(network, _)| network.mode == Mode::Sriov);
    let pci = remembered.and_then(|(_, endpoint)| endpoint.hardware.as_deref()?.strip_prefix("pci/"));
    vec![
        ("container", text(&report.container)),
        ("container_id", text(&report.container_id)),
        ("network", text(&report.network)),
        ("endpoint", report.endpoint_id.to_string()),
        ("netdevice", text(&report.netdevice)),
        ("pf", pf.map(|(network, _)| network.options.netdevice.clone()).unwrap_or_default()),
        ("vf", grant.map(|grant| grant.index.to_string()).unwrap_or_default()),
        ("pciAddr", pci.unwrap_or_default().to_owned()),
    ]
}

/// A network and its options, as they would be typed.
pub fn network(id: &NetworkId, network: &Network) -> Labels {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let on_off = |on: Option<bool>| text(on.map(|on| if on { "on" } else { "off" }));
    let options = &network.options;
    let vf = &options.vf;
    let sriov = network.mode == Mode::Sriov;
    let vlan = |value: String| if sriov { value } else { String::new() };
    vec![
        ("network", text(network.name.as_ref())),
        ("network_id", id.to_string()),
        ("mode", network.mode.to_string()),
        ("netdevice", options.netdevice.clone()),
        ("privileged", u8::from(options.privileged).to_string()),
        ("prefix", options.prefix.clone()),
        ("mtu", text(options.mtu)),
        ("rx_hook", options.rx_hook.to_string()),
        ("counters", options.counters.to_string()),
        ("force", u8::from(options.force).to_string()),
        ("vlan", vlan(vf.vlan.id.to_string())),
        ("vlan_qos", vlan(vf.vlan.qos.to_string())),
        ("vlan_proto", vlan(vf.vlan.proto.to_string())),
        ("vfs", text(vf.vfs)),
        ("min_tx_rate", text(vf.min_tx_rate)),
        ("max_tx_rate", text(vf.max_tx_rate)),
        ("link_state", text(vf.link_state)),
        ("spoofchk", on_off(vf.spoofchk)),
        ("trust", on_off(vf.trust)),
    ]
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        collector::Collector,
        encoding::{DescriptorEncoder, text},
        metrics::MetricType,
        registry::Registry,
    };

    use super::*;

    /// One gauge with these.
    #[derive(Debug)]
    struct One<S>(S);

    impl<S: EncodeLabelSet + fmt::Debug + Send + Sync + 'static> Collector for One<S> {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let mut family = encoder.encode_descriptor("x", "X.", None, MetricType::Gauge)?;
            family.encode_family(&self.0)?.encode_gauge(&1_u64)
        }
    }

    fn text_of(labels: impl EncodeLabelSet + fmt::Debug + Send + Sync + 'static) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(One(labels)));
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn they_are_written_as_the_library_writes_them() {
        let values = ["", "web", "a\\b\"c\nd", "λ"].map(str::to_owned);
        for (one, two) in values.iter().flat_map(|one| values.iter().map(move |two| (one, two))) {
            let labels: Labels = vec![("one", one.clone()), ("two", two.clone()), ("last", one.clone())];
            assert_eq!(text_of(Text::from(&labels)), text_of(labels.clone()));
            let [class] = [("class", two.clone())];
            let all: Labels = labels.iter().cloned().chain([class.clone()]).collect();
            assert_eq!(text_of((Text::from(&labels), [class])), text_of(all));
        }
    }
}
