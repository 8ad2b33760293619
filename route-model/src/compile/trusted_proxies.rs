//! How many proxies in front of a listener are trusted, where a Gateway says so itself.
//!
//! Istio's annotation `proxy.istio.io/config` holds a ProxyConfig; of this one `gatewayTopology.numTrustedProxies` is
//! read. Whoever listens on one port shares a number, as X-Forwarded-For is read before a server is known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::finding::{Finding, Severity};
use super::gateway::Plan;
use super::names::qualified_name;
use crate::field::FieldPath;
use crate::resource::Resource;

pub(super) const PROXY_CONFIG: &str = "proxy.istio.io/config";

/// More hops than this are a mistake.
const MOST: u32 = 100;

/// What of a ProxyConfig is read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    gateway_topology: Topology,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Topology {
    num_trusted_proxies: Option<u32>,
}

/// By port and bind address.
type Numbers = BTreeMap<(u16, Option<IpAddr>), u32>;

/// The numbers of the listeners that have another one than the mesh's, and what there is to say.
pub(super) fn of_listeners(plan: &Plan, mesh: u32) -> (Numbers, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut written = BTreeMap::new();
    for resource in plan.gateways.values() {
        match read(resource) {
            Ok(Some(number)) => {
                written.insert(qualified_name(&resource.key), (number, resource));
            }
            Ok(None) => {}
            Err(message) => findings.push(finding(resource, "InvalidProxyConfig", message)),
        }
    }
    let mut numbers = BTreeMap::new();
    if written.is_empty() {
        return (numbers, findings);
    }
    for listener in &plan.listeners {
        let gateways = || listener.gateways();
        let number_of = |gateway: &Arc<str>| written.get(gateway).map_or(mesh, |(number, _)| *number);
        let Some(least) = gateways().map(number_of).min() else { continue };
        if least != mesh {
            numbers.insert((listener.port, listener.bind), least);
        }
        let more = gateways().filter_map(|gateway| written.get(gateway)).filter(|(number, _)| *number > least);
        findings.extend(more.map(|(number, resource)| {
            let message = format!(
                "another Gateway on port {} trusts {least} proxies only, and so does this one there, not {number}; give \
                 both the same number, or ports of their own",
                listener.port
            );
            finding(resource, "TrustedProxiesDiffer", message)
        }));
    }
    (numbers, findings)
}

/// A warning about the annotation.
pub(super) fn finding(resource: &Resource, reason: &'static str, message: String) -> Finding {
    let path = FieldPath::new("metadata").field("annotations").key(PROXY_CONFIG);
    Finding { resource: resource.key.clone(), path, severity: Severity::Warning, reason, message }
}

fn read(gateway: &Resource) -> Result<Option<u32>, String> {
    let Some(text) = gateway.meta.annotations.get(PROXY_CONFIG) else { return Ok(None) };
    let config: ProxyConfig = serde_json::from_str(text).map_err(|error| {
        format!(
            "it is no ProxyConfig in JSON ({error}), so the mesh's settings hold; write \
             {{\"gatewayTopology\": {{\"numTrustedProxies\": 1}}}}"
        )
    })?;
    match config.gateway_topology.num_trusted_proxies {
        Some(number) if number > MOST => {
            Err(format!("numTrustedProxies {number} is more than {MOST}, so the mesh's settings hold"))
        }
        number => Ok(number),
    }
}
