//! What there is: versions, groups and resources, plainly and aggregated.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use route_model::kind::Kind;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::negotiate::DiscoveryForm;
use super::openapi::content_hash;
use super::path::Review;
use super::resources::{EVENT_VERBS, STATUS_VERBS, VERBS};

/// The Kubernetes version that clients are told. kubectl only asks whether it is near its own.
const MINOR: &str = "32";

/// `GET /version`
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0-fairway-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

/// The architecture in Go's words, which kubectl expects.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A resource as discovery tells it.
struct Listed {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: &'static [&'static str],
    has_status: bool,
}

/// Everything that is served, by group in the order in which groups are told.
fn everything() -> Vec<Listed> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let info = kind.info();
        for version in info.versions {
            all.push(Listed {
                group: info.group,
                version,
                kind: info.name,
                plural: info.plural,
                singular: info.singular,
                short_names: info.short_names,
                categories: info.categories,
                namespaced: info.namespaced,
                verbs: if kind == Kind::Event { &EVENT_VERBS } else { &VERBS },
                has_status: info.has_status,
            });
        }
    }
    for review in Review::ALL {
        all.extend(review.versions().iter().map(|version| Listed {
            group: review.group(),
            version,
            kind: review.kind(),
            plural: review.plural(),
            singular: review.plural().strip_suffix('s').unwrap_or_default(),
            short_names: &[],
            categories: &[],
            namespaced: false,
            verbs: &["create"],
            has_status: false,
        }));
    }
    all
}

/// The groups with their versions, in order of preference.
pub(super) fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for listed in everything() {
        let at = groups.iter().position(|(group, _)| *group == listed.group).unwrap_or_else(|| {
            groups.push((listed.group, Vec::new()));
            groups.len() - 1
        });
        if !groups[at].1.contains(&listed.version) {
            groups[at].1.push(listed.version);
        }
    }
    // v1 before v1beta1 before v1alpha3, whichever kind came first.
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| (version.contains("alpha"), version.contains("beta"), *version));
    }
    groups
}

/// `GET /api`
pub(super) fn core_versions(headers: &HeaderMap) -> Response {
    let plain = json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []});
    answer(headers, plain, str::is_empty)
}

/// `GET /apis`
pub(super) fn group_list(headers: &HeaderMap) -> Response {
    let groups: Vec<Value> =
        groups().into_iter().filter(|(group, _)| !group.is_empty()).map(|(g, v)| group_value(g, &v)).collect();
    let plain = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
    answer(headers, plain, |group| !group.is_empty())
}

/// `GET /apis/G`
pub(super) fn group(name: &str) -> Result<Value, ApiError> {
    let groups = groups();
    let (group, versions) =
        groups.iter().find(|(group, _)| *group == name && !group.is_empty()).ok_or_else(ApiError::unknown_path)?;
    let mut value = group_value(group, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Ok(value)
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions[0]})
}

