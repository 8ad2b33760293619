//! How a simulated sidecar comes by its certificate: as a real one does.

use anyhow::Context;
use push::client::sign;
use push::sign::SignRequest;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::proxy::{Identity, Proxy};

/// Has a key certified with the join token.
pub(crate) async fn join(proxy: &Proxy) -> anyhow::Result<()> {
    let Identity { node, namespace, token, .. } = &proxy.identity;
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?;
    let request = SignRequest {
        csr: request.der().to_vec().into(),
        node: node.clone(),
        namespace: namespace.clone(),
        service_account: String::new(),
    };
    let signed = sign(&proxy.transport, Some(token), request).await.with_context(|| format!("{node} cannot join"))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    proxy.credential.set(signed.chain, key, signed.not_after)?;
    Ok(())
}
