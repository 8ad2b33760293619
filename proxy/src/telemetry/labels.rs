//! The labels that Istio's metrics have in common: who reports, from where and to where.

use std::fmt::Write as _;

use super::exposition::Label;
use super::requests::DestinationLabels;
use super::source::Source;
use crate::options::ProxyIdentity;

/// The labels of a destination as a proxy reports them, without a trailing comma. What only the proxy at the other end
/// could tell is unknown, as with Istio.
pub(super) fn common(here: &ProxyIdentity, destination: &DestinationLabels) -> String {
    let workload = unknown_if_empty(&here.workload);
    let namespace = unknown_if_empty(&here.namespace);
    match &destination.source {
        None => from_here(workload, namespace, destination),
        Some(source) => to_here(workload, namespace, destination, source),
    }
}

/// `connection_security_policy`: known at the destination alone.
pub(super) fn security(destination: &DestinationLabels) -> &'static str {
    destination.source.as_deref().map_or("unknown", Source::security)
}

fn from_here(workload: &str, namespace: &str, destination: &DestinationLabels) -> String {
    let mut labels = format!(
        "reporter=\"source\",source_workload=\"{workload}\",source_workload_namespace=\"{namespace}\",\
         source_principal=\"unknown\",source_app=\"{workload}\",source_version=\"unknown\",\
         source_cluster=\"unknown\",source_canonical_service=\"{workload}\",source_canonical_revision=\"latest\",\
         destination_workload=\"unknown\",destination_workload_namespace=\"unknown\",\
         destination_principal=\"unknown\",destination_app=\"unknown\",destination_version=\"unknown\",\
         destination_cluster=\"unknown\",destination_canonical_service=\"unknown\",\
         destination_canonical_revision=\"latest\"",
        workload = Label(workload),
        namespace = Label(namespace),
    );
    let part = |text| unknown_if_empty(text);
    service(&mut labels, part(&destination.service), part(&destination.name), part(&destination.namespace));
    labels
}

fn to_here(workload: &str, namespace: &str, destination: &DestinationLabels, source: &Source) -> String {
    let (client, own) = source.principals();
    let mut labels = format!(
        "reporter=\"destination\",source_workload=\"unknown\",source_workload_namespace=\"{client_namespace}\",\
         source_principal=\"{client}\",source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"unknown\",\
         source_canonical_service=\"unknown\",source_canonical_revision=\"latest\",\
         destination_workload=\"{workload}\",destination_workload_namespace=\"{namespace}\",\
         destination_principal=\"{own}\",destination_app=\"{workload}\",destination_version=\"unknown\",\
         destination_cluster=\"unknown\",destination_canonical_service=\"{workload}\",\
         destination_canonical_revision=\"latest\"",
        client_namespace = Label(source.namespace()),
        client = Label(client),
        workload = Label(workload),
        namespace = Label(namespace),
        own = Label(own),
    );
    // Of a workload that is in no service it is the workload that is called.
    let part = |text| if str::is_empty(text) { workload } else { text };
    service(&mut labels, part(&destination.service), part(&destination.name), namespace);
    labels
}

fn service(labels: &mut String, service: &str, name: &str, namespace: &str) {
    let _ = write!(
        labels,
        ",destination_service=\"{}\",destination_service_name=\"{}\",destination_service_namespace=\"{}\"",
        Label(service),
        Label(name),
        Label(namespace)
    );
}

fn unknown_if_empty(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}