/// `GET /api/v1`, `GET /apis/G/V`
pub(super) fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let mut resources = Vec::new();
    for listed in everything().iter().filter(|r| r.group == group && r.version == version) {
        let mut resource = json!({
            "name": listed.plural,
            "singularName": listed.singular,
            "namespaced": listed.namespaced,
            "kind": listed.kind,
            "verbs": listed.verbs,
        });
        add_names(&mut resource, listed);
        resources.push(resource);
        if listed.has_status {
            resources.push(json!({
                "name": format!("{}/status", listed.plural),
                "singularName": "",
                "namespaced": listed.namespaced,
                "kind": listed.kind,
                "verbs": STATUS_VERBS,
            }));
        }
    }
    if resources.is_empty() {
        return Err(ApiError::unknown_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

fn add_names(resource: &mut Value, listed: &Listed) {
    if !listed.short_names.is_empty() {
        resource["shortNames"] = json!(listed.short_names);
    }
    if !listed.categories.is_empty() {
        resource["categories"] = json!(listed.categories);
    }
}

/// The groups that `wanted` takes, each with all its resources.
fn aggregated(form_version: &str, wanted: impl Fn(&str) -> bool) -> Value {
    let everything = everything();
    let mut items = Vec::new();
    for (group, versions) in groups().into_iter().filter(|(group, _)| wanted(group)) {
        let versions = versions.into_iter().map(|version| {
            let resources =
                everything.iter().filter(|r| r.group == group && r.version == version).map(aggregated_resource);
            json!({"version": version, "freshness": "Current", "resources": resources.collect::<Vec<_>>()})
        });
        let mut metadata = Map::new();
        if !group.is_empty() {
            metadata.insert("name".to_owned(), json!(group));
        }
        metadata.insert("creationTimestamp".to_owned(), Value::Null);
        items.push(json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()}));
    }
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form_version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(listed: &Listed) -> Value {
    let kind = json!({"group": listed.group, "version": listed.version, "kind": listed.kind});
    let mut resource = json!({
        "resource": listed.plural,
        "responseKind": kind,
        "scope": if listed.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": listed.singular,
        "verbs": listed.verbs,
    });
    add_names(&mut resource, listed);
    if listed.has_status {
        resource["subresources"] = json!([{"subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS}]);
    }
    resource
}

/// The plain or the aggregated form. The ETag covers content type and build: kubectl keeps what it got for days, and a
/// wrong form would outlive its cause.
fn answer(headers: &HeaderMap, plain: Value, wanted: impl Fn(&str) -> bool) -> Response {
    let (content_type, body) = match DiscoveryForm::of(headers) {
        DiscoveryForm::Plain => ("application/json".to_owned(), plain),
        DiscoveryForm::Aggregated(version) => (
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"),
            aggregated(version, wanted),
        ),
    };
    let mut text = body.to_string();
    text.push('\n');
    let hash = content_hash(&[content_type.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes(), text.as_bytes()]);
    let tag = format!("\"{hash}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|t| t.trim().trim_start_matches("W/") == tag))
    {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        text.into_response()
    };
    let headers = response.headers_mut();
    let constant = HeaderValue::from_static;
    headers.insert(header::VARY, constant("Accept"));
    headers.insert(header::CACHE_CONTROL, constant("public"));
    for (name, value) in [(header::CONTENT_TYPE, content_type), (header::ETAG, tag)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_by_preference() {
        let groups = groups();
        let networking = groups.iter().find(|(group, _)| *group == "networking.istio.io").unwrap();
        assert_eq!(networking.1, ["v1", "v1beta1", "v1alpha3"]);
        assert_eq!(groups[0].0, "networking.istio.io");
        assert_eq!(group("networking.istio.io").unwrap()["preferredVersion"]["version"], "v1");
        assert!(group("").is_err());
    }

    #[test]
    fn resources_name_their_status() {
        let list = resources("networking.istio.io", "v1").unwrap();
        let vs = |name: &str| list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned();
        assert_eq!(vs("virtualservices").unwrap()["shortNames"], json!(["vs"]));
        assert_eq!(vs("virtualservices/status").unwrap()["kind"], "VirtualService");
        assert!(resources("networking.istio.io", "v9").is_err());
        let core = resources("", "v1").unwrap();
        assert_eq!(core["groupVersion"], "v1");
    }

    #[test]
    fn the_aggregated_form_has_its_own_content_type_and_tag() {
        let mut headers = HeaderMap::new();
        let plain = group_list(&headers);
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
        );
        let aggregated = group_list(&headers);
        assert_eq!(
            aggregated.headers()[header::CONTENT_TYPE],
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        );
        assert_ne!(aggregated.headers()[header::ETAG], plain.headers()[header::ETAG]);
        headers.insert(header::IF_NONE_MATCH, aggregated.headers()[header::ETAG].clone());
        assert_eq!(group_list(&headers).status(), StatusCode::NOT_MODIFIED);
    }
}
