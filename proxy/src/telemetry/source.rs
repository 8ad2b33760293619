//! Who sends what a workload's own proxy counts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::requests::RequestSeries;
use crate::http::facts::ConnectionFacts;
use crate::tls::Identity;

/// So many are told apart for one destination on one worker; the others are counted together.
const MAX_SOURCES: usize = 1024;

/// The other end of a connection that was opened to the workload beside this proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// It has not shown who it is: plain text, or TLS that is the application's own.
    Unknown,
    /// Another of the mesh, over mutual TLS; both by their SPIFFE ids.
    Mesh { client: Box<str>, own: Arc<str> },
}

impl Source {
    pub(crate) fn of(facts: &ConnectionFacts, identity: &Identity) -> Self {
        let peer = facts.tls.as_ref().and_then(|tls| tls.peer.as_deref());
        match (peer.and_then(|peer| peer.uri_sans.first()), identity.current()) {
            (Some(client), Some(own)) => Self::Mesh { client: client.clone(), own: Arc::clone(own.spiffe_id()) },
            _ => Self::Unknown,
        }
    }

    /// `connection_security_policy`
    pub(super) fn security(&self) -> &'static str {
        match self {
            Self::Unknown => "none",
            Self::Mesh { .. } => "mutual_tls",
        }
    }

    /// `source_principal` and `destination_principal`
    pub(super) fn principals(&self) -> (&str, &str) {
        match self {
            Self::Unknown => ("unknown", "unknown"),
            Self::Mesh { client, own } => (client, own),
        }
    }

    /// `source_workload_namespace`, as the SPIFFE id has it.
    pub(super) fn namespace(&self) -> &str {
        let mut segments = self.principals().0.split('/');
        let after_ns = segments.find(|segment| *segment == "ns").and_then(|_| segments.next());
        after_ns.unwrap_or("unknown")
    }
}

/// Where one worker counts the requests to one destination, by who sends them. Lives as long as the worker's view of a
/// table.
#[derive(Debug, Default)]
pub(crate) struct BySource(RefCell<HashMap<Source, Rc<RequestSeries>, foldhash::fast::RandomState>>);

impl BySource {
    pub(crate) fn get(&self, source: &Source, series: impl FnOnce(Source) -> RequestSeries) -> Rc<RequestSeries> {
        if let Some(known) = self.0.borrow().get(source) {
            return Rc::clone(known);
        }
        let mut all = self.0.borrow_mut();
        let source = match source {
            Source::Mesh { own, .. } if all.len() >= MAX_SOURCES => {
                Source::Mesh { client: "overflow".into(), own: Arc::clone(own) }
            }
            source => source.clone(),
        };
        Rc::clone(all.entry(source.clone()).or_insert_with(|| Rc::new(series(source))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::{DestinationLabels, RequestRegistry};
    use super::*;

    fn mesh(client: &str) -> Source {
        Source::Mesh { client: client.into(), own: "spiffe://cluster.local/ns/shop/sa/reviews".into() }
    }

    #[test]
    fn a_namespace_is_read_from_an_id() {
        for (id, namespace) in [
            ("spiffe://cluster.local/ns/shop/sa/ratings", "shop"),
            ("spiffe://cluster.local/other/path", "unknown"),
            ("spiffe://cluster.local/ns", "unknown"),
        ] {
            assert_eq!(mesh(id).namespace(), namespace, "{id}");
        }
        assert_eq!(Source::Unknown.namespace(), "unknown");
    }

    #[test]
    fn sources_are_bounded_and_each_has_its_series() {
        let (all, registry) = (BySource::default(), Arc::new(RequestRegistry::default()));
        let series = |source: &Source| {
            let labels = |source| DestinationLabels::here(None, source);
            all.get(source, |source| RequestSeries::new(Arc::clone(&registry), Arc::new(labels(source))))
        };
        assert!(Rc::ptr_eq(&series(&mesh("a")), &series(&mesh("a"))));
        assert!(!Rc::ptr_eq(&series(&mesh("a")), &series(&Source::Unknown)));
        for number in 0..MAX_SOURCES + 10 {
            series(&mesh(&number.to_string()));
        }
        assert_eq!(all.0.borrow().len(), MAX_SOURCES + 1);
        assert!(Rc::ptr_eq(&series(&mesh("new")), &series(&mesh("newer"))));
    }
}
