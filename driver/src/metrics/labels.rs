//! What series are told apart by.
use crate::{
    report::EndpointReport,
    state::{Endpoint, Mode, Network, NetworkId},
};

/// Names and values. What is not known is empty, which to Prometheus is the same as not there.
pub type Labels = Vec<(&'static str, String)>;

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
