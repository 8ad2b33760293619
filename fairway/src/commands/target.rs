//! Which REST path a kind named on the command line, or a document, stands for.

use std::fmt::Write as _;

use anyhow::Context;
use route_model::kind::{Kind, KindInfo};
use serde_json::Value;

use crate::documents::Document;

/// A kind as the REST API serves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub info: &'static KindInfo,
}

impl Target {
    /// By plural, singular, short name or kind, whatever the case; `virtualservices.networking.istio.io` works too.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let lower = name.to_ascii_lowercase();
        let bare = lower.split_once('.').map_or(lower.as_str(), |(bare, _)| bare);
        let known = |info: &KindInfo| {
            info.plural == bare
                || info.singular == bare
                || info.short_names.contains(&bare)
                || info.kind.name().eq_ignore_ascii_case(bare)
        };
        let found = Kind::ALL.iter().map(|kind| kind.info()).find(|info| known(info));
        found.map(|info| Self { info }).ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.info().plural).collect();
            anyhow::anyhow!("there is no kind `{name}`; known are {}", names.join(", "))
        })
    }

    /// The kind of a document, by its apiVersion and kind.
    pub(crate) fn of_document(document: &Document) -> anyhow::Result<Self> {
        let text = |key: &str| document.object[key].as_str().unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let kind = Kind::from_group_kind(group, text("kind")).with_context(|| {
            format!("{}: `{}` `{}` is no kind that Fairway keeps", document.source, text("apiVersion"), text("kind"))
        })?;
        Ok(Self { info: kind.info() })
    }

    /// `/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME`; all namespaces without one.
    pub(crate) fn path(self, namespace: Option<&str>, name: Option<&str>) -> String {
        let version = self.info.versions[0];
        let mut path = match self.info.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        if let Some(namespace) = namespace.filter(|_| self.info.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(&path_segment(namespace));
        }
        path.push('/');
        path.push_str(self.info.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(&path_segment(name));
        }
        path
    }

    /// `virtualservice.networking.istio.io`, as kubectl prints it.
    pub(crate) fn qualified_name(self) -> String {
        match self.info.group {
            "" => self.info.singular.to_owned(),
            group => format!("{}.{group}", self.info.singular),
        }
    }
}

/// Gives a document that names no namespace this one.
pub(crate) fn default_namespace(object: &mut Value, namespace: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
}

/// A name as one segment of a path: what is not unreserved (RFC 3986 section 2.3) is percent-encoded.
pub(crate) fn path_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A value in a query string.
pub(crate) fn query_value(text: &str) -> String {
    path_segment(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_every_name() {
        for name in ["vs", "virtualservice", "virtualservices", "VirtualService", "virtualservices.networking.istio.io"]
        {
            assert_eq!(Target::find(name).unwrap().info.kind, Kind::VirtualService, "{name}");
        }
        let message = Target::find("pods").unwrap_err().to_string();
        assert!(message.contains("no kind `pods`") && message.contains("virtualservices"), "{message}");
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let vs = Target::find("vs").unwrap();
        assert_eq!(vs.path(Some("shop"), Some("a")), "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/a");
        assert_eq!(vs.path(None, None), "/apis/networking.istio.io/v1/virtualservices");
        let ns = Target::find("ns").unwrap();
        assert_eq!(ns.path(Some("shop"), Some("x/y")), "/api/v1/namespaces/x%2Fy");
    }
}
