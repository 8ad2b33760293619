//! The identities of workloads.

use crate::names::{is_dns_label, is_dns_subdomain};

/// What a SPIFFE id begins with.
pub const SPIFFE: &str = "spiffe://";

/// A SPIFFE id in Istio's form: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadId<'a> {
    pub trust_domain: &'a str,
    pub namespace: &'a str,
    pub service_account: &'a str,
    /// `<namespace>/sa/<service account>`
    pub account: &'a str,
}

impl<'a> WorkloadId<'a> {
    /// Reads an id; `None` for one of another form. The characters of its parts are not looked at.
    pub fn parse(id: &'a str) -> Option<Self> {
        let (trust_domain, account) = id.strip_prefix(SPIFFE)?.split_once("/ns/")?;
        let (namespace, service_account) = account.split_once("/sa/")?;
        let plain = |part: &str| !part.is_empty() && !part.contains('/');
        (plain(trust_domain) && plain(namespace) && plain(service_account)).then_some(Self {
            trust_domain,
            namespace,
            service_account,
            account,
        })
    }

    /// Whether each part is the name of what it stands for: only such ids are given out.
    pub fn is_wellformed(&self) -> bool {
        is_dns_subdomain(self.trust_domain) && is_dns_label(self.namespace) && is_dns_subdomain(self.service_account)
    }
}

/// The id of a service account.
pub fn workload_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("{SPIFFE}{trust_domain}/ns/{namespace}/sa/{service_account}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_written_and_others_are_told_apart() {
        let id = WorkloadId::parse("spiffe://cluster.local/ns/shop/sa/reviews").unwrap();
        assert_eq!((id.trust_domain, id.namespace, id.service_account), ("cluster.local", "shop", "reviews"));
        assert_eq!(id.account, "shop/sa/reviews");
        assert_eq!(WorkloadId::parse(&workload_id("cluster.local", "shop", "reviews")), Some(id));
        assert!(id.is_wellformed());
        for other in [
            "",
            "cluster.local/ns/shop/sa/reviews",
            "spiffe:///ns/shop/sa/reviews",
            "spiffe://cluster.local/ns//sa/reviews",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns/shop/sa/reviews/v1",
            "spiffe://cluster.local/ns/a/b/sa/reviews",
            "spiffe://cluster.local/workload",
        ] {
            assert_eq!(WorkloadId::parse(other), None, "{other}");
        }
        for odd in ["spiffe://Cluster/ns/shop/sa/r", "spiffe://c/ns/a.b/sa/r", "spiffe://c/ns/shop/sa/r w"] {
            assert!(!WorkloadId::parse(odd).unwrap().is_wellformed(), "{odd}");
        }
    }
}
