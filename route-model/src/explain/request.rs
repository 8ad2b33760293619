//! A request to explain, as a person writes it, and as it would arrive.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use http::header::HOST;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::Explanation;
use super::steps::explain;
use crate::request::headers::Headers;
use crate::table::RouteTable;
use crate::table::host::without_port;

/// A request that nobody has to send. It is taken as a client would send it over HTTP/1.1, without a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainRequest {
    pub method: String,
    /// `https://shop.example/cart?x=1`. The host is the request's Host, the port is the Gateway's. What follows the host
    /// goes as it is written, but for a fragment, which clients keep to themselves.
    pub url: String,
    /// A `host` among them takes the place of the URL's.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The Gateway port, where it is not the one in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The address of the listener, where a port has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<IpAddr>,
    /// The server name of the TLS connection, where it is not the URL's host; empty: the client names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The address that the connection comes from. `None`: 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// A name in the client's certificate, which is taken for verified: a URI (`spiffe://cluster.local/ns/shop/sa/web`), a
    /// DNS name or a subject. Servers that ask for no certificate do not see it. `None`: the client has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_identity: Option<String>,
}

/// More headers than this are not taken.
const MAX_HEADERS: usize = 200;
/// A longer URL is not taken; no gateway takes a head of this size either.
const MAX_URL: usize = 60 * 1024;

/// Why a request cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("`{0}` is no URL like https://host/path")]
    Url(String),
    #[error("a URL of {0} bytes is too long; at most 61440 are taken")]
    UrlTooLong(usize),
    #[error("the URL names a user, which clients do not send there; give a header `authorization` instead")]
    UserInfo,
    #[error("`{0}` is no header name, or its value holds characters that a header cannot")]
    Header(String),
    #[error("{0} headers are too many; at most 200 are taken")]
    TooManyHeaders(usize),
    #[error("a client shows its certificate over https:// only")]
    IdentityWithoutTls,
}

impl ExplainRequest {
    /// Explains the request on this table.
    ///
    /// # Errors
    /// No client can send such a request. What a client can send and a gateway refuses is an explanation.
    pub fn explain(&self, table: &RouteTable) -> Result<Explanation, RequestError> {
        Ok(explain(table, &self.sent()?))
    }

    /// The request as a client would send it.
    pub(super) fn sent(&self) -> Result<Sent<'_>, RequestError> {
        if self.url.len() > MAX_URL {
            return Err(RequestError::UrlTooLong(self.url.len()));
        }
        let url = Url::parse(&self.url).ok_or_else(|| RequestError::Url(self.url.clone()))?;
        if url.authority.contains('@') {
            return Err(RequestError::UserInfo);
        }
        let count = self.headers.values().map(Vec::len).sum();
        if count > MAX_HEADERS {
            return Err(RequestError::TooManyHeaders(count));
        }
        if self.client_identity.is_some() && !url.tls {
            return Err(RequestError::IdentityWithoutTls);
        }
        let mut headers = Headers::new();
        for (name, values) in &self.headers {
            let wrong = || RequestError::Header(name.clone());
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            for value in values {
                headers.append(&parsed, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?);
            }
        }
        let default_port = if url.tls { 443 } else { 80 };
        let host = without_port(url.authority);
        let url_port = match url.authority[host.len()..].trim_start_matches(':') {
            "" => default_port,
            digits => digits.parse().map_err(|_| RequestError::Url(self.url.clone()))?,
        };
        if !headers.contains_key(HOST) {
            // Clients leave out the port that the scheme implies.
            let written = if url_port == default_port { host } else { url.authority };
            headers.insert(HOST, HeaderValue::from_str(written).map_err(|_| RequestError::Url(self.url.clone()))?);
        }
        let name = self.sni.as_deref().unwrap_or(host);
        Ok(Sent {
            tls: url.tls,
            port: self.port.unwrap_or(url_port),
            bind: self.bind,
            // An address is never sent as a server name (RFC 6066 section 3).
            sni: if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() { "" } else { name },
            client: self.client.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            identity: self.client_identity.as_deref().map(Box::from),
            method: &self.method,
            target: url.target,
            headers,
        })
    }
}

