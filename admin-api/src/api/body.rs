//! Request bodies: read within limits of size, time and depth, and parsed by their Content-Type.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::ApiError;
use super::protobuf;

/// Largest body with one object, in bytes.
pub(crate) const MAX_OBJECT: usize = 1024 * 1024;
/// Largest body with a list of objects, in bytes.
pub(crate) const MAX_LIST: usize = 8 * 1024 * 1024;
/// So much of a body beyond its limit is read and dropped before the refusal.
const MAX_DROPPED: usize = 32 * 1024 * 1024;
/// A client that takes longer to send its body is refused.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// A parsed body.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// Paths of fields that the text has twice; the last value counts.
    pub(crate) duplicates: Vec<String>,
}

/// The bytes of a body. What is too large is read on for a while, and dropped: a client that is still sending would
/// see a broken connection instead of the answer.
pub(crate) async fn read(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut collected = BytesMut::new();
    let mut received = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| ApiError::bad_request(format!("the request body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            received += data.len();
            if received <= limit {
                collected.extend_from_slice(&data);
            } else if received > limit + MAX_DROPPED {
                break;
            }
        }
        if received > limit { Err(ApiError::too_large(limit)) } else { Ok(collected.freeze()) }
    };
    match tokio::time::timeout(READ_WITHIN, reading).await {
        Ok(result) => result,
        Err(_) => {
            Err(ApiError::timeout(format!("the request body did not arrive within {} seconds", READ_WITHIN.as_secs())))
        }
    }
}

/// The media type of a request without its parameters, in lower case; none if there is no Content-Type.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Parses an object that a client sends to be stored, or the options of a call. Without a Content-Type it is JSON.
pub(crate) fn parse(bytes: &[u8], headers: &HeaderMap) -> Result<Document, ApiError> {
    match media_type(headers).as_deref() {
        None | Some("" | "application/json" | "*/*") => parse_json(bytes),
        Some("application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml") => parse_yaml(bytes),
        Some("application/vnd.kubernetes.protobuf") => {
            let value = protobuf::decode(bytes).map_err(ApiError::bad_request)?;
            Ok(Document { value, duplicates: Vec::new() })
        }
        Some(_) => Err(ApiError::unsupported_media_type(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// One YAML document, or JSON, which YAML contains.
pub(crate) fn parse_yaml(bytes: &[u8]) -> Result<Document, ApiError> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    // What begins like JSON may be a mapping in YAML's own flow style.
    if first == Some(&b'{')
        && let Ok(document) = parse_json(bytes)
    {
        return Ok(document);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    let value = crate::yaml::document(text)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid YAML: {error}")))?;
    Ok(Document { value, duplicates: Vec::new() })
}

/// JSON; nesting deeper than serde_json's limit of 128 is refused.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Document, ApiError> {
    let duplicates = RefCell::new(Vec::new());
    let path = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node { path: &path, duplicates: &duplicates }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
    Ok(Document { value, duplicates: duplicates.into_inner() })
}

/// More duplicates than this are not reported.
const MAX_DUPLICATES: usize = 16;

/// Builds a [`Value`] and notes the fields that come twice, which `Value`'s own deserialisation does not tell.
#[derive(Clone, Copy)]
struct Node<'a> {
    path: &'a RefCell<Vec<String>>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.path.borrow_mut().push(format!("[{}]", list.len()));
            let item = items.next_element_seed(self)?;
            self.path.borrow_mut().pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let step = if self.path.borrow().is_empty() { name.clone() } else { format!(".{name}") };
            self.path.borrow_mut().push(step);
            if fields.contains_key(&name) && self.duplicates.borrow().len() < MAX_DUPLICATES {
                self.duplicates.borrow_mut().push(self.path.borrow().concat());
            }
            let value = entries.next_value_seed(self)?;
            self.path.borrow_mut().pop();
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn typed(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn bodies_by_content_type() {
        let json = br#"{"a": [1, -2, 1.5, "x", null, true]}"#;
        let value = json!({"a": [1, -2, 1.5, "x", null, true]});
        assert_eq!(parse(json, &HeaderMap::new()).unwrap().value, value);
        assert_eq!(parse(json, &typed("application/json; charset=utf-8")).unwrap().value, value);
        assert_eq!(parse(json, &typed("application/yaml")).unwrap().value, value);
        assert_eq!(parse(b"a: [1, -2, 1.5, x, null, true]\n", &typed("application/yaml")).unwrap().value, value);
        assert_eq!(parse(b"{a: [1, -2, 1.5, x, null, true]}", &typed("text/yaml")).unwrap().value, value);
        assert_eq!(parse(json, &typed("text/plain")).unwrap_err().code, 415);
        assert_eq!(parse(b"{\"a\":1}}", &HeaderMap::new()).unwrap_err().code, 400);
    }

    #[test]
    fn duplicates_are_named() {
        let document = parse_json(br#"{"spec": {"a": [{"b": 1, "b": 2}], "c": 1, "c": 2}, "spec": 1}"#).unwrap();
        assert_eq!(document.duplicates, ["spec.a[0].b", "spec.c", "spec"]);
        assert_eq!(document.value, json!({"spec": 1}));
    }

    #[test]
    fn depth_is_limited() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(parse_json(deep.as_bytes()).unwrap_err().code, 400);
        assert_eq!(parse_yaml(deep.as_bytes()).unwrap_err().code, 400);
    }

    #[tokio::test]
    async fn size_is_limited() {
        assert_eq!(read(Body::from(vec![b' '; 11]), 10).await.unwrap_err().code, 413);
        assert_eq!(read(Body::from("ok"), 10).await.unwrap(), "ok");
    }
}
