//! Finds, among the rules of one action, the first that takes a request.
//!
//! Every rule hangs under what it asks of one attribute, the one that fewest other rules ask the same of: a request
//! meets the few rules that can take it, and only these are held against it. A rule that asks nothing by which it could
//! be found is held against every request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::facts::{Attribute, Facts};
use super::term::{Check, Term, Which};
use super::{Match, Rule};
use crate::table::radix::{Entry, Meets, RadixTree};
use crate::table::stream::Subnet;

/// The rules of one action, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    rules: Box<[(usize, Arc<Rule>)]>,
    /// Ascending, as all lists of rules.
    always: Box<[u32]>,
    texts: Box<[(Attribute, Texts)]>,
    addresses: Box<[(Which, Addresses)]>,
}

/// Rules under texts.
#[derive(Clone, Debug)]
struct Texts {
    forward: RadixTree<u32>,
    /// Under the ends of texts, read backward.
    backward: Option<RadixTree<u32>>,
}

/// Rules under subnets: one map a length.
#[derive(Clone, Debug)]
struct Addresses(Box<[(u8, Networks)]>);

type Networks = HashMap<IpAddr, Box<[u32]>, RandomState>;

/// What a rule can be found by: it takes nothing that meets none of the keys.
struct Handle<'r> {
    by: By<'r>,
    keys: Vec<Key<'r>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum By<'r> {
    Text(&'r Attribute),
    Address(Which),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'r> {
    Whole(&'r [u8]),
    Prefix(&'r [u8]),
    Suffix(&'r [u8]),
    Subnet(IpAddr, u8),
}

impl Key<'_> {
    /// So much is met by so many that it is no way to find anything.
    fn is_wide(self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Prefix(text) | Self::Suffix(text) => text.len() < 2,
            Self::Subnet(_, length) => length < 4,
        }
    }
}

impl Index {
    /// Rules with the number of their policy; of those that take a request the first is found.
    pub(super) fn new<'r>(rules: impl Iterator<Item = (usize, &'r Arc<Rule>)>) -> Self {
        let rules: Box<[(usize, Arc<Rule>)]> = rules.map(|(policy, rule)| (policy, rule.clone())).collect();
        let handles: Vec<Vec<Handle<'_>>> = rules.iter().map(|(_, rule)| handles(rule)).collect();
        let mut crowds: HashMap<(By<'_>, Key<'_>), usize, RandomState> = HashMap::default();
        for handle in handles.iter().flatten() {
            for key in &handle.keys {
                *crowds.entry((handle.by, *key)).or_default() += 1;
            }
        }
        let crowd = |handle: &&Handle<'_>| {
            let crowd = |key: &Key<'_>| (key.is_wide(), crowds.get(&(handle.by, *key)).copied().unwrap_or_default());
            (handle.keys.iter().map(crowd).max(), handle.keys.len())
        };
        let mut always = Vec::new();
        let mut texts: HashMap<&Attribute, Vec<(Key<'_>, u32)>, RandomState> = HashMap::default();
        let mut addresses: HashMap<Which, Vec<(Key<'_>, u32)>, RandomState> = HashMap::default();
        for (number, handles) in (0..).zip(&handles) {
            let Some(handle) = handles.iter().min_by_key(crowd) else {
                always.push(number);
                continue;
            };
            let keys = handle.keys.iter().map(|key| (*key, number));
            match handle.by {
                By::Text(attribute) => texts.entry(attribute).or_default().extend(keys),
                By::Address(which) => addresses.entry(which).or_default().extend(keys),
            }
        }
        let texts = texts.into_iter().map(|(attribute, keys)| (attribute.clone(), Texts::new(keys))).collect();
        let addresses = addresses.into_iter().map(|(which, keys)| (which, Addresses::new(keys))).collect();
        drop(crowds);
        drop(handles);
        Self { rules, always: always.into(), texts, addresses }
    }

    /// The first rule that takes a request.
    pub(super) fn find(&self, facts: &Facts<'_>) -> Option<Match<'_>> {
        let mut best = u32::MAX;
        self.visit(facts, |rules| {
            for &number in rules {
                if number >= best {
                    break;
                }
                if self.rules[number as usize].1.takes(facts) {
                    best = number;
                    break;
                }
            }
        });
        self.rules.get(best as usize).map(|(policy, rule)| Match { policy: *policy, rule })
    }

    /// Shows the rules that may take a request, list by list.
    fn visit(&self, facts: &Facts<'_>, mut look_at: impl FnMut(&[u32])) {
        look_at(&self.always);
        for (attribute, texts) in &self.texts {
            facts.any(attribute, |text| {
                texts.walk(text, &mut look_at);
                false
            });
        }
        for (which, addresses) in &self.addresses {
            addresses.walk(which.of(facts).to_canonical(), &mut look_at);
        }
    }
}

/// All that a rule can be found by.
fn handles(rule: &Rule) -> Vec<Handle<'_>> {
    let mut handles: Vec<_> = rule.when.iter().filter_map(handle).collect();
    for alternatives in [&rule.from, &rule.to] {
        let Some((first, others)) = alternatives.split_first() else { continue };
        'handles: for mut common in first.iter().filter_map(handle) {
            // All alternatives must ask it, or one of them could take what meets none of the keys.
            for all in others {
                let Some(same) = all.iter().filter_map(handle).find(|other| other.by == common.by) else {
                    continue 'handles;
                };
                common.keys.extend(same.keys);
            }
            handles.push(common);
        }
    }
    handles
}

