//! The OpenAPI documents: one a group and version for kubectl, and one of everything for people.

mod merged;
mod resources;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::{Timestamp, ToSpan};
use serde_json::{Map, Value, json};

use super::discovery::groups;
use super::error::ApiError;

pub(crate) use self::merged::merged;

/// All documents, made when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    by_group_version: OnceLock<BTreeMap<String, Document>>,
    merged: OnceLock<Document>,
}

#[derive(Debug)]
struct Document {
    text: Bytes,
    hash: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let mut text = value.to_string();
        text.push('\n');
        Self { hash: content_hash(&[text.as_bytes()]), text: text.into() }
    }
}

/// 128 bits of SHA-256 in hex: enough to tell documents apart.
pub(crate) fn content_hash(parts: &[&[u8]]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 16];
    hash.copy_from_slice(&context.finish().as_ref()[..16]);
    format!("{:032x}", u128::from_be_bytes(hash))
}

impl Documents {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// By path below `/openapi/v3/`: `apis/networking.istio.io/v1`, `api/v1`.
    fn by_group_version(&self) -> &BTreeMap<String, Document> {
        self.by_group_version.get_or_init(|| {
            let mut documents = BTreeMap::new();
            for (group, versions) in groups() {
                for version in versions {
                    let path =
                        if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
                    if let Some(document) = resources::document(group, version) {
                        documents.insert(path, Document::new(&document));
                    }
                }
            }
            documents
        })
    }

    /// `GET /openapi/v3`
    pub(crate) fn index(&self) -> Value {
        let paths = self.by_group_version().iter().map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        });
        json!({"paths": paths.collect::<Map<_, _>>()})
    }

    /// `GET /openapi/v3/apis/G/V`. With the right hash in its URL a document never changes, and says so: otherwise
    /// kubectl loads it anew with every command.
    pub(crate) fn group_version(
        &self,
        path: &str,
        hash: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let document = self.by_group_version().get(path).ok_or_else(ApiError::unknown_path)?;
        Ok(document.answer(hash == Some(&document.hash), headers))
    }

    /// `GET /openapi/fairway.json`
    pub(crate) fn merged(&self, headers: &HeaderMap) -> Response {
        self.merged.get_or_init(|| Document::new(&merged())).answer(false, headers)
    }
}

impl Document {
    fn answer(&self, immutable: bool, headers: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", self.hash);
        let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        let mut response = if known.is_some_and(|known| known.contains(&tag)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, "application/json")], self.text.clone()).into_response()
        };
        let now = Timestamp::now();
        let http_date = |time: Timestamp| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let mut fields = vec![(header::ETAG, tag), (header::VARY, "Accept".to_owned())];
        if immutable {
            let expires = now.checked_add((24 * 365).hours()).unwrap_or(now);
            fields.push((header::CACHE_CONTROL, "public, immutable".to_owned()));
            fields.push((header::EXPIRES, http_date(expires)));
            fields.push((header::DATE, http_date(now)));
        } else {
            fields.push((header::CACHE_CONTROL, "no-cache".to_owned()));
        }
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// `GET /openapi/v2`: an empty protobuf message, which is a valid document without anything in it. Every kubectl takes
/// it and leaves validation to the server; the dots in the media type are not those of the request.
pub(crate) fn version_2() -> Response {
    let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    ([(header::CONTENT_TYPE, content_type)], Bytes::new()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_leads_to_documents_that_may_be_kept() {
        let documents = Documents::new();
        let index = documents.index();
        let url = index["paths"]["apis/networking.istio.io/v1"]["serverRelativeURL"].as_str().unwrap();
        let hash = url.split_once("?hash=").unwrap().1;
        let answer = documents.group_version("apis/networking.istio.io/v1", Some(hash), &HeaderMap::new()).unwrap();
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "public, immutable");
        assert!(answer.headers()[header::EXPIRES].to_str().unwrap().ends_with(" GMT"));
        let stale = documents.group_version("apis/networking.istio.io/v1", Some("x"), &HeaderMap::new()).unwrap();
        assert_eq!(stale.headers()[header::CACHE_CONTROL], "no-cache");
        assert!(documents.group_version("apis/nothing/v1", None, &HeaderMap::new()).is_err());
        assert!(index["paths"]["api/v1"].is_object());
    }
}
