//! How resources name each other, and which of two competing ones comes first.

use std::net::IpAddr;
use std::sync::Arc;

use crate::meta::ResourceKey;
use crate::resource::Resource;

/// The domain that short names are expanded in.
const DOMAIN: &str = "svc.cluster.local";

/// The reserved gateway name that stands for all sidecars.
pub const MESH: &str = "mesh";

/// A host as a VirtualService or DestinationRule names it, in lower case: without any dot it is a service of the
/// resource's own namespace. Wildcards and IP addresses stay as they are.
pub fn qualify_host(host: &str, namespace: &str) -> Arc<str> {
    if is_short(host) {
        format!("{}.{namespace}.{DOMAIN}", host.to_ascii_lowercase()).into()
    } else {
        host.to_ascii_lowercase().into()
    }
}

/// Whether a host is expanded with the namespace of the resource that names it.
pub(crate) fn is_short(host: &str) -> bool {
    !host.contains(['.', '*']) && !host.is_empty() && host.parse::<IpAddr>().is_err()
}

/// The namespace in the name of a service: `shop` of `reviews.shop.svc.cluster.local`.
pub(crate) fn namespace_of(host: &str) -> Option<&str> {
    let (name, namespace) = host.strip_suffix(DOMAIN)?.strip_suffix('.')?.split_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.')).then_some(namespace)
}

/// The `namespace/name` of a Gateway as a VirtualService names it: `name`, `./name`, `namespace/name`, or the old
/// `name.namespace[.svc…]`. `mesh` stays as it is.
pub fn qualify_gateway(name: &str, namespace: &str) -> Arc<str> {
    match name.split_once('/') {
        _ if name == MESH => MESH.into(),
        Some((".", name)) => format!("{namespace}/{name}").into(),
        Some(_) => name.into(),
        None => match name.split_once('.') {
            Some((name, rest)) => {
                let namespace = rest.split_once('.').map_or(rest, |(namespace, _)| namespace);
                format!("{namespace}/{name}").into()
            }
            None => format!("{namespace}/{name}").into(),
        },
    }
}

/// The `namespace/name` of a resource.
pub(crate) fn qualified_name(key: &ResourceKey) -> Arc<str> {
    format!("{}/{}", key.namespace, key.name).into()
}

/// The order of competing resources: the older first, then by name, then by namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seniority {
    /// Text order is time order.
    created: Arc<str>,
    name: Arc<str>,
    namespace: Arc<str>,
}

impl Seniority {
    pub(crate) fn of(resource: &Resource) -> Self {
        Self {
            created: resource.meta.creation_timestamp.as_str().into(),
            name: resource.key.name.clone(),
            namespace: resource.key.namespace.clone(),
        }
    }
}

/// Whether a resource whose `exportTo` is `export_to`, or by default `default`, is visible in `viewer`.
pub fn is_visible(export_to: &[String], default: &[String], home: &str, viewer: &str) -> bool {
    let list = if export_to.is_empty() { default } else { export_to };
    list.is_empty()
        || list.iter().any(|to| match to.as_str() {
            "*" => true,
            "." => home == viewer,
            "~" => false,
            namespace => namespace == viewer,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_hosts_belong_to_the_resources_namespace() {
        for (host, want) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            // Any dot makes a name fully qualified.
            ("reviews.prod", "reviews.prod"),
            ("Reviews.example.COM", "reviews.example.com"),
            ("*", "*"),
            ("*.foo.com", "*.foo.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(&*qualify_host(host, "shop"), want);
        }
    }

    #[test]
    fn a_services_name_holds_its_namespace() {
        for (host, want) in [
            ("reviews.shop.svc.cluster.local", Some("shop")),
            ("a.b.c.svc.cluster.local", None),
            ("shop.svc.cluster.local", None),
            ("reviews.example.com", None),
        ] {
            assert_eq!(namespace_of(host), want);
        }
    }

    #[test]
    fn gateways_are_named_in_four_ways() {
        for (name, want) in [
            ("edge", "shop/edge"),
            ("./edge", "shop/edge"),
            ("infra/edge", "infra/edge"),
            ("edge.infra", "infra/edge"),
            ("edge.infra.svc.cluster.local", "infra/edge"),
            ("mesh", "mesh"),
        ] {
            assert_eq!(&*qualify_gateway(name, "shop"), want);
        }
    }

    #[test]
    fn visibility_is_the_viewers() {
        let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        for (export_to, default, viewer, want) in [
            (&[][..], &[][..], "edge", true),
            (&[], &["."], "edge", false),
            (&[], &["."], "shop", true),
            (&["*"], &["."], "edge", true),
            (&["."], &[], "edge", false),
            (&["."], &[], "shop", true),
            (&["edge", "other"], &[], "edge", true),
            (&["other"], &[], "shop", false),
            (&["~"], &[], "shop", false),
        ] {
            assert_eq!(is_visible(&list(export_to), &list(default), "shop", viewer), want, "{export_to:?} {viewer}");
        }
    }
}
