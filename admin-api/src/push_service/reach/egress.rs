//! What a Sidecar's `egress` brings in (pilot/pkg/model/sidecar.go).

use route_model::kinds::Sidecar;

/// `namespace/host`: which services and rules come in. Those with a `~` before the namespace take out again what the
/// others bring in; with a `~` in its place nothing comes in.
#[derive(Debug)]
pub(super) struct Imports<'a> {
    included: Vec<Import<'a>>,
    excluded: Vec<Import<'a>>,
}

#[derive(Debug)]
struct Import<'a> {
    /// `None`: every namespace.
    namespace: Option<&'a str>,
    host: String,
}

impl<'a> Imports<'a> {
    /// Of workloads in this namespace. Without a Sidecar, or an `egress` in it, everything comes in.
    pub(super) fn of(sidecar: Option<&'a Sidecar>, namespace: &'a str) -> Self {
        let mut imports = Self { included: Vec::new(), excluded: Vec::new() };
        let listeners = sidecar.map_or(&[][..], |sidecar| &sidecar.egress);
        if listeners.is_empty() {
            imports.included.push(Import { namespace: None, host: "*".to_owned() });
        }
        for host in listeners.iter().flat_map(|listener| &listener.hosts) {
            let Some((place, host)) = host.split_once('/') else { continue };
            let (list, place) = match place.strip_prefix('~') {
                Some("") => continue,
                Some(place) => (&mut imports.excluded, place),
                None => (&mut imports.included, place),
            };
            let place = match place {
                "*" => None,
                "." => Some(namespace),
                place => Some(place),
            };
            list.push(Import { namespace: place, host: host.to_ascii_lowercase() });
        }
        imports
    }

    /// Whether everything comes in.
    pub(super) fn is_all(&self) -> bool {
        self.excluded.is_empty() && self.included.iter().any(|import| import.namespace.is_none() && import.host == "*")
    }

    /// Whether a service comes in: its name, or its whole pattern.
    pub(super) fn services(&self, home: &str, host: &str) -> bool {
        self.has(home, |pattern| covers(pattern, host), host)
    }

    /// Whether rules for a host come in: patterns may also be narrower than the host.
    pub(super) fn rules(&self, home: &str, host: &str) -> bool {
        self.has(home, |pattern| overlaps(pattern, host), host)
    }

    fn has(&self, home: &str, fits: impl Fn(&str) -> bool, host: &str) -> bool {
        let of = |import: &&Import<'_>| import.namespace.is_none_or(|namespace| namespace == home);
        self.included.iter().filter(of).any(|import| fits(&import.host))
            && !self.excluded.iter().filter(of).any(|import| covers(&import.host, host))
    }
}

/// Whether every name of `host` is one of `pattern`; both in lower case, `*` and `*.x` being patterns.
pub(super) fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix('*'), host.strip_prefix('*')) {
        (None, None) => pattern == host,
        (None, Some(_)) => false,
        (Some(suffix), None) => host.len() > suffix.len() && host.ends_with(suffix),
        (Some(suffix), Some(narrower)) => narrower.ends_with(suffix),
    }
}

/// Whether some name is of both.
pub(super) fn overlaps(one: &str, other: &str) -> bool {
    covers(one, other) || covers(other, one)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_comes_in_is_named_by_namespace_and_host() {
        let all = &["shop/a.example", "bank/a.example", "bank/b.example", "bank/*.b.example"][..];
        for (egress, want) in [
            (&["*/*"][..], all),
            (&["./*"], &["shop/a.example"]),
            (&["bank/*"], &["bank/a.example", "bank/b.example", "bank/*.b.example"]),
            (&["*/a.example"], &["shop/a.example", "bank/a.example"]),
            (&["*/A.Example"], &["shop/a.example", "bank/a.example"]),
            (&["bank/*.example"], &["bank/a.example", "bank/b.example", "bank/*.b.example"]),
            (&["bank/b.example", "./*"], &["shop/a.example", "bank/b.example"]),
            // A pattern does not come in by a name that it covers.
            (&["*/x.b.example"], &[]),
            (&["~/*"], &[]),
            (&["*/*", "~bank/*"], &["shop/a.example"]),
            (&["*/*", "~*/a.example"], &["bank/b.example", "bank/*.b.example"]),
            (&["*/*", "~./*"], &["bank/a.example", "bank/b.example", "bank/*.b.example"]),
        ] {
            let sidecar: Sidecar = serde_json::from_value(json!({"egress": [{"hosts": egress}]})).unwrap();
            let imports = Imports::of(Some(&sidecar), "shop");
            let comes_in = |service: &&&str| {
                let (home, host) = service.split_once('/').unwrap();
                imports.services(home, host)
            };
            assert_eq!(all.iter().filter(comes_in).copied().collect::<Vec<_>>(), want, "{egress:?}");
            assert_eq!(imports.is_all(), egress == ["*/*"], "{egress:?}");
        }
    }

    #[test]
    fn a_sidecar_without_egress_takes_nothing_away() {
        let inbound: Sidecar = serde_json::from_value(json!({"inboundConnectionPool": {}})).unwrap();
        assert!(Imports::of(None, "shop").is_all());
        assert!(Imports::of(Some(&inbound), "shop").is_all());
    }

    #[test]
    fn rules_come_in_for_what_is_narrower_too() {
        let sidecar: Sidecar = serde_json::from_value(json!({"egress": [{"hosts": ["*/x.b.example"]}]})).unwrap();
        let imports = Imports::of(Some(&sidecar), "shop");
        assert!(imports.rules("bank", "*.b.example") && imports.rules("bank", "x.b.example"));
        assert!(!imports.rules("bank", "y.b.example") && !imports.services("bank", "*.b.example"));
    }
}
