//! JSON Web Key Sets (RFC 7517): the public keys by which an issuer's tokens are verified.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

use super::token::Algorithm;

/// Keys of a set beyond this number are not looked at.
pub const MAX_KEYS: usize = 100;
/// Bytes of a set.
pub const MAX_BYTES: usize = 512 * 1024;

/// What of a set can verify tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    pub keys: Vec<Key>,
    /// The rest, by position.
    pub unusable: Vec<(usize, Unusable)>,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub kid: Option<Box<str>>,
    /// The only algorithm that the key is for (`alg`).
    algorithm: Option<Algorithm>,
    pub material: Material,
}

/// What a key is made of, big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256 { x: Vec<u8>, y: Vec<u8> },
    P384 { x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

/// Why a text is no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeySetError {
    #[error("{0} bytes are too many for a JSON Web Key Set; at most {MAX_BYTES} are taken")]
    TooLarge(usize),
    #[error("it is no JSON")]
    Json,
    #[error("it has no list `keys`, as a JSON Web Key Set does")]
    NoKeys,
}

/// Why a key is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    #[error("it is no JSON object")]
    Form,
    #[error("its `use` or `key_ops` says that it is not for signatures")]
    Purpose,
    #[error("the key type {0:?} is not supported; RSA, EC and OKP are")]
    Type(String),
    #[error("the curve {0:?} is not supported; P-256, P-384 and Ed25519 are")]
    Curve(String),
    #[error("ES512 (curve P-521) is not supported; sign with ES256, ES384, EdDSA or RSA")]
    Es512,
    #[error("`{0}` is missing or not in base64url")]
    Parameter(&'static str),
    #[error("an RSA key of {0} bits is not accepted; it must have from 2048 to 8192")]
    RsaSize(usize),
    #[error("`alg` {0:?} is none that such a key verifies")]
    Algorithm(String),
    #[error("there are more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// Reads a set. Keys that are of no use do not spoil the others.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge(text.len()));
        }
        let set: Value = serde_json::from_slice(text).map_err(|_| KeySetError::Json)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        let mut set = Self::default();
        for (index, key) in keys.iter().enumerate() {
            let parsed = if index < MAX_KEYS { parse(key) } else { Err(Unusable::TooMany) };
            match parsed {
                Ok(key) => set.keys.push(key),
                Err(Unusable::TooMany) => {
                    set.unusable.push((index, Unusable::TooMany));
                    break;
                }
                Err(reason) => set.unusable.push((index, reason)),
            }
        }
        Ok(set)
    }
}

impl Key {
    /// Whether a token with this header may be signed with the key. The key says which algorithms it is for, never the
    /// token; a token or key without `kid` fits any.
    pub fn fits(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        let same = match (kid, self.kid.as_deref()) {
            (Some(kid), Some(own)) => kid == own,
            _ => true,
        };
        same && self.algorithm.is_none_or(|own| own == algorithm) && self.material.verifies(algorithm)
    }
}

impl Material {
    fn verifies(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => matches!(self, Self::Rsa { .. }),
            Algorithm::Es256 => matches!(self, Self::P256 { .. }),
            Algorithm::Es384 => matches!(self, Self::P384 { .. }),
            Algorithm::EdDsa => matches!(self, Self::Ed25519 { .. }),
        }
    }
}

fn parse(key: &Value) -> Result<Key, Unusable> {
    let key = key.as_object().ok_or(Unusable::Form)?;
    let signs = text(key, "use").is_none_or(|purpose| purpose == "sig")
        && key
            .get("key_ops")
            .and_then(Value::as_array)
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    if !signs {
        return Err(Unusable::Purpose);
    }
    let alg = text(key, "alg");
    if alg == Some("ES512") {
        return Err(Unusable::Es512);
    }
    let material = material(key)?;
    let algorithm = alg.map(|name| {
        let known = Algorithm::parse(name).filter(|algorithm| material.verifies(*algorithm));
        known.ok_or_else(|| Unusable::Algorithm(name.to_owned()))
    });
    let kid = text(key, "kid").filter(|kid| !kid.is_empty()).map(Box::from);
    Ok(Key { kid, algorithm: algorithm.transpose()?, material })
}