/// A request as it arrives.
#[derive(Debug)]
pub(super) struct Sent<'a> {
    /// The client begins with a TLS handshake.
    pub(super) tls: bool,
    /// As written in the Gateway.
    pub(super) port: u16,
    /// `None`: the first listener of the port.
    pub(super) bind: Option<IpAddr>,
    /// Empty for none.
    pub(super) sni: &'a str,
    pub(super) client: IpAddr,
    /// The name in the client's certificate.
    pub(super) identity: Option<Box<str>>,
    pub(super) method: &'a str,
    /// Path and query in their raw form.
    pub(super) target: String,
    /// Host among them.
    pub(super) headers: Headers,
}

/// A URL in pieces, as raw as it was written: [`http::Uri`] refuses some that a gateway takes.
struct Url<'a> {
    tls: bool,
    authority: &'a str,
    target: String,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => true,
            _ if scheme.eq_ignore_ascii_case("http") => false,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if target.starts_with('/') { "" } else { "/" };
        (!authority.is_empty()).then(|| Self { tls, authority, target: [slash, target].concat() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(url: &str) -> ExplainRequest {
        ExplainRequest { method: "GET".to_owned(), url: url.to_owned(), ..ExplainRequest::default() }
    }

    #[test]
    fn what_is_no_request_is_said() {
        let error = |request: ExplainRequest| request.sent().err();
        let no_url = |url: &str| Some(RequestError::Url(url.to_owned()));
        for url in ["/cart", "ftp://a/", "http:///x", "http://a:b/", "http://a:70000/", "http://a\n/", ""] {
            assert_eq!(error(get(url)), no_url(url), "{url}");
        }
        assert_eq!(error(get("http://me:secret@a/")), Some(RequestError::UserInfo));
        assert_eq!(error(get(&format!("http://a/{}", "x".repeat(61_440)))), Some(RequestError::UrlTooLong(61_449)));
        let with = |name: &str, values: Vec<&str>| ExplainRequest {
            headers: [(name.to_owned(), values.into_iter().map(str::to_owned).collect())].into(),
            ..get("http://a/")
        };
        assert_eq!(error(with("a b", vec!["x"])), Some(RequestError::Header("a b".to_owned())));
        assert_eq!(error(with("a", vec!["x\ny"])), Some(RequestError::Header("a".to_owned())));
        assert_eq!(error(with("a", vec!["x"; 201])), Some(RequestError::TooManyHeaders(201)));
        assert_eq!(error(with("a", vec!["x"; 200])), None);
        let showing = |url: &str| ExplainRequest { client_identity: Some("a".to_owned()), ..get(url) };
        assert_eq!(error(showing("http://a/")), Some(RequestError::IdentityWithoutTls));
        assert_eq!(error(showing("https://a/")), None);
    }

    #[test]
    fn a_url_becomes_what_a_client_sends() {
        for (url, tls, port, host, sni, target) in [
            ("http://h.test", false, 80, "h.test", "h.test", "/"),
            ("HTTPS://H.test?x=1#y", true, 443, "H.test", "H.test", "/?x=1"),
            ("https://h:8443/a/../b", true, 8443, "h:8443", "h", "/a/../b"),
            ("http://h:80/#/a", false, 80, "h", "h", "/"),
            ("https://h:80/", true, 80, "h:80", "h", "/"),
            ("http://h:/", false, 80, "h", "h", "/"),
            ("http://[::1]:8080/", false, 8080, "[::1]:8080", "", "/"),
            ("https://127.0.0.1/\\a b", true, 443, "127.0.0.1", "", "/\\a b"),
        ] {
            let request = get(url);
            let sent = request.sent().expect("a request");
            let found = (
                sent.tls,
                sent.port,
                sent.headers.get(HOST).expect("a host").to_str().expect("text"),
                sent.sni,
                &*sent.target,
            );
            assert_eq!(found, (tls, port, host, sni, target), "{url}");
        }
    }
}
