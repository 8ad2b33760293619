//! The names that a workload may call a service by.

use crate::compile::names::namespace_of;

/// Beside the host itself the shorter forms of a service of the cluster's domain, as Istio has them, and the one with a
/// dot at its end. The bare name is for the service's own namespace.
pub(super) fn forms(host: &str, viewer: &str) -> Vec<String> {
    let Some(namespace) = namespace_of(host) else { return Vec::new() };
    let name = host.split('.').next().unwrap_or(host);
    let mut forms = vec![format!("{host}."), format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")];
    if namespace == viewer {
        forms.push(name.to_owned());
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_the_cluster_have_short_forms() {
        let full = ["reviews.shop.svc.cluster.local.", "reviews.shop.svc", "reviews.shop"];
        assert_eq!(forms("reviews.shop.svc.cluster.local", "edge"), full);
        assert_eq!(forms("reviews.shop.svc.cluster.local", "shop"), [&full[..], &["reviews"]].concat());
        for other in ["api.example.com", "reviews.shop", "*.shop.svc.cluster.local", "a.b.shop.svc.cluster.local"] {
            assert!(forms(other, "shop").is_empty() || other.starts_with('*'), "{other}");
        }
    }
}
