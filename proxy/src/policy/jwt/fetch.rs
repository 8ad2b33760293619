//! Fetching keys: a GET over HTTP or HTTPS, bounded in size and followed through few redirects.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use route_model::verdict::authentication::jwks::MAX_BYTES;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rt::Task;
use crate::tls::trust::{NoSystemRoots, system_roots};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// What was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// How long it may be used without asking again (`Cache-Control: max-age`).
    pub(super) max_age: Option<Duration>,
}

/// Why nothing was.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("{0:?} is no http or https URL")]
    Url(String),
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no TLS connection: {0}")]
    Tls(#[source] io::Error),
    #[error("{0}; install its ca-certificates package or point SSL_CERT_FILE to a bundle")]
    Roots(#[from] NoSystemRoots),
    #[error("the exchange broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
    #[error("the answer is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("more than {MAX_REDIRECTS} redirects, or one that leads nowhere")]
    Redirects,
    #[error("a redirect leads from https to http")]
    Downgrade,
}

/// Fetches a document. The caller bounds the time.
pub(super) async fn get(url: &str) -> Result<Fetched, FetchError> {
    let mut uri = parse(url)?;
    for _ in 0..=MAX_REDIRECTS {
        let (response, _connection) = request(&uri).await?;
        let status = response.status();
        if status.is_redirection() {
            let next = location(&uri, response.headers()).ok_or(FetchError::Redirects)?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(FetchError::Downgrade);
            }
            uri = next;
            continue;
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        let max_age = max_age(response.headers());
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| match error
            .downcast::<hyper::Error>(
        ) {
            Ok(error) => FetchError::Http(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>());
                FetchError::TooLong
            }
        })?;
        return Ok(Fetched { body: body.to_bytes(), max_age });
    }
    Err(FetchError::Redirects)
}

fn parse(url: &str) -> Result<Uri, FetchError> {
    let uri: Option<Uri> = url.parse().ok();
    let known = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    uri.filter(known).ok_or_else(|| FetchError::Url(url.to_owned()))
}

fn location(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    if !location.starts_with('/') {
        return parse(location).ok();
    }
    let scheme = from.scheme_str()?;
    // `//host/path` keeps the scheme alone.
    let absolute = match location.strip_prefix("//") {
        Some(rest) => format!("{scheme}://{rest}"),
        None => format!("{scheme}://{}{location}", from.authority()?),
    };
    parse(&absolute).ok()
}

async fn request(uri: &Uri) -> Result<(http::Response<Incoming>, Task), FetchError> {
    let malformed = || FetchError::Url(uri.to_string());
    let host = uri.host().ok_or_else(malformed)?;
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port)).await.map_err(FetchError::Connect)?;
    stream.set_nodelay(true).map_err(FetchError::Connect)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().ok_or_else(malformed)?.as_str();
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, HeaderValue::from_static("fairway"))
        .body(Empty::new())
        .map_err(|_| malformed())?;
    if https {
        let server = ServerName::try_from(name.to_owned()).map_err(|_| malformed())?;
        let tls = TlsConnector::from(client_config()?).connect(server, stream).await.map_err(FetchError::Tls)?;
        exchange(tls, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(http::Response<Incoming>, Task), FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = Task(tokio::spawn(async move {
        // What breaks is told to who waits for the answer.
        let _ = connection.await;
    }));
    Ok((sender.send_request(request).await?, connection))
}

/// Trusts whom the operating system trusts.
fn client_config() -> Result<Arc<ClientConfig>, FetchError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Tls(io::Error::other(error)))?;
    let mut config = builder.with_root_certificates(system_roots()?).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok().map(Duration::from_secs))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://a.test:8443/x/y?z".parse().expect("a URL");
        for (location, to) in [
            ("/keys", Some("https://a.test:8443/keys")),
            ("//b.test/keys", Some("https://b.test/keys")),
            ("http://b.test/", Some("http://b.test/")),
            ("ftp://b.test/", None),
            ("keys", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static(location));
            assert_eq!(super::location(&from, &headers).map(|uri| uri.to_string()).as_deref(), to, "{location}");
        }
        assert_eq!(super::location(&from, &HeaderMap::new()), None);
    }

    #[test]
    fn a_server_says_how_long_its_keys_are_good() {
        for (value, seconds) in
            [("max-age=300", Some(300)), ("public, Max-Age=\"7\"", Some(7)), ("no-store", None), ("max-age=x", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