fn material(key: &Map<String, Value>) -> Result<Material, Unusable> {
    let bytes = |name, length: Option<usize>| {
        let decoded = text(key, name).and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
        decoded.filter(|bytes| length.is_none_or(|length| bytes.len() == length)).ok_or(Unusable::Parameter(name))
    };
    let curve = text(key, "crv").unwrap_or_default();
    match (text(key, "kty").unwrap_or_default(), curve) {
        ("RSA", _) => {
            let mut n = bytes("n", None)?;
            // Some issuers write the sign byte of a DER integer too.
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            n.drain(..zeros);
            let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
            if !(2048..=8192).contains(&bits) {
                return Err(Unusable::RsaSize(bits));
            }
            Ok(Material::Rsa { n, e: bytes("e", None)? })
        }
        ("EC", "P-256") => Ok(Material::P256 { x: bytes("x", Some(32))?, y: bytes("y", Some(32))? }),
        ("EC", "P-384") => Ok(Material::P384 { x: bytes("x", Some(48))?, y: bytes("y", Some(48))? }),
        ("EC", "P-521") => Err(Unusable::Es512),
        ("OKP", "Ed25519") => Ok(Material::Ed25519 { x: bytes("x", Some(32))? }),
        ("EC" | "OKP", curve) => Err(Unusable::Curve(curve.to_owned())),
        (other, _) => Err(Unusable::Type(other.to_owned())),
    }
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    key.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn bytes(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0x81; length])
    }

    fn only(key: Value) -> Result<Key, Unusable> {
        let mut set = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).expect("a set");
        set.keys.pop().ok_or_else(|| set.unusable.remove(0).1)
    }

    #[test]
    fn a_key_verifies_what_it_is_made_for() {
        let rsa = |more: Value| {
            let mut key = json!({"kty": "RSA", "n": bytes(256), "e": "AQAB"});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            only(key).unwrap()
        };
        let p256 = only(json!({"kty": "EC", "crv": "P-256", "x": bytes(32), "y": bytes(32), "use": "sig"})).unwrap();
        let p384 = only(json!({"kty": "EC", "crv": "P-384", "x": bytes(48), "y": bytes(48), "alg": "ES384"})).unwrap();
        let ed = only(json!({"kty": "OKP", "crv": "Ed25519", "x": bytes(32), "key_ops": ["verify"]})).unwrap();
        let (any, one) = (rsa(json!({})), rsa(json!({"alg": "PS256", "kid": "k"})));
        for (key, kid, algorithm, fits) in [
            (&any, None, Algorithm::Rs256, true),
            (&any, Some("x"), Algorithm::Ps512, true),
            (&any, None, Algorithm::Es256, false),
            (&one, Some("k"), Algorithm::Ps256, true),
            (&one, None, Algorithm::Ps256, true),
            (&one, Some("x"), Algorithm::Ps256, false),
            (&one, Some("k"), Algorithm::Rs256, false),
            (&p256, None, Algorithm::Es256, true),
            (&p256, None, Algorithm::Es384, false),
            (&p256, None, Algorithm::Rs256, false),
            (&p384, None, Algorithm::Es384, true),
            (&p384, None, Algorithm::Es256, false),
            (&ed, None, Algorithm::EdDsa, true),
            (&ed, None, Algorithm::Rs256, false),
        ] {
            assert_eq!(key.fits(kid, algorithm), fits, "{key:?} {kid:?} {algorithm:?}");
        }
    }

    #[test]
    fn keys_of_no_use_say_why() {
        for (key, reason) in [
            (json!(7), Unusable::Form),
            (json!({"kty": "RSA", "use": "enc"}), Unusable::Purpose),
            (json!({"kty": "RSA", "key_ops": ["encrypt"]}), Unusable::Purpose),
            (json!({"kty": "oct", "k": "AAAA"}), Unusable::Type("oct".into())),
            (json!({}), Unusable::Type(String::new())),
            (json!({"kty": "RSA", "e": "AQAB"}), Unusable::Parameter("n")),
            (json!({"kty": "RSA", "n": "!", "e": "AQAB"}), Unusable::Parameter("n")),
            (json!({"kty": "RSA", "n": bytes(128), "e": "AQAB"}), Unusable::RsaSize(1024)),
            (json!({"kty": "RSA", "n": bytes(256), "e": "AQAB", "alg": "HS256"}), Unusable::Algorithm("HS256".into())),
            (json!({"kty": "EC", "crv": "P-521", "x": bytes(66), "y": bytes(66)}), Unusable::Es512),
            (json!({"kty": "EC", "crv": "P-521", "alg": "ES512"}), Unusable::Es512),
            (json!({"kty": "EC", "crv": "P-256", "x": bytes(31), "y": bytes(32)}), Unusable::Parameter("x")),
            (json!({"kty": "EC", "crv": "secp256k1"}), Unusable::Curve("secp256k1".into())),
            (json!({"kty": "OKP", "crv": "Ed448"}), Unusable::Curve("Ed448".into())),
        ] {
            assert_eq!(only(key.clone()), Err(reason), "{key}");
        }
    }

    #[test]
    fn what_is_no_set_is_told() {
        assert_eq!(KeySet::parse(b"x"), Err(KeySetError::Json));
        assert_eq!(KeySet::parse(b"{}"), Err(KeySetError::NoKeys));
        assert_eq!(KeySet::parse(b"{\"keys\": {}}"), Err(KeySetError::NoKeys));
        assert_eq!(KeySet::parse(b"{\"keys\": []}"), Ok(KeySet::default()));
        assert_eq!(KeySet::parse(&vec![b' '; MAX_BYTES + 1]), Err(KeySetError::TooLarge(MAX_BYTES + 1)));
        let crowd = json!({"keys": vec![json!({"kty": "RSA", "n": bytes(256), "e": "AQAB"}); MAX_KEYS + 2]});
        let set = KeySet::parse(crowd.to_string().as_bytes()).unwrap();
        assert_eq!((set.keys.len(), set.unusable), (MAX_KEYS, vec![(MAX_KEYS, Unusable::TooMany)]));
    }
}
