//! The bodies of Docker's calls. What is accepted says the same when it is written and read again; a complaint
//! says what it is about.
#![no_main]
use docker_passthrough::{
    network,
    plugin::messages::{
        CreateEndpoint, CreateNetwork, DeleteNetwork, GwAllocCheck, Join, OneEndpoint, decode,
    },
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

// The first byte is the call.
fuzz_target!(|data: &[u8]| {
    let Some((call, body)) = data.split_first() else { return };
    match call % 6 {
        0 => match decode::<CreateNetwork>(body).and_then(CreateNetwork::into_request) {
            Ok(request) => network_again(&request),
            Err(complaint) => explained(&complaint),
        },
        1 => match decode::<CreateEndpoint>(body).and_then(CreateEndpoint::into_request) {
            Ok(request) => endpoint_again(&request),
            Err(complaint) => explained(&complaint),
        },
        2 => {
            if let Ok(OneEndpoint { network, endpoint }) = decode(body) {
                [network.as_str(), endpoint.as_str()].into_iter().for_each(safe);
            }
        }
        3 => {
            if let Ok(Join { network, endpoint, .. }) = decode(body) {
                [network.as_str(), endpoint.as_str()].into_iter().for_each(safe);
            }
        }
        4 => {
            if let Ok(DeleteNetwork { network }) = decode(body) {
                safe(network.as_str());
            }
        }
        _ => drop(decode::<GwAllocCheck>(body)),
    }
});

fn network_again(request: &network::CreateNetwork) {
    let network::CreateNetwork { network, generic, gateways, internal } = request;
    safe(network.as_str());
    let pools: Vec<Value> = gateways.iter().map(|gateway| json!({ "Gateway": gateway })).collect();
    let body = json!({
        "NetworkID": network,
        "Options": {"com.docker.network.generic": generic, "com.docker.network.internal": internal},
        "IPv4Data": pools,
    });
    let again = decode::<CreateNetwork>(body.to_string().as_bytes()).and_then(CreateNetwork::into_request);
    assert_eq!(format!("{:?}", again.expect("what was accepted once")), format!("{request:?}"));
}

fn endpoint_again(request: &network::CreateEndpoint) {
    let network::CreateEndpoint { network, endpoint, mac, vf } = request;
    [network.as_str(), endpoint.as_str()].into_iter().for_each(safe);
    let body = json!({
        "NetworkID": network,
        "EndpointID": endpoint,
        "Interface": {"MacAddress": mac},
        "Options": {"vf": vf.map(|vf| vf.to_string())},
    });
    let again = decode::<CreateEndpoint>(body.to_string().as_bytes()).and_then(CreateEndpoint::into_request);
    assert_eq!(format!("{:?}", again.expect("what was accepted once")), format!("{request:?}"));
}

/// An id becomes a folder's name.
fn safe(id: &str) {
    assert!(!id.is_empty() && id.len() <= 64 && !id.contains(['/', '.', '\0']), "{id:?}");
}

fn explained(complaint: &str) {
    assert!(
        ["malformed body", "the body is empty", "vf="].iter().any(|it| complaint.starts_with(it)),
        "{complaint}"
    );
}
