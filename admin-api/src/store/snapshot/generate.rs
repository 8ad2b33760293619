//! The objects that follow from registered workloads: a WorkloadEntry each, and the ServiceEntries that they declare.
//!
//! The same registrations and resources give the same objects on every replica.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use push::declared::{service_key, service_label};
use push::workload::{DeclaredService, WorkloadPort};
use route_model::compile::names::qualify_host;
use route_model::kind::Kind;
use route_model::kinds::WorkloadGroup;
use route_model::meta::ResourceKey;
use route_model::names::is_dns_subdomain;
use serde_json::{Map, Value, json};

use super::super::{RegisteredWorkload, Registration};

/// Marks what nobody wrote.
const GENERATED: &str = "fairway.dev/generated";
/// The annotation that says which sidecar registered a WorkloadEntry.
const NODE: &str = "fairway.dev/node";
/// The annotation that names the WorkloadGroup whose template was used.
const GROUP: &str = "fairway.dev/workload-group";
/// Istio's label of endpoints, which tells clients whether they speak mutual TLS of the mesh.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// They do: there is a sidecar beside them.
const MUTUAL_TLS: &str = "istio";

/// The WorkloadEntry of a sidecar's workload: called as the sidecar, if that is a name.
pub(super) fn entry_key(registration: &Registration) -> ResourceKey {
    let node = &registration.node;
    let namespace = registration.namespace.as_str();
    if is_dns_subdomain(node) {
        return ResourceKey::new(Kind::WorkloadEntry, namespace, node.as_str());
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = node.chars().map(plain).take(200).collect();
    let name = format!("{}-{}", name.trim_matches('-'), &hex(node)[..12]);
    ResourceKey::new(Kind::WorkloadEntry, namespace, name.trim_start_matches('-'))
}

/// The host that a declaration means.
pub(super) fn host_of(registration: &Registration, service: &DeclaredService) -> String {
    qualify_host(&service.host, &registration.namespace).to_string()
}

/// The WorkloadEntry of a workload, with what its group's template adds.
pub(super) fn workload_entry(
    key: &ResourceKey,
    registered: &RegisteredWorkload,
    group: Option<&WorkloadGroup>,
) -> Value {
    let Registration { node, service_account, workload, .. } = &registered.registration;
    let template = group.and_then(|group| group.template.as_ref());
    let shared = group.and_then(|group| group.metadata.as_ref());
    let mut labels: BTreeMap<&str, &str> = BTreeMap::from([(TLS_MODE, MUTUAL_TLS)]);
    let own = shared.iter().flat_map(|shared| shared.labels.iter());
    let own = own.chain(template.iter().flat_map(|template| template.labels.iter())).chain(&workload.labels);
    labels.extend(own.map(|(key, value)| (key.as_str(), value.as_str())));
    let mut ports: BTreeMap<&str, u32> = BTreeMap::new();
    ports.extend(template.iter().flat_map(|template| template.ports.iter()).map(|(name, port)| (name.as_str(), *port)));
    ports.extend(workload.ports.iter().map(|port| (port.name.as_str(), port.target())));

    let or = |own: &str, shared: Option<&str>| if own.is_empty() { shared.unwrap_or_default() } else { own }.to_owned();
    let mut spec = Map::new();
    let mut say = |name: &str, value: Value| {
        let is_empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Number(number) => number.as_u64() == Some(0),
            _ => false,
        };
        if !is_empty {
            spec.insert(name.to_owned(), value);
        }
    };
    say("address", json!(workload.address));
    say("ports", json!(ports));
    say("labels", json!(labels));
    say("network", json!(or(&workload.network, template.map(|template| template.network.as_str()))));
    say("locality", json!(or(&workload.locality, template.map(|template| template.locality.as_str()))));
    let weight = if workload.weight == 0 { template.map_or(0, |template| *template.weight) } else { workload.weight };
    say("weight", json!(weight));
    say("serviceAccount", json!(or(service_account, template.map(|template| template.service_account.as_str()))));

    let mut labels: BTreeMap<String, Value> =
        labels.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    for service in &workload.services {
        let service = service_key(&key.namespace, &host_of(&registered.registration, service));
        labels.insert(service_label(&service), json!("true"));
    }
    let mut annotations: BTreeMap<&str, &str> = BTreeMap::new();
    let given = shared.iter().flat_map(|shared| shared.annotations.iter());
    annotations.extend(given.map(|(key, value)| (key.as_str(), value.as_str())));
    annotations.insert(NODE, node);
    if group.is_some() {
        annotations.insert(GROUP, &workload.group);
    }
    let uid = hex(&format!("{key} {}", registered.since));
    object(key, labels, json!(annotations), &uid, registered.since, spec.into())
}

