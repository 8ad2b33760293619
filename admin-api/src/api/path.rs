//! What a URL path of the resource API means.

use percent_encoding::percent_decode_str;
use route_model::kind::Kind;

/// A resource or a set of resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// As in the URL, and served.
    pub(crate) version: &'static str,
    /// None for cluster-scoped kinds and for all namespaces.
    pub(crate) namespace: Option<String>,
}

impl Target {
    /// `networking.istio.io/v1`
    pub(crate) fn api_version(&self) -> String {
        self.kind.info().api_version(self.version)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/G`
    Group(String),
    /// `/api/v1`, `/apis/G/V`
    Resources {
        group: String,
        version: String,
    },
    Collection(Target),
    Object(Target, String),
    Status(Target, String),
    /// With its version.
    Review(Review, &'static str),
}

/// Questions that a client asks about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// `kubectl auth can-i`
    Access,
    /// `kubectl auth can-i --list`
    Rules,
    /// `kubectl auth whoami`
    Subject,
}

impl Review {
    pub(crate) const ALL: [Self; 3] = [Self::Access, Self::Rules, Self::Subject];

    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::Access | Self::Rules => "authorization.k8s.io",
            Self::Subject => "authentication.k8s.io",
        }
    }

    /// The preferred one first; kubectl 1.27 knows no later `whoami` than v1beta1.
    pub(crate) fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Access | Self::Rules => &["v1"],
            Self::Subject => &["v1", "v1beta1"],
        }
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Access => "selfsubjectaccessreviews",
            Self::Rules => "selfsubjectrulesreviews",
            Self::Subject => "selfsubjectreviews",
        }
    }

    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Access => "SelfSubjectAccessReview",
            Self::Rules => "SelfSubjectRulesReview",
            Self::Subject => "SelfSubjectReview",
        }
    }
}

impl Path {
    /// `None` for what is not there. A trailing slash means nothing.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let decode = |segment| percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned);
        let segments = path.split('/').map(decode).collect::<Option<Vec<String>>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api"] => return Some(Self::CoreVersions),
            ["apis"] => return Some(Self::Groups),
            ["apis", group] => return Some(Self::Group((*group).to_owned())),
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, *version, rest),
            _ => return None,
        };
        if rest.is_empty() {
            return Some(Self::Resources { group: group.to_owned(), version: version.to_owned() });
        }
        if Review::ALL.iter().any(|review| review.group() == group) {
            let review = Review::ALL.into_iter().find(|r| r.group() == group && rest == [r.plural()])?;
            let version = review.versions().iter().find(|served| **served == version)?;
            return Some(Self::Review(review, version));
        }
        let target = |plural: &str, namespace: Option<&str>| {
            let kind = Kind::from_plural(group, plural)?;
            let version = kind.info().served_version(version)?;
            let in_its_place = kind.info().namespaced || namespace.is_none();
            in_its_place.then(|| Target { kind, version, namespace: namespace.map(str::to_owned) })
        };
        match *rest {
            // Sub-resources of a namespace look like collections inside it.
            ["namespaces", name, "status" | "finalize"] if group.is_empty() => {
                Some(Self::Status(target("namespaces", None)?, name.to_owned()))
            }
            ["namespaces", namespace, plural] => Some(Self::Collection(target(plural, Some(namespace))?)),
            ["namespaces", namespace, plural, name] => {
                Some(Self::Object(target(plural, Some(namespace))?, name.to_owned()))
            }
            ["namespaces", namespace, plural, name, "status"] => Self::status(target(plural, Some(namespace))?, name),
            [plural] => Some(Self::Collection(target(plural, None)?)),
            [plural, name] => {
                let target = target(plural, None)?;
                (!target.kind.info().namespaced).then(|| Self::Object(target, name.to_owned()))
            }
            [plural, name, "status"] => {
                let target = target(plural, None)?;
                if target.kind.info().namespaced { None } else { Self::status(target, name) }
            }
            _ => None,
        }
    }

    fn status(target: Target, name: &str) -> Option<Self> {
        target.kind.info().has_status.then(|| Self::Status(target, name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: Kind, version: &'static str, namespace: Option<&str>) -> Target {
        Target { kind, version, namespace: namespace.map(str::to_owned) }
    }

    #[test]
    fn paths_and_what_they_mean() {
        let vs = |namespace| target(Kind::VirtualService, "v1beta1", namespace);
        let namespaces = || target(Kind::Namespace, "v1", None);
        let name = || "x".to_owned();
        for (path, meaning) in [
            ("/api", Some(Path::CoreVersions)),
            ("/api/", Some(Path::CoreVersions)),
            ("/apis", Some(Path::Groups)),
            ("/apis/fairway.dev", Some(Path::Group("fairway.dev".into()))),
            ("/api/v1", Some(Path::Resources { group: String::new(), version: "v1".into() })),
            ("/apis/networking.istio.io/v1beta1/virtualservices", Some(Path::Collection(vs(None)))),
            ("/apis/networking.istio.io/v1beta1/namespaces/a/virtualservices/", Some(Path::Collection(vs(Some("a"))))),
            (
                "/apis/networking.istio.io/v1beta1/namespaces/a/virtualservices/x",
                Some(Path::Object(vs(Some("a")), name())),
            ),
            (
                "/apis/networking.istio.io/v1beta1/namespaces/a/virtualservices/x/status",
                Some(Path::Status(vs(Some("a")), name())),
            ),
            ("/apis/networking.istio.io/v1beta1/virtualservices/x", None),
            ("/apis/networking.istio.io/v2/virtualservices", None),
            ("/apis/networking.istio.io/v1/namespaces/a/pods", None),
            ("/api/v1/namespaces", Some(Path::Collection(namespaces()))),
            ("/api/v1/namespaces/x", Some(Path::Object(namespaces(), name()))),
            ("/api/v1/namespaces/x/status", Some(Path::Status(namespaces(), name()))),
            ("/api/v1/namespaces/a/secrets/x", Some(Path::Object(target(Kind::Secret, "v1", Some("a")), name()))),
            ("/api/v1/namespaces/a/secrets/x/status", None),
            (
                "/api/v1/namespaces/a/secrets/x%2Fy",
                Some(Path::Object(target(Kind::Secret, "v1", Some("a")), "x/y".into())),
            ),
            ("/apis/fairway.dev/v1/meshconfigs/x", Some(Path::Object(target(Kind::MeshConfig, "v1", None), name()))),
            ("/apis/fairway.dev/v1/namespaces/a/meshconfigs", None),
            ("/apis/authentication.k8s.io/v1/selfsubjectreviews", Some(Path::Review(Review::Subject, "v1"))),
            ("/apis/authentication.k8s.io/v1/selfsubjectrulesreviews", None),
            ("/", None),
            ("/apiss", None),
        ] {
            assert_eq!(Path::parse(path), meaning, "{path}");
        }
    }
}
