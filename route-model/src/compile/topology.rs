//! What stands before a gateway: the annotation `proxy.istio.io/config` of Gateways, as Istio's gateways have it on
//! their pods. How many proxies are trusted is read in `trusted_proxies`.

use serde_json::Value;

use super::finding::Finding;
use super::trusted_proxies::{PROXY_CONFIG, finding};
use crate::resource::Resource;

/// What the annotation says of those who connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Topology {
    /// `gatewayTopology.proxyProtocol`: every connection begins with a PROXY header.
    pub(super) proxy_protocol: bool,
}

/// # Errors
/// The setting cannot be read; what a Gateway without it has is in force. An annotation that cannot be read at all is
/// reported with the trusted proxies.
pub(super) fn of(gateway: &Resource) -> Result<Topology, Finding> {
    let text = gateway.meta.annotations.get(PROXY_CONFIG);
    let config: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    match config.as_ref().and_then(|config| config.pointer("/gatewayTopology/proxyProtocol")) {
        None | Some(Value::Null) => Ok(Topology::default()),
        Some(Value::Object(_)) => Ok(Topology { proxy_protocol: true }),
        Some(_) => {
            let message = "gatewayTopology.proxyProtocol is not used, because it is no object; write {} to have \
                           connections begin with a PROXY header";
            Err(finding(gateway, "InvalidProxyConfig", message.to_owned()))
        }
    }
}

/// For a server on an address where an older Gateway says otherwise.
pub(super) fn overruled(gateway: &Resource, address: &str, older: &str, in_force: Topology) -> Finding {
    let begins = if in_force.proxy_protocol { "begin" } else { "do not begin" };
    let message = format!(
        "connections to {address} {begins} with a PROXY header, because Gateway {older}, which comes first, says so; \
         annotate both in the same way, or use another port"
    );
    finding(gateway, "TopologyConflict", message)
}
