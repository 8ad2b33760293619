//! One host's routes.

use std::sync::Arc;

use super::path_index::{Candidate, PathIndex};
use super::{HostPattern, RequestHead, Route};

/// The routes of one host of one route configuration.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    pub domain: HostPattern,
    /// Plain HTTP is answered with a redirect to https.
    pub https_redirect: bool,
    /// In list order.
    routes: Vec<Arc<Route>>,
    index: PathIndex,
}

impl VirtualHost {
    pub fn new(domain: HostPattern, https_redirect: bool, routes: Vec<Arc<Route>>) -> Self {
        let index = PathIndex::new(&routes, None);
        Self { domain, https_redirect, routes, index }
    }

    /// The same as [`VirtualHost::new`], at less cost where regexes are many and most of them stand in `previous`.
    pub fn after(previous: &Self, https_redirect: bool, routes: Vec<Arc<Route>>) -> Self {
        let index = PathIndex::new(&routes, Some(&previous.index));
        Self { domain: previous.domain.clone(), https_redirect, routes, index }
    }

    /// The routes in list order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The first route in list order that takes the request. Allocates nothing.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<&Arc<Route>> {
        let position = self.index.find(head.path, |candidate| self.takes(candidate, head))?;
        self.routes.get(position)
    }

    fn takes(&self, candidate: Candidate, head: &RequestHead<'_>) -> bool {
        if !candidate.must_ask_uri() && !candidate.is_conditional() {
            return true;
        }
        let route = &self.routes[candidate.position()];
        (!candidate.must_ask_uri() || route.uri.is_match(head.path)) && route.predicates.hold(head)
    }

    /// Shows the positions of the routes whose path predicate may hold, list by list, each list ascending, until
    /// `visit` answers false for a list.
    pub(crate) fn scan_candidates(&self, path: &str, mut visit: impl FnMut(usize) -> bool) {
        self.index.scan(path, |candidate| visit(candidate.position()));
    }

    /// The positions of the routes whose path predicate may hold, ascending. All others cannot take this path.
    pub(crate) fn candidates(&self, path: &str) -> Vec<usize> {
        self.index.candidates(path)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, StatusCode};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::kind::Kind;
    use crate::matching::{
        HeaderField, HeaderPredicate, Predicate, Predicates, QueryPredicate, Regex, StringMatch, UriMatch, UriPattern,
        ValueMatch,
    };
    use crate::meta::ResourceKey;
    use crate::request::headers::Headers;
    use crate::table::headers::HeaderOps;
    use crate::table::route::{Action, DirectResponse, RouteOrigin};

    /// A rule as the test understands it.
    #[derive(Clone, Debug)]
    struct Rule {
        uri: Uri,
        ignore_case: bool,
        method: Option<&'static str>,
        header: Option<(&'static str, Option<&'static str>)>,
        without: Option<(&'static str, &'static str)>,
        query: Option<(&'static str, &'static str)>,
    }

    #[derive(Clone, Debug)]
    enum Uri {
        Exact(String),
        Prefix(String),
        Regex(String),
    }

    #[derive(Clone, Debug)]
    struct Request {
        path: String,
        method: &'static str,
        headers: Vec<(&'static str, &'static str)>,
        query: Option<&'static str>,
    }

    impl Rule {
        fn takes(&self, request: &Request) -> bool {
            let fold = |text: &str| if self.ignore_case { text.to_lowercase() } else { text.to_owned() };
            let values = |name| request.headers.iter().filter(move |(n, _)| *n == name).map(|(_, value)| *value);
            let path = match &self.uri {
                Uri::Exact(path) => fold(path) == fold(&request.path),
                Uri::Prefix(path) => fold(&request.path).starts_with(&fold(path)),
                Uri::Regex(text) => regex::Regex::new(&format!("^(?:{text})$")).expect("regex").is_match(&request.path),
            };
            path && self.method.is_none_or(|method| method == request.method)
                && self.header.is_none_or(|(name, wanted)| values(name).any(|v| wanted.is_none_or(|w| w == v)))
                && self.without.is_none_or(|(name, unwanted)| {
                    if values(name).count() == 0 { !unwanted.is_empty() } else { values(name).all(|v| v != unwanted) }
                })
                && self.query.is_none_or(|(key, wanted)| {
                    request.query.is_some_and(|q| {
                        q.split('&')
                            .map(|p| p.split_once('=').unwrap_or((p, "")))
                            .find(|(k, _)| *k == key)
                            .map(|(_, v)| v)
                            == Some(wanted)
                    })
                })
        }

        fn route(&self) -> Arc<Route> {
            let pattern = match &self.uri {
                Uri::Exact(path) => UriPattern::Exact(path.as_str().into()),
                Uri::Prefix(path) => UriPattern::Prefix(path.as_str().into()),
                Uri::Regex(text) => UriPattern::Regex(Regex::new(text).expect("regex")),
            };
            let exact = |text: &str| ValueMatch::Text(StringMatch::Exact(text.into()));
            let header = |name, value, inverted| {
                Predicate::Header(HeaderPredicate { field: HeaderField::parse(name), value, inverted })
            };
            let predicates = [
                self.method.map(|method| Predicate::Method(StringMatch::Exact(method.into()))),
                self.header.map(|(name, value)| header(name, value.map_or(ValueMatch::Present, exact), false)),
                self.without.map(|(name, value)| header(name, exact(value), true)),
                self.query
                    .map(|(key, value)| Predicate::Query(QueryPredicate { key: key.into(), value: exact(value) })),
            ];
            route(UriMatch { pattern, ignore_case: self.ignore_case }, predicates.into_iter().flatten().collect())
        }
    }

    fn route(uri: UriMatch, predicates: Vec<Predicate>) -> Arc<Route> {
        let origin = RouteOrigin {
            virtual_service: ResourceKey::new(Kind::VirtualService, "default", "test"),
            rule: 0,
            match_index: None,
            delegate: None,
        };
        let action = Action::Direct(Arc::new(DirectResponse {
            status: StatusCode::OK,
            body: bytes::Bytes::new(),
            content_type: None,
            response_headers: HeaderOps::default(),
        }));
        Arc::new(Route::new("".into(), origin, uri, Predicates::new(predicates), action))
    }

    /// Paths that share prefixes, differ in case, and are each other's prefix.
    fn path() -> impl Strategy<Value = String> {
        "(/(a|b|A|ab|abc|x1|x22)){0,4}/?(a|B)?"
    }

    fn uri() -> impl Strategy<Value = Uri> {
        prop_oneof![
            3 => path().prop_map(Uri::Exact),
            3 => path().prop_map(Uri::Prefix),
            1 => (path(), select(vec!["", ".*", "/.+", "[0-9]+", "/(a|b)/.*", "(?i)/a"])).prop_map(|(path, end)| Uri::Regex(path + end)),
            1 => select(vec![".*", "/.*", ".*/a", "(/a|/b)/x[0-9]+", "[a-z/]+"]).prop_map(|text| Uri::Regex(text.to_owned())),
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let rarely = |values: Vec<(&'static str, &'static str)>| proptest::option::weighted(0.2, select(values));
        (
            uri(),
            proptest::bool::weighted(0.2),
            proptest::option::weighted(0.2, select(vec!["GET", "POST"])),
            proptest::option::weighted(0.2, select(vec![("x", None), ("x", Some("1")), ("y", Some(""))])),
            rarely(vec![("x", "1"), ("y", "")]),
            rarely(vec![("q", "1"), ("q", "")]),
        )
            .prop_map(|(uri, ignore_case, method, header, without, query)| Rule {
                uri,
                ignore_case,
                method,
                header,
                without,
                query,
            })
    }

    fn request() -> impl Strategy<Value = Request> {
        (
            path(),
            select(vec!["GET", "POST", "PUT"]),
            vec(select(vec![("x", "1"), ("x", "2"), ("y", "")]), 0..3),
            select(vec![None, Some("q"), Some("q=1"), Some("q=2&q=1"), Some("a&q=1")]),
        )
            .prop_map(|(path, method, headers, query)| Request { path, method, headers, query })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn the_index_finds_what_a_scan_in_list_order_finds(
            rules in vec(rule(), 0..60),
            changed in vec(rule(), 0..3),
            requests in vec(request(), 1..30),
        ) {
            let hosts = |rules: &[Rule], previous: Option<&VirtualHost>| {
                let routes = rules.iter().map(Rule::route).collect();
                match previous {
                    Some(previous) => VirtualHost::after(previous, false, routes),
                    None => VirtualHost::new(HostPattern::new("*"), false, routes),
                }
            };
            let first = hosts(&rules, None);
            let mut rules_after = rules.clone();
            for (i, rule) in changed.iter().enumerate() {
                rules_after.insert(rules.len() * i / 3, rule.clone());
            }
            let second = hosts(&rules_after, Some(&first));
            for (vhost, rules) in [(&first, &rules), (&second, &rules_after)] {
                for request in &requests {
                    let mut headers = Headers::new();
                    for (name, value) in &request.headers {
                        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
                    }
                    let head = RequestHead {
                        method: request.method, scheme: "http", authority: "a", path: &request.path, query: request.query, headers: &headers, claims: None,
                    };
                    let wanted = rules.iter().position(|rule| rule.takes(request));
                    let found = vhost.find(&head).map(|found| vhost.routes().iter().position(|r| Arc::ptr_eq(r, found)).expect("of the list"));
                    prop_assert_eq!(found, wanted, "{:?}", request);
                    let candidates = vhost.candidates(&request.path);
                    prop_assert!(wanted.is_none_or(|wanted| candidates.contains(&wanted)));
                }
            }
        }
    }

    #[test]
    fn crowds_of_regexes_are_asked_together_and_kept_from_table_to_table() {
        let rules = |count: usize| -> Vec<_> {
            (0..count)
                .map(|i| {
                    let pattern = UriPattern::Regex(Regex::new(&format!("/[a-z]+/{i}(/.*)?")).expect("regex"));
                    route(UriMatch { pattern, ignore_case: false }, Vec::new())
                })
                .collect()
        };
        let first = VirtualHost::new(HostPattern::new("*"), false, rules(500));
        let second = VirtualHost::after(&first, false, rules(501));
        let none = Headers::new();
        for i in [0, 7, 499, 500] {
            let path = format!("/tenant/{i}/x");
            let head = RequestHead {
                method: "GET",
                scheme: "http",
                authority: "a",
                path: &path,
                query: None,
                headers: &none,
                claims: None,
            };
            assert_eq!(second.find(&head).map(|found| Arc::ptr_eq(found, &second.routes()[i])), Some(true));
            assert_eq!(first.find(&head).is_some(), i < 500);
        }
    }
}
