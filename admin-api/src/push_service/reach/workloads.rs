//! Which workloads services select, and what selects a workload.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use route_model::compile::ProxyScope;
use route_model::kinds::WorkloadEntry;
use route_model::kinds::value::StringMap;
use route_model::resource::Resource;

use super::has_labels;

/// WorkloadEntries, each found by any of its labels, so that a service need not be held against all.
#[derive(Default)]
pub(super) struct Workloads<'a> {
    all: HashMap<&'a str, Vec<Member<'a>>, RandomState>,
    /// By namespace and label.
    labelled: HashMap<(&'a str, &'a str, &'a str), Vec<Member<'a>>, RandomState>,
}

#[derive(Clone, Copy)]
struct Member<'a> {
    at: usize,
    resource: &'a Resource,
    spec: &'a WorkloadEntry,
}

impl<'a> Member<'a> {
    /// The labels of the object go before those of its spec.
    fn label(&self, key: &str) -> Option<&'a String> {
        self.resource.meta.labels.get(key).or_else(|| (*self.spec.labels).get(key))
    }
}

impl<'a, R: AsRef<Resource> + 'a + ?Sized> FromIterator<(usize, &'a R, &'a WorkloadEntry)> for Workloads<'a> {
    fn from_iter<I: IntoIterator<Item = (usize, &'a R, &'a WorkloadEntry)>>(workloads: I) -> Self {
        let mut found = Self::default();
        for (at, resource, spec) in workloads {
            let resource = resource.as_ref();
            let namespace = &*resource.key.namespace;
            let member = Member { at, resource, spec };
            found.all.entry(namespace).or_default().push(member);
            for key in resource.meta.labels.keys().chain(spec.labels.keys()) {
                let Some(value) = member.label(key) else { continue };
                let members = found.labelled.entry((namespace, key, value)).or_default();
                // A key that stands in both comes twice.
                if members.last().is_none_or(|last| last.at != at) {
                    members.push(member);
                }
            }
        }
        found
    }
}

impl Workloads<'_> {
    /// The places of those in a namespace that have these labels.
    pub(super) fn selected(&self, namespace: &str, labels: &StringMap) -> Vec<usize> {
        let candidates = match labels.iter().next() {
            None => self.all.get(namespace),
            Some((key, value)) => self.labelled.get(&(namespace, key.as_str(), value.as_str())),
        };
        let has = |member: &&Member<'_>| labels.iter().all(|(key, value)| member.label(key) == Some(value));
        candidates.into_iter().flatten().filter(has).map(|member| member.at).collect()
    }
}

/// Selectors, each found by one of its labels, so that a proxy need not be held against all.
#[derive(Debug, Default)]
pub(super) struct Selecting {
    /// By namespace: those that select everything there.
    all: HashMap<String, Vec<usize>, RandomState>,
    /// By namespace and the first label.
    labelled: HashMap<(String, String, String), Vec<Selector>, RandomState>,
}

#[derive(Debug)]
struct Selector {
    labels: StringMap,
    at: usize,
}

impl Selecting {
    pub(super) fn add(&mut self, namespace: &str, labels: &StringMap, at: usize) {
        match labels.iter().next() {
            None => self.all.entry(namespace.to_owned()).or_default().push(at),
            Some((key, value)) => {
                let place = (namespace.to_owned(), key.clone(), value.clone());
                self.labelled.entry(place).or_default().push(Selector { labels: labels.clone(), at });
            }
        }
    }

    /// The places of those in a namespace that select a proxy.
    pub(super) fn of<'a>(&'a self, namespace: &str, scope: &'a ProxyScope) -> impl Iterator<Item = usize> + 'a {
        let all = self.all.get(namespace).into_iter().flatten().copied();
        let labels = scope.labels.iter().map(|(key, value)| (namespace.to_owned(), key.clone(), value.clone()));
        let labelled = labels.collect::<Vec<_>>().into_iter().filter_map(|place| self.labelled.get(&place)).flatten();
        all.chain(labelled.filter(|selector| has_labels(scope, &selector.labels)).map(|selector| selector.at))
    }
}