/// What one term can be found by; `None`: by nothing.
fn handle(term: &Term) -> Option<Handle<'_>> {
    if term.negated {
        return None;
    }
    match &term.check {
        // A template without a beginning, and `*`, are met by every text.
        Check::Text(_, texts) if texts.present => None,
        Check::Text(attribute, texts) => {
            let keys = texts.exact.iter().map(|text| Key::Whole(text));
            let keys = keys.chain(texts.prefixes.iter().map(|text| Key::Prefix(text)));
            let keys = keys.chain(texts.suffixes.iter().map(|text| Key::Suffix(text)));
            let keys = keys.chain(texts.templates.iter().map(|template| Key::Prefix(template.literal())));
            Some(Handle { by: By::Text(attribute), keys: keys.collect() })
        }
        Check::Address(which, addresses) => {
            let keys = addresses.subnets().iter().map(Subnet::canonical);
            let keys = keys.map(|(network, length)| Key::Subnet(network, length)).collect();
            Some(Handle { by: By::Address(*which), keys })
        }
        Check::Port(_) | Check::Absent(_) => None,
    }
}

impl Texts {
    fn new(keys: Vec<(Key<'_>, u32)>) -> Self {
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        for (key, value) in keys {
            let (tree, meets, text): (&mut Vec<_>, _, Box<[u8]>) = match key {
                Key::Whole(text) => (&mut forward, Meets::Whole, text.into()),
                Key::Prefix(text) => (&mut forward, Meets::Prefix, text.into()),
                Key::Suffix(text) => (&mut backward, Meets::Prefix, text.iter().rev().copied().collect()),
                Key::Subnet(..) => continue,
            };
            tree.push(Entry { key: text, meets, value });
        }
        let rank = |value: &u32| *value;
        let backward = (!backward.is_empty()).then(|| RadixTree::new(backward, rank));
        Self { forward: RadixTree::new(forward, rank), backward }
    }

    fn walk(&self, text: &[u8], mut visit: impl FnMut(&[u32])) {
        self.forward.walk(text, &mut visit);
        if let Some(backward) = &self.backward {
            let reversed: SmallVec<[u8; 256]> = text.iter().rev().copied().collect();
            backward.walk(&reversed, visit);
        }
    }
}

impl Addresses {
    fn new(keys: Vec<(Key<'_>, u32)>) -> Self {
        let mut lengths: HashMap<u8, HashMap<IpAddr, Vec<u32>, RandomState>> = HashMap::new();
        for (key, value) in keys {
            if let Key::Subnet(network, length) = key {
                lengths.entry(length).or_default().entry(network).or_default().push(value);
            }
        }
        let maps = lengths.into_iter().map(|(length, networks)| {
            let networks = networks.into_iter().map(|(network, mut rules)| {
                rules.dedup();
                (network, rules.into_boxed_slice())
            });
            (length, networks.collect())
        });
        Self(maps.collect())
    }

    /// `address` in its canonical form.
    fn walk(&self, address: IpAddr, mut visit: impl FnMut(&[u32])) {
        for (length, networks) in &self.0 {
            if let Some(rules) = Subnet::around(address, *length).and_then(|network| networks.get(&network)) {
                visit(rules);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::addresses::AddressSet;
    use super::super::text::TextSet;
    use super::*;
    use crate::matching::HeaderField;
    use crate::request::headers::Headers;
    use crate::table::RequestHead;

    fn text(attribute: Attribute, value: String) -> Check {
        Check::Text(attribute, TextSet::paths([value]))
    }

    fn rule(number: usize, checks: Vec<Check>) -> Arc<Rule> {
        let terms = checks.into_iter().map(|check| Term { field: "f".into(), check, negated: false });
        let to = [terms.collect()].into();
        Arc::new(Rule { number, denial: "d".into(), from: Box::default(), to, when: Box::default() })
    }

    /// How many rules of ten thousand a request is held against.
    fn held(checks: impl Fn(usize) -> Vec<Check>) -> usize {
        let rules: Vec<_> = (0..10_000).map(|number| rule(number, checks(number))).collect();
        let index = Index::new(rules.iter().map(|rule| (rule.number / 10, rule)));
        let mut headers = Headers::new();
        headers.insert(http::HeaderName::from_static("x-key"), http::HeaderValue::from_static("key-77"));
        let head = RequestHead {
            method: "GET",
            scheme: "http",
            authority: "host-77.test",
            path: "/path-77/x",
            query: None,
            headers: &headers,
            claims: None,
        };
        let address = [10, 0, 0, 77].into();
        let facts = Facts {
            head: Some(&head),
            peer: address,
            client: address,
            destination: address,
            port: 80,
            sni: None,
            principals: &["spiffe://td/ns/a/sa/sa-77".into()],
        };
        let mut held = 0;
        index.visit(&facts, |rules| held += rules.len());
        assert!(index.find(&facts).is_some(), "one of them takes it");
        held
    }

    #[test]
    fn a_request_meets_few_of_many_rules() {
        let get = || text(Attribute::Method, "GET".to_owned());
        let any = || text(Attribute::Path, "/*".to_owned());
        let path = |n: usize| text(Attribute::Path, format!("/path-{n}/*"));
        let host = |n: usize| text(Attribute::Host, format!("host-{n}.test"));
        let tail = |n: usize| text(Attribute::Host, format!("*-{n}.test"));
        let key = |n: usize| text(Attribute::Header(HeaderField::parse("x-key")), format!("key-{n}"));
        let name = |n: usize| text(Attribute::Principal, format!("td/ns/a/sa/sa-{n}"));
        let template = |n: usize| text(Attribute::Path, format!("/path-{n}/{{*}}"));
        let block = |n: usize| {
            let subnet = format!("10.{}.{}.{}/32", n >> 16, (n >> 8) & 255, n & 255);
            Check::Address(Which::Remote, AddressSet::new(Subnet::parse(&subnet)))
        };
        for (what, count) in [
            ("path", held(|n| vec![get(), path(n)])),
            ("host", held(|n| vec![get(), any(), host(n)])),
            ("end of host", held(|n| vec![any(), tail(n)])),
            ("header", held(|n| vec![any(), key(n)])),
            ("principal", held(|n| vec![name(n), any()])),
            ("template", held(|n| vec![template(n), get()])),
            ("address", held(|n| vec![any(), block(n)])),
            // Ten rules a host, told apart by their paths.
            ("both", held(|n| vec![host(n / 10 + 70), path(n % 10 + 70)])),
        ] {
            assert!(count <= 10, "{what}: held against {count}");
        }
    }
}
