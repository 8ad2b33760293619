//! Signatures of tokens, held against the keys of their issuer.

use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::verify as verify_signature;
use route_model::verdict::authentication::jwks::{Key, KeySet, Material};
use route_model::verdict::authentication::{Algorithm, Token, TokenFault};

/// Keys that one token is tried with. A token without `kid` fits every key of its type, and each try costs.
const MAX_TRIES: usize = 16;

/// The usable keys of an issuer.
#[derive(Debug)]
pub(super) struct Keys(Box<[(Key, DecodingKey)]>);

impl Keys {
    pub(super) fn new(set: KeySet) -> Self {
        Self(
            set.keys.into_iter().map(|key| (decoding_key(&key.material), key)).map(|(made, key)| (key, made)).collect(),
        )
    }

    /// Whether these are the keys of a set.
    pub(super) fn are(&self, set: &KeySet) -> bool {
        self.0.iter().map(|(key, _)| key).eq(&set.keys)
    }

    /// Whether the token is signed with one of the keys. Which algorithms a key is for, the key says.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), TokenFault> {
        if self.0.is_empty() {
            return Err(TokenFault::NoKeys);
        }
        let fits = |(key, _): &&(Key, DecodingKey)| key.fits(token.kid.as_deref(), token.algorithm);
        let mut tried = false;
        for (_, key) in self.0.iter().filter(fits).take(MAX_TRIES) {
            tried = true;
            match verify_signature(token.signature, token.signed.as_bytes(), key, algorithm(token.algorithm)) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => return Err(TokenFault::SignatureBase64),
            }
        }
        Err(if tried { TokenFault::Signature } else { TokenFault::NoKey })
    }
}

fn algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

fn decoding_key(material: &Material) -> DecodingKey {
    // SEC 1 section 2.3.3: an uncompressed point.
    let point = |x: &[u8], y: &[u8]| DecodingKey::from_ec_der(&[&[4], x, y].concat());
    match material {
        Material::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
        Material::P256 { x, y } | Material::P384 { x, y } => point(x, y),
        Material::Ed25519 { x } => DecodingKey::from_ed_der(x),
    }
}
