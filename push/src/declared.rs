//! What a service goes by that workloads declare: its ServiceEntry, and the label that binds the two.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use route_model::compile::names::qualify_host;
use route_model::kind::Kind;
use route_model::meta::ResourceKey;

/// Before the name of a ServiceEntry.
const LABEL: &str = "service.fairway.dev";
/// Of the part of a label behind the slash, in Kubernetes.
const MAX_NAME: usize = 63;

/// The ServiceEntry of a host, generated in this namespace: called by its short name where it has one.
pub fn service_key(namespace: &str, host: &str) -> ResourceKey {
    let first = host.split('.').next().unwrap_or_default();
    let name = if *qualify_host(first, namespace) == *host { first } else { host };
    ResourceKey::new(Kind::ServiceEntry, namespace, name)
}

/// The label by which a generated ServiceEntry selects its endpoints, and the sidecars that serve it; its value is `true`.
pub fn service_label(key: &ResourceKey) -> String {
    let name = &key.name;
    if name.len() <= MAX_NAME {
        return format!("{LABEL}/{name}");
    }
    let start = name[..MAX_NAME - 17].trim_end_matches(['.', '-']);
    let mut label = format!("{LABEL}/{start}-");
    for byte in &digest(&SHA256, name.as_bytes()).as_ref()[..8] {
        let _ = write!(label, "{byte:02x}");
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_the_namespace_go_by_their_short_name() {
        for (host, name) in [
            ("reviews.shop.svc.cluster.local", "reviews"),
            ("reviews.other.svc.cluster.local", "reviews.other.svc.cluster.local"),
            ("reviews.example.com", "reviews.example.com"),
        ] {
            let key = service_key("shop", host);
            assert_eq!((&*key.namespace, &*key.name), ("shop", name));
            assert_eq!(service_label(&key), format!("service.fairway.dev/{name}"));
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let label = |end: &str| service_label(&service_key("shop", &format!("{}.{end}", "a".repeat(63))));
        let (one, two) = (label("one.example"), label("two.example"));
        assert_ne!(one, two);
        assert_eq!(one.split_once('/').unwrap().1.len(), MAX_NAME);
    }
}
