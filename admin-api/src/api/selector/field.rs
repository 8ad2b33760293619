//! Field selectors: `metadata.name=x`, `==`, `!=`, joined by commas; values may escape `,`, `=` and `\` by `\`.

use route_model::kind::Kind;
use serde_json::Value;

use super::MAX_LENGTH;
use crate::api::error::ApiError;

/// All requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    path: String,
    value: String,
    equal: bool,
}

/// What each kind can be selected by.
fn supported(kind: Kind, path: &str) -> bool {
    match path {
        "metadata.name" => true,
        "metadata.namespace" => kind.info().namespaced,
        "type" => matches!(kind, Kind::Secret | Kind::Event),
        "reason" | "source" | "reportingComponent" => kind == Kind::Event,
        _ => {
            kind == Kind::Event
                && path.strip_prefix("involvedObject.").is_some_and(|field| {
                    matches!(
                        field,
                        "kind" | "namespace" | "name" | "uid" | "apiVersion" | "resourceVersion" | "fieldPath"
                    )
                })
        }
    }
}

impl FieldSelector {
    pub(crate) fn parse(text: &str, kind: Kind) -> Result<Self, ApiError> {
        if text.len() > MAX_LENGTH {
            return Err(ApiError::bad_request(format!("a field selector has at most {MAX_LENGTH} bytes")));
        }
        let mut requirements = Vec::new();
        for part in split_unescaped(text).filter(|p| !p.is_empty()) {
            let (path, value, equal) = part
                .split_once("!=")
                .map(|(p, v)| (p, v, false))
                .or_else(|| part.split_once("==").map(|(p, v)| (p, v, true)))
                .or_else(|| part.split_once('=').map(|(p, v)| (p, v, true)))
                .ok_or_else(|| {
                    ApiError::bad_request(format!("invalid selector: {part:?}; expected = or != after the field"))
                })?;
            let path = path.trim();
            if !supported(kind, path) {
                return Err(ApiError::bad_request(format!("field label not supported: {path}")));
            }
            let value = unescape(value)
                .ok_or_else(|| ApiError::bad_request(format!("invalid selector: {part:?}: stray `\\` or `=`")))?;
            requirements.push(Requirement { path: path.to_owned(), value, equal });
        }
        Ok(Self(requirements))
    }

    /// Holds the selector against a whole object; an absent field is the empty text.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let found = requirement.path.split('.').try_fold(object, |at, field| at.get(field));
            (found.and_then(Value::as_str).unwrap_or_default() == requirement.value) == requirement.equal
        })
    }
}

fn split_unescaped(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let here = std::mem::take(&mut escaped);
        escaped = c == '\\' && !here;
        c == ',' && !here
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selects_by_name_and_namespace() {
        let object = json!({"metadata": {"name": "a", "namespace": "shop"}});
        for (selector, matches) in [
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=shop", true),
            ("metadata.name!=a", false),
            ("metadata.namespace!=other", true),
            ("metadata.name=b", false),
            ("", true),
        ] {
            let parsed = FieldSelector::parse(selector, Kind::Gateway).unwrap();
            assert_eq!(parsed.matches(&object), matches, "{selector}");
        }
        let error = FieldSelector::parse("spec.x=1", Kind::Gateway).unwrap_err();
        assert_eq!(error.message, "field label not supported: spec.x");
        assert!(FieldSelector::parse("metadata.name", Kind::Gateway).is_err());
        assert!(FieldSelector::parse("metadata.name=a=b", Kind::Gateway).is_err());
    }

    #[test]
    fn events_are_selected_by_the_object_they_are_about() {
        let event = json!({"involvedObject": {"kind": "Gateway", "name": "a,b"}});
        let selector =
            FieldSelector::parse(r"involvedObject.name=a\,b,involvedObject.kind=Gateway", Kind::Event).unwrap();
        assert!(selector.matches(&event));
        assert!(FieldSelector::parse("involvedObject.uid=", Kind::Event).unwrap().matches(&event));
    }
}
