//! A request to explain, as a person writes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};

use super::{Entrance, Explanation, explain};
use crate::table::{RequestHead, RouteTable};

/// A request that nobody has to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainRequest {
    /// GET if not said.
    #[serde(default = "get")]
    pub method: String,
    /// `https://shop.example/cart?x=1`. The host is the request's Host, the port is the Gateway's.
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The Gateway port, where it is not the one in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address of the listener, where a port has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<IpAddr>,
    /// The server name of the TLS connection, where it is not the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// More headers than this are not taken.
const MAX_HEADERS: usize = 200;

fn get() -> String {
    "GET".to_owned()
}

/// Why a request cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("`{0}` is no URL like https://host/path")]
    Url(String),
    #[error("`{0}` is no HTTP method")]
    Method(String),
    #[error("`{0}` is no header name, or its value holds characters that a header cannot")]
    Header(String),
    #[error("{0} headers are too many; at most 200 are taken")]
    TooManyHeaders(usize),
}

impl ExplainRequest {
    /// Explains the request on this table. The path is taken as it is: write it without `.` and `..` segments.
    pub fn explain(&self, table: &RouteTable) -> Result<Explanation, RequestError> {
        let uri: Uri = self.url.parse().map_err(|_| RequestError::Url(self.url.clone()))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(RequestError::Url(self.url.clone()));
        };
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(RequestError::Url(self.url.clone())),
        };
        let method =
            Method::from_bytes(self.method.as_bytes()).map_err(|_| RequestError::Method(self.method.clone()))?;
        if self.headers.len() > MAX_HEADERS {
            return Err(RequestError::TooManyHeaders(self.headers.len()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || RequestError::Header(name.clone());
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            headers.append(parsed, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        let port = self.port.or(uri.port_u16()).unwrap_or(default_port);
        // A Host header of its own wins, as on the wire.
        let host = headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
        let head = RequestHead {
            method: method.as_str(),
            scheme,
            authority: host.unwrap_or(authority.as_str()),
            path: uri.path(),
            query: uri.query(),
            headers: &headers,
        };
        let sni = self.sni.as_deref().unwrap_or(authority.host());
        Ok(explain(table, Entrance { port, bind: self.bind, sni: Some(sni) }, &head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_said() {
        let table = RouteTable::default();
        let request = |method: &str, url: &str, header: &str| ExplainRequest {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: [(header.to_owned(), "x".to_owned())].into(),
            port: None,
            bind: None,
            sni: None,
        };
        let error = |request: ExplainRequest| request.explain(&table).unwrap_err();
        assert_eq!(error(request("GET", "/cart", "a")), RequestError::Url("/cart".to_owned()));
        assert_eq!(error(request("GET", "ftp://a/", "a")), RequestError::Url("ftp://a/".to_owned()));
        assert_eq!(error(request("G T", "http://a/", "a")), RequestError::Method("G T".to_owned()));
        assert_eq!(error(request("GET", "http://a/", "a b")), RequestError::Header("a b".to_owned()));
        assert!(request("GET", "http://a/", "a").explain(&table).is_ok());
    }
}
