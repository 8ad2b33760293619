//! Host names: wildcards and the index that finds the entry for a host.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use smallvec::SmallVec;

/// A host of a virtual host or a server in lower case: exact (`foo.com`), a suffix (`*.foo.com`, `*-foo.com`), or `*`.
///
/// Only a leading `*` is a wildcard. It stands for one or more characters, dots included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(Arc<str>);

impl HostPattern {
    pub fn new(host: &str) -> Self {
        if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Self(host.to_ascii_lowercase().into())
        } else {
            Self(host.into())
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the `*`; `None` for an exact host.
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Whether every host that `self` takes is also taken by `other` (Istio's `SubsetOf`).
    pub fn is_subset_of(&self, other: &Self) -> bool {
        match (self.suffix(), other.suffix()) {
            (None, None) => self.0 == other.0,
            (None, Some(suffix)) => self.0.ends_with(suffix),
            (Some(_), None) => false,
            (Some(own), Some(suffix)) => own.ends_with(suffix),
        }
    }

    /// The narrower of two patterns of which one covers the other; `None` if neither does.
    pub fn narrower<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        if self.is_subset_of(other) {
            Some(self)
        } else if other.is_subset_of(self) {
            Some(other)
        } else {
            None
        }
    }

    /// Istio's "more specific first": exact before wildcard, then longer before shorter, then alphabetical.
    pub fn cmp_specific_first(&self, other: &Self) -> Ordering {
        self.suffix()
            .is_some()
            .cmp(&other.suffix().is_some())
            .then_with(|| other.0.len().cmp(&self.0.len()))
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes the port off a Host header or `:authority`: everything from the last `:` on, whether a number follows or not,
/// unless that colon stands inside the brackets of an IPv6 literal.
pub fn without_port(authority: &str) -> &str {
    match authority.bytes().rposition(|byte| byte == b':') {
        Some(colon) if !authority.as_bytes()[colon..].contains(&b']') => &authority[..colon],
        _ => authority,
    }
}

/// Finds the most specific entry for a host: exact, then the longest wildcard suffix, then `*`.
///
/// Look-ups allocate nothing. The order of entries is the order they were given in.
#[derive(Clone)]
pub struct HostIndex<T> {
    /// Shared between indexes over the same patterns, so that replacing a value does not hash them all again.
    patterns: Arc<Patterns>,
    values: Vec<T>,
}

struct Patterns {
    list: Vec<HostPattern>,
    exact: HashMap<Arc<[u8]>, u32, foldhash::fast::RandomState>,
    /// By suffix, without the `*`.
    wildcard: HashMap<Arc<[u8]>, u32, foldhash::fast::RandomState>,
    /// Lengths of the suffixes that do not begin with a dot (`*-foo.com`), longest first.
    partial_label_lengths: Vec<usize>,
    /// The longest key of either map: more of a host than this never needs to be looked at.
    longest: usize,
    longest_suffix: usize,
    any: Option<u32>,
}

impl<T> HostIndex<T> {
    /// Builds an index. Where a pattern is given twice, the first stands.
    pub fn new(entries: impl IntoIterator<Item = (HostPattern, T)>) -> Self {
        let (list, values): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        Self { patterns: Arc::new(Patterns::new(list)), values }
    }

    /// For a Host header or `:authority`: the port is ignored, case too; a trailing dot is not. An empty host is taken
    /// only by `*`.
    pub fn find_authority(&self, authority: &str) -> Option<&T> {
        self.find(without_port(authority))
    }

    /// For an SNI name; `None` when the client sent none, which only `*` takes.
    pub fn find_sni(&self, sni: Option<&str>) -> Option<&T> {
        self.find(sni.unwrap_or_default())
    }

    /// For a host without a port.
    pub fn find(&self, host: &str) -> Option<&T> {
        self.patterns.find(host).map(|i| &self.values[i as usize])
    }

    pub fn iter(&self) -> impl Iterator<Item = (&HostPattern, &T)> {
        self.patterns.list.iter().zip(&self.values)
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The entry that was given for exactly this pattern.
    pub fn get(&self, pattern: &HostPattern) -> Option<&T> {
        self.patterns.position(pattern).map(|i| &self.values[i as usize])
    }

    /// Replaces the value of a pattern that is in the index; false if it is not.
    pub fn replace(&mut self, pattern: &HostPattern, value: T) -> bool {
        let position = self.patterns.position(pattern);
        if let Some(i) = position {
            self.values[i as usize] = value;
        }
        position.is_some()
    }
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self::new([])
    }
}

impl<T: fmt::Debug> fmt::Debug for HostIndex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Patterns {
    fn new(list: Vec<HostPattern>) -> Self {
        let mut patterns = Self {
            exact: HashMap::with_capacity_and_hasher(list.len(), foldhash::fast::RandomState::default()),
            wildcard: HashMap::default(),
            partial_label_lengths: Vec::new(),
            longest: 0,
            longest_suffix: 0,
            any: None,
            list: Vec::new(),
        };
        for (i, pattern) in (0u32..).zip(&list) {
            match pattern.suffix() {
                None => {
                    let key = bracketed(&pattern.0);
                    patterns.longest = patterns.longest.max(key.len());
                    patterns.exact.entry(key).or_insert(i);
                }
                Some("") => {
                    patterns.any.get_or_insert(i);
                }
                Some(suffix) => {
                    patterns.longest_suffix = patterns.longest_suffix.max(suffix.len());
                    if !suffix.starts_with('.') {
                        patterns.partial_label_lengths.push(suffix.len());
                    }
                    patterns.wildcard.entry(suffix.as_bytes().into()).or_insert(i);
                }
            }
        }
        patterns.longest = patterns.longest.max(patterns.longest_suffix);
        patterns.partial_label_lengths.sort_unstable_by(|a, b| b.cmp(a));
        patterns.partial_label_lengths.dedup();
        patterns.list = list;
        patterns
    }

    fn position(&self, pattern: &HostPattern) -> Option<u32> {
        match pattern.suffix() {
            None => self.exact.get(&bracketed(&pattern.0)).copied(),
            Some("") => self.any,
            Some(suffix) => self.wildcard.get(suffix.as_bytes()).copied(),
        }
    }

    fn find(&self, host: &str) -> Option<u32> {
        // No key is longer than `longest`, so the rest of a longer host is of no interest, beyond that it is there.
        let bytes = host.as_bytes();
        let tail = &bytes[bytes.len() - bytes.len().min(self.longest)..];
        let lowered: SmallVec<[u8; 256]>;
        let lower = if tail.iter().any(u8::is_ascii_uppercase) {
            lowered = tail.iter().map(u8::to_ascii_lowercase).collect();
            &lowered[..]
        } else {
            tail
        };
        if tail.len() == bytes.len()
            && !bytes.is_empty()
            && let Some(&i) = self.exact.get(lower)
        {
            return Some(i);
        }
        if self.wildcard.is_empty() {
            return self.any;
        }
        let whole = bytes.len();
        // `*` stands for at least one character: a suffix as long as the host does not take it.
        let usable = |length: usize| length < whole && length <= self.longest_suffix && length <= lower.len();
        let by_label = (0..lower.len())
            .filter(|&at| lower[at] == b'.')
            .map(|dot| lower.len() - dot)
            .filter(|length| usable(*length))
            .find_map(|length| Some((length, *self.wildcard.get(&lower[lower.len() - length..])?)));
        let by_partial_label = self
            .partial_label_lengths
            .iter()
            .filter(|length| usable(**length))
            .find_map(|&length| Some((length, *self.wildcard.get(&lower[lower.len() - length..])?)));
        by_label.max(by_partial_label).map(|(_, i)| i).or(self.any)
    }
}

/// An IPv6 literal is written in brackets in a Host header and without them in a resource.
fn bracketed(host: &Arc<str>) -> Arc<[u8]> {
    if host.contains(':') && host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]").into_bytes().into()
    } else {
        host.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(patterns: &[&str]) -> HostIndex<String> {
        HostIndex::new(patterns.iter().map(|p| (HostPattern::new(p), (*p).to_owned())))
    }

    #[test]
    fn finds_the_most_specific_host() {
        let hosts =
            index(&["*", "*.com", "*.foo.com", "foo.com", "a.foo.com", "*-foo.com", "*o.com", "::1", "10.0.0.1"]);
        for (authority, want) in [
            ("foo.com", "foo.com"),
            ("FOO.com", "foo.com"),
            ("foo.com:8080", "foo.com"),
            ("foo.com:", "foo.com"),
            ("foo.com:x", "foo.com"),
            ("a.foo.com", "a.foo.com"),
            ("b.a.foo.com", "*.foo.com"),
            ("A.B.Foo.Com:1", "*.foo.com"),
            // `*` takes at least one character.
            (".foo.com", "*o.com"),
            ("-foo.com", "*o.com"),
            ("x-foo.com", "*-foo.com"),
            ("x.y-foo.com", "*-foo.com"),
            ("xfoo.com", "*o.com"),
            ("bar.com", "*.com"),
            ("com", "*"),
            // A trailing dot is part of the name.
            ("foo.com.", "*"),
            ("", "*"),
            (":80", "*"),
            ("[::1]", "::1"),
            ("[::1]:8080", "::1"),
            ("[::2]", "*"),
            ("10.0.0.1:80", "10.0.0.1"),
            // Hosts that are longer than any pattern.
            (&format!("{}.foo.com", "x".repeat(400)), "*.foo.com"),
            (&"x".repeat(400), "*"),
            ("é.foo.com", "*.foo.com"),
        ] {
            assert_eq!(hosts.find_authority(authority).map(String::as_str), Some(want), "{authority}");
        }
    }

    #[test]
    fn without_a_catch_all_an_unknown_host_is_not_found() {
        let hosts = index(&["foo.com", "*.foo.com"]);
        for authority in ["", "bar.com", "foo.com.", ".foo.com", "xfoo.com", "[::1]:80"] {
            assert_eq!(hosts.find_authority(authority), None, "{authority}");
        }
        assert_eq!(index(&[]).find_authority("foo.com"), None);
    }

    #[test]
    fn no_sni_is_taken_only_by_the_catch_all() {
        assert_eq!(index(&["*", "foo.com"]).find_sni(None).map(String::as_str), Some("*"));
        assert_eq!(index(&["*.foo.com"]).find_sni(None), None);
        assert_eq!(index(&["*.foo.com"]).find_sni(Some("A.FOO.com")).map(String::as_str), Some("*.foo.com"));
    }

    #[test]
    fn the_first_of_two_equal_patterns_stands_and_can_be_replaced() {
        let mut hosts = HostIndex::new([
            (HostPattern::new("a.com"), 1),
            (HostPattern::new("A.com"), 2),
            (HostPattern::new("*"), 3),
        ]);
        assert_eq!(hosts.find("a.com"), Some(&1));
        let before = hosts.clone();
        assert!(hosts.replace(&HostPattern::new("a.com"), 9));
        assert!(!hosts.replace(&HostPattern::new("b.com"), 9));
        assert_eq!((hosts.find("a.com"), before.find("a.com")), (Some(&9), Some(&1)));
    }

    #[test]
    fn narrowing_keeps_the_pattern_that_the_other_covers() {
        for (a, b, want) in [
            ("*.foo.com", "a.foo.com", Some("a.foo.com")),
            ("*.foo.com", "*", Some("*.foo.com")),
            ("*.foo.com", "*.a.foo.com", Some("*.a.foo.com")),
            ("*.foo.com", "*.com", Some("*.foo.com")),
            ("foo.com", "*.foo.com", None),
            ("a.com", "b.com", None),
            ("*.a.com", "*.b.com", None),
            ("*-foo.com", "x-foo.com", Some("x-foo.com")),
        ] {
            let (a, b) = (HostPattern::new(a), HostPattern::new(b));
            assert_eq!(a.narrower(&b).map(HostPattern::as_str), want);
            assert_eq!(b.narrower(&a).map(HostPattern::as_str), want);
        }
    }

    #[test]
    fn specific_comes_first() {
        let mut patterns = ["*", "*.com", "b.com", "a.com", "*.foo.com", "aa.com"].map(HostPattern::new);
        patterns.sort_by(HostPattern::cmp_specific_first);
        assert_eq!(patterns.map(|p| p.to_string()), ["aa.com", "a.com", "b.com", "*.foo.com", "*.com", "*"]);
    }
}
