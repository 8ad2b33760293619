//! Has a certificate signed, over a connection of its own: the first certificate comes before the stream.

use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use super::Token;
use super::session::{OPEN_TIMEOUT, SessionError, authorize, handshake};
use crate::rpc::SIGN_PATH;
use crate::sign::{MAX_RESPONSE_BYTES, SignRequest, SignResponse};
use crate::transport::Connect;

/// A certificate that the control plane signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The leaf first; without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots of the mesh.
    pub roots: Vec<CertificateDer<'static>>,
    pub not_after: SystemTime,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum SignError {
    /// Trying again soon will not help; a person has to do something.
    #[error("{0}")]
    Refused(String),
    /// The control plane is away, or busy.
    #[error("{0}")]
    Unavailable(String),
}

/// Asks the control plane for a certificate. What proves the right to it is the token, or the
/// [`Credential`](crate::credential::Credential) that the transport shows. Gives up after 15 seconds.
pub async fn sign(transport: &dyn Connect, token: Option<&Token>, request: SignRequest) -> Result<Signed, SignError> {
    match tokio::time::timeout(OPEN_TIMEOUT, call(transport, token, request)).await {
        Ok(Ok(response)) => read(response),
        Ok(Err(error)) if error.is_refusal() => Err(SignError::Refused(error.to_string())),
        Ok(Err(error)) => Err(SignError::Unavailable(error.to_string())),
        Err(_) => Err(SignError::Unavailable(SessionError::Silent.to_string())),
    }
}

async fn call(
    transport: &dyn Connect,
    token: Option<&Token>,
    request: SignRequest,
) -> Result<SignResponse, SessionError> {
    // Ends the connection's task when this function is left.
    let mut tasks = JoinSet::new();
    let requests = handshake(transport.connect().await?, &mut tasks).await?;
    let mut request = tonic::Request::new(request);
    authorize(&mut request, token);
    let origin = transport.origin().parse().unwrap_or_default();
    let mut grpc = Grpc::with_origin(requests, origin).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let response = grpc.unary(request, PathAndQuery::from_static(SIGN_PATH), ProstCodec::default()).await?;
    Ok(response.into_inner())
}

fn read(SignResponse { chain, roots, not_after }: SignResponse) -> Result<Signed, SignError> {
    if chain.is_empty() || roots.is_empty() {
        return Err(SignError::Unavailable("the control plane answered without a certificate".to_owned()));
    }
    let certificates = |der: Vec<bytes::Bytes>| der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let not_after = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(not_after))
        .ok_or_else(|| SignError::Unavailable("the control plane's certificate has no possible end".to_owned()))?;
    Ok(Signed { chain: certificates(chain), roots: certificates(roots), not_after })
}