/// The ServiceEntry of a host that these workloads declare, the oldest first. Adds what they contradict each other in
/// to `problems`.
pub(super) fn service_entry(
    key: &ResourceKey,
    host: &str,
    declared_by: &[&RegisteredWorkload],
    problems: &mut Vec<String>,
) -> Option<Value> {
    let since = declared_by.iter().map(|registered| registered.since).min()?;
    let mut ports: BTreeMap<u32, (&str, String)> = BTreeMap::new();
    for registered in declared_by {
        for port in ports_of(&registered.registration, host) {
            let wanted = (port.name.as_str(), port.protocol());
            let known = ports.get(&port.number);
            if known.is_none() && ports.values().all(|(name, _)| *name != port.name) {
                ports.insert(port.number, wanted);
            } else if known != Some(&wanted) {
                problems.push(format!(
                    "{} declares the port {}={} ({}) of {host} in another way than the workloads before it; \
                     what they say counts",
                    registered.registration.node, port.name, port.number, wanted.1
                ));
            }
        }
    }
    let ports: Vec<Value> = ports
        .iter()
        .map(|(number, (name, protocol))| json!({"number": number, "name": name, "protocol": protocol}))
        .collect();
    let mut spec = json!({
        "hosts": [host],
        "ports": ports,
        "location": "MESH_INTERNAL",
        "resolution": "STATIC",
        "workloadSelector": {"labels": {(service_label(key)): "true"}},
    });
    if !is_of_namespace(host, &key.namespace) {
        // A workload speaks for the names of its namespace; any other it has to itself.
        spec["exportTo"] = json!(["."]);
    }
    Some(object(key, BTreeMap::new(), Value::Null, &hex(&key.to_string()), since, spec))
}

fn ports_of<'a>(registration: &'a Registration, host: &str) -> impl Iterator<Item = &'a WorkloadPort> {
    let workload = &registration.workload;
    let service = workload.services.iter().find(|service| host_of(registration, service) == host);
    service.into_iter().flat_map(|service| workload.ports_of(service))
}

/// `<name>.<namespace>.svc.cluster.local`
fn is_of_namespace(host: &str, namespace: &str) -> bool {
    let first = host.split('.').next().unwrap_or_default();
    *qualify_host(first, namespace) == *host
}

fn object(
    key: &ResourceKey,
    mut labels: BTreeMap<String, Value>,
    annotations: Value,
    uid: &str,
    since: Timestamp,
    spec: Value,
) -> Value {
    let info = key.kind.info();
    labels.insert(GENERATED.to_owned(), json!("true"));
    let mut metadata = json!({
        "name": &*key.name,
        "namespace": &*key.namespace,
        "uid": format!("{}-{}-{}-{}-{}", &uid[..8], &uid[8..12], &uid[12..16], &uid[16..20], &uid[20..32]),
        "creationTimestamp": since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "generation": 1,
        "labels": labels,
    });
    if !annotations.is_null() {
        metadata["annotations"] = annotations;
    }
    json!({
        "apiVersion": info.api_version(info.preferred_version()),
        "kind": info.name,
        "metadata": metadata,
        "spec": spec,
    })
}

fn hex(text: &str) -> String {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in digest(&SHA256, text.as_bytes()).as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
