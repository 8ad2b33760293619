//! The call by which a proxy has its certificate signed.

use std::pin::Pin;
use std::sync::Arc;

use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::session::bearer;
use super::{Caller, ControlPlane, Peer, Refusal};
use crate::sign::{MAX_CSR_BYTES, MAX_REQUEST_BYTES, SignRequest, SignResponse};
use crate::{MAX_NAME_BYTES, server::ClientCertificate};

pub(super) async fn serve<C: ControlPlane>(
    control_plane: Arc<C>,
    peer: Peer,
    certificate: Arc<ClientCertificate>,
    request: http::Request<hyper::body::Incoming>,
) -> http::Response<tonic::body::Body> {
    Grpc::new(ProstCodec::<SignResponse, SignRequest>::default())
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .unary(Sign { control_plane, peer, certificate }, request)
        .await
}

struct Sign<C> {
    control_plane: Arc<C>,
    peer: Peer,
    certificate: Arc<ClientCertificate>,
}

impl<C: ControlPlane> UnaryService<SignRequest> for Sign<C> {
    type Response = SignResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<SignResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<SignRequest>) -> Self::Future {
        let caller = Caller { peer: self.peer, certificate: self.certificate.clone(), token: bearer(&request) };
        let control_plane = self.control_plane.clone();
        let request = request.into_inner();
        Box::pin(async move {
            check(&request)?;
            Ok(Response::new(control_plane.sign(&caller, request).await?))
        })
    }
}

fn check(request: &SignRequest) -> Result<(), Refusal> {
    if request.csr.is_empty() || request.csr.len() > MAX_CSR_BYTES {
        return Err(Refusal::Invalid(format!("the certificate signing request must have 1 to {MAX_CSR_BYTES} bytes")));
    }
    for (what, text) in [("node", &request.node), ("namespace", &request.namespace)] {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(Refusal::Invalid(format!("the {what} must have 1 to {MAX_NAME_BYTES} bytes")));
        }
    }
    if request.service_account.len() > MAX_NAME_BYTES {
        return Err(Refusal::Invalid(format!("the service account must have at most {MAX_NAME_BYTES} bytes")));
    }
    Ok(())
}
