//! Probes by HTTP and gRPC.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use push::transport::Io;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::probe::Target;

const AGENT: &str = concat!("fairway-sidecar/", env!("CARGO_PKG_VERSION"));
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Of an answer of the health service, which has three.
const MAX_ANSWER_BYTES: usize = 4096;

/// A GET that is answered 200 to 399. With TLS any certificate is accepted, as Kubernetes does: the application is on
/// this host, and its certificate need not name it.
pub(super) async fn get(target: &Target, tls: bool, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let mut request = Request::get(path).body(Empty::<Bytes>::new()).map_err(text)?;
    let default = HeaderValue::try_from(target.to_string()).map_err(text)?;
    let all = request.headers_mut();
    all.insert(HOST, default);
    all.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for (name, value) in headers {
        let (Ok(header), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err(format!("the probe's header {name:?} cannot be sent"));
        };
        all.insert(header, value);
    }
    let tcp = target.connect().await?;
    let io: Box<dyn Io> = if tls {
        let name = ServerName::try_from(target.host().to_owned()).map_err(text)?;
        Box::new(TlsConnector::from(ANYBODY.clone()).connect(name, tcp).await.map_err(text)?)
    } else {
        Box::new(tcp)
    };
    let (mut requests, connection) = http1::handshake(TokioIo::new(io)).await.map_err(text)?;
    let response = while_driven(connection, requests.send_request(request)).await.map_err(text)?;
    let status = response.status();
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(status.to_string()) }
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// A call of the standard health service, without TLS. An empty service is the server as a whole.
pub(super) async fn grpc_health(target: &Target, service: &str) -> Result<(), String> {
    let call = HealthCheckRequest { service: service.to_owned() };
    let mut body = BytesMut::new();
    // Not compressed.
    body.put_u8(0);
    body.put_u32(call.encoded_len() as u32);
    call.encode(&mut body).map_err(text)?;
    let request = Request::post(format!("http://{target}{HEALTH_CHECK}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(body.freeze()))
        .map_err(text)?;
    let io = TokioIo::new(target.connect().await?);
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(text)?;
    while_driven(connection, async {
        let response = requests.send_request(request).await.map_err(text)?;
        match health(response).await? {
            ServingStatus::Serving => Ok(()),
            status => Err(format!("{status:?}")),
        }
    })
    .await
}

async fn health(response: Response<Incoming>) -> Result<ServingStatus, String> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Err(head.status.to_string());
    }
    grpc_status(&head.headers)?;
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(text)?;
    if let Some(trailers) = body.trailers() {
        grpc_status(trailers)?;
    }
    let mut message = body.to_bytes();
    if message.remaining() < 5 {
        return Err("an answer without a message".to_owned());
    }
    message.advance(5);
    Ok(HealthCheckResponse::decode(message).map_err(text)?.status())
}

fn grpc_status(headers: &HeaderMap) -> Result<(), String> {
    let Some(status) = headers.get("grpc-status").filter(|status| *status != "0") else { return Ok(()) };
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Err(format!("gRPC status {} {message}", status.to_str().unwrap_or_default()).trim_end().to_owned())
}

/// Waits for what comes over a connection, which makes progress meanwhile.
async fn while_driven<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What it meant for the answer, the answer says itself.
        _ = connection => answer.await,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// TLS with whoever answers.
static ANYBODY: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Arc::new(config)
});

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::combinators::UnsyncBoxBody;
    use hyper::service::service_fn;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::probe::Probe;
    use super::*;

    async fn outcome(fields: serde_json::Value) -> Result<(), String> {
        Probe::of(&serde_json::from_value(fields).unwrap()).unwrap().run().await
    }

    /// A server that knows the service `reviews`, which serves, and `ratings`, which does not.
    async fn health_service(
        request: Request<Incoming>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", HEALTH_CHECK));
        assert_eq!(request.headers()[CONTENT_TYPE], "application/grpc");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body[..5], [0, 0, 0, 0, (body.len() - 5) as u8]);
        let asked = HealthCheckRequest::decode(&body[5..]).unwrap();
        let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
        let (message, grpc_status) = match &*asked.service {
            "" | "reviews" => (vec![0, 0, 0, 0, 2, 8, 1], "0"),
            "ratings" => (vec![0, 0, 0, 0, 2, 8, 2], "0"),
            _ => {
                let response = response.header("grpc-status", "5").header("grpc-message", "unknown service");
                return Ok(response.body(Empty::new().boxed_unsync()).unwrap());
            }
        };
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), grpc_status.parse().unwrap())]);
        let body = Full::from(message).with_trailers(async move { Some(Ok(trailers)) });
        Ok(response.body(body.boxed_unsync()).unwrap())
    }

    #[tokio::test]
    async fn a_health_service_says_how_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(health_service)));
            }
        });
        assert_eq!(outcome(json!({"grpc": {"port": port}})).await, Ok(()));
        assert_eq!(outcome(json!({"grpc": {"port": port, "service": "reviews"}})).await, Ok(()));
        for (service, why) in [("ratings", "NotServing"), ("details", "gRPC status 5 unknown service")] {
            let expected = Err(format!("the gRPC health of {service} at localhost:{port}: {why}"));
            assert_eq!(outcome(json!({"grpc": {"port": port, "service": service}})).await, expected);
        }
    }

    #[tokio::test]
    async fn https_takes_any_certificate() {
        let issued = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![issued.cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await else { continue };
                let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                tokio::spawn(connection);
            }
        });
        assert_eq!(outcome(json!({"httpGet": {"port": port, "scheme": "HTTPS"}})).await, Ok(()));
        let plain = outcome(json!({"httpGet": {"port": port}})).await;
        assert!(plain.is_err(), "{plain:?}");
    }
}
