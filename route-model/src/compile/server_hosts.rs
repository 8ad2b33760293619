//! Which hosts of a server a VirtualService's hosts meet.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::gateway::ServerHost;
use crate::table::HostPattern;

/// The hosts of one server, ready to be intersected. With ten thousand hosts in a server and ten thousand
/// VirtualServices, comparing each with each would take minutes.
#[derive(Debug)]
pub(super) struct ServerHosts {
    /// The namespaces that each host admits.
    hosts: HashMap<HostPattern, SmallVec<[Option<Arc<str>>; 1]>, RandomState>,
    /// Lengths of the wildcards' suffixes, ascending.
    suffix_lengths: Vec<usize>,
}

impl ServerHosts {
    pub(super) fn new(list: &[ServerHost]) -> Self {
        let mut hosts: HashMap<HostPattern, SmallVec<[Option<Arc<str>>; 1]>, RandomState> = HashMap::default();
        for host in list {
            hosts.entry(host.pattern.clone()).or_default().push(host.namespace.clone());
        }
        let mut suffix_lengths: Vec<_> = hosts.keys().filter_map(HostPattern::suffix).map(str::len).collect();
        suffix_lengths.sort_unstable();
        suffix_lengths.dedup();
        Self { hosts, suffix_lengths }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &HostPattern> {
        self.hosts.keys()
    }

    /// The narrower of each pair of a server host and `host` of which one covers the other.
    pub(super) fn intersect(&self, host: &HostPattern, namespace: &str, found: &mut Vec<HostPattern>) {
        let admits = |pattern: &HostPattern| {
            let namespaces = self.hosts.get(pattern);
            namespaces.is_some_and(|list| list.iter().any(|n| n.as_deref().is_none_or(|n| n == namespace)))
        };
        let mut add = |pattern: &HostPattern| {
            if !found.contains(pattern) {
                found.push(pattern.clone());
            }
        };
        let covering = admits(host) || {
            // A wildcard covers an exact host that is as long as its suffix, too: that is how Istio compares them.
            let text = host.suffix().unwrap_or(host.as_str());
            self.suffix_lengths.iter().take_while(|length| **length <= text.len()).any(|length| {
                text.is_char_boundary(text.len() - length)
                    && admits(&HostPattern::new(&format!("*{}", &text[text.len() - length..])))
            })
        };
        if covering {
            add(host);
        }
        if host.suffix().is_some() {
            let narrower = self.hosts.keys().filter(|pattern| *pattern != host && pattern.is_subset_of(host));
            narrower.filter(|pattern| admits(pattern)).for_each(add);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host() -> impl Strategy<Value = String> {
        "(\\*|\\*\\.|\\*-|)(a|b|a\\.b|c-b)?(\\.c|\\.b)?"
    }

    proptest! {
        #[test]
        fn an_intersection_is_what_comparing_all_pairs_gives(
            server in proptest::collection::vec((host(), proptest::option::of(proptest::sample::select(vec!["x", "y"]))), 0..6),
            wanted in host(),
        ) {
            let server: Vec<_> = server.into_iter().map(|(host, namespace)| ServerHost { pattern: HostPattern::new(&host), namespace: namespace.map(Into::into) }).collect();
            let wanted = HostPattern::new(&wanted);
            let mut naive: Vec<_> = server.iter().filter(|host| host.namespace.as_deref().is_none_or(|namespace| namespace == "x")).filter_map(|host| host.pattern.narrower(&wanted)).cloned().collect();
            naive.sort();
            naive.dedup();
            let mut found = Vec::new();
            ServerHosts::new(&server).intersect(&wanted, "x", &mut found);
            found.sort();
            prop_assert_eq!(found, naive);
        }
    }
}
