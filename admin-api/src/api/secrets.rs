//! What is particular about secrets. No message here ever holds a value.

use std::fmt::Display;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use route_model::field::{FieldCause, FieldError, FieldPath};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};

/// All values of a secret together, in bytes, as in Kubernetes.
const MAX_DATA: usize = 1024 * 1024;
const TLS: &str = "kubernetes.io/tls";

/// Merges `stringData` into `data`, fills in the type and checks what the type promises.
pub(crate) fn normalise(object: &mut Value, previous: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in merge_string_data(object) {
        errors.push(error(format!("stringData[{name}]"), FieldCause::TypeInvalid, "must be a string"));
    }
    let Some(fields) = object.as_object_mut() else { return errors };
    if fields.get("type").and_then(Value::as_str).unwrap_or_default().is_empty() {
        let kept = previous.and_then(|p| p.get("type")).cloned();
        fields.insert("type".to_owned(), kept.unwrap_or_else(|| json!("Opaque")));
    }
    let data = decoded(fields, &mut errors);
    if let Some(previous) = previous {
        if previous.get("type") != fields.get("type") {
            errors.push(error(
                "type",
                FieldCause::Invalid,
                "the type of a secret cannot change; delete it and create another",
            ));
        }
        if previous.get("immutable") == Some(&json!(true)) {
            let same = previous.get("data") == fields.get("data") && fields.get("immutable") == Some(&json!(true));
            if !same {
                errors.push(error("data", FieldCause::Forbidden, "the secret is immutable"));
            }
        }
    }
    if errors.is_empty() && fields.get("type") == Some(&json!(TLS)) {
        check_tls(&data, &mut errors);
    }
    errors
}

/// Moves `stringData` into `data`. Answers the names of what is no text.
pub(crate) fn merge_string_data(object: &mut Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(fields) = object.as_object_mut() else { return wrong };
    let Some(Value::Object(plain)) = fields.shift_remove("stringData") else { return wrong };
    let data = fields.entry("data").or_insert(Value::Null);
    if data.is_null() {
        *data = json!({});
    }
    let Some(data) = data.as_object_mut() else { return wrong };
    for (name, value) in plain {
        match value {
            Value::String(value) => drop(data.insert(name, json!(BASE64_STANDARD.encode(value)))),
            Value::Null => {}
            _ => wrong.push(name),
        }
    }
    wrong
}

/// An error that shows no value, in the words of Kubernetes.
fn error(path: impl AsRef<str>, cause: FieldCause, message: impl Display) -> FieldError {
    let prefix = match cause {
        FieldCause::Required => "Required value",
        FieldCause::Forbidden => "Forbidden",
        FieldCause::TooLong => "Too long",
        _ => "Invalid value",
    };
    FieldError::new(FieldPath::new(path.as_ref()), cause, format!("{prefix}: {message}"))
}

/// The decoded values.
fn decoded(fields: &Map<String, Value>, errors: &mut Vec<FieldError>) -> Vec<(String, Vec<u8>)> {
    let mut data = Vec::new();
    let mut size = 0;
    for (name, value) in fields.get("data").and_then(Value::as_object).into_iter().flatten() {
        let path = || format!("data[{name}]");
        let fine = !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !fine {
            let message = "a key has at most 253 letters, digits, `-`, `_` or `.`";
            errors.push(error(path(), FieldCause::Invalid, message));
        }
        match value {
            Value::Null => data.push((name.clone(), Vec::new())),
            Value::String(text) => match BASE64_STANDARD.decode(text) {
                Ok(bytes) => {
                    size += bytes.len();
                    data.push((name.clone(), bytes));
                }
                Err(_) => errors.push(error(
                    path(),
                    FieldCause::Invalid,
                    "must be base64 with padding; write plain text into stringData instead",
                )),
            },
            // A wrong type is the schema's business.
            _ => {}
        }
    }
    if size > MAX_DATA {
        errors.push(error(
            "data",
            FieldCause::TooLong,
            format!("all values together must have at most {MAX_DATA} bytes"),
        ));
    }
    data
}

/// A `kubernetes.io/tls` secret holds a certificate chain and its key, in PEM.
fn check_tls(data: &[(String, Vec<u8>)], errors: &mut Vec<FieldError>) {
    let get = |name: &str| data.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes.as_slice());
    let path = |name: &str| format!("data[{name}]");
    let mut required = |name: &'static str| {
        let bytes = get(name).filter(|bytes| !bytes.is_empty());
        if bytes.is_none() {
            errors.push(error(path(name), FieldCause::Required, format!("a {TLS} secret needs {name}")));
        }
        bytes
    };
    let (certificate, key) = (required("tls.crt"), required("tls.key"));
    let (Some(certificate), Some(key)) = (certificate, key) else { return };
    let chain = match certificates(certificate) {
        Ok(chain) => Some(chain),
        Err(why) => {
            errors.push(error(path("tls.crt"), FieldCause::Invalid, why));
            None
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted)".to_owned())
        .and_then(|key| {
            any_supported_type(&key).map_err(|_| "is no RSA, ECDSA or Ed25519 key that can be used".to_owned())
        });
    let key = match key {
        Ok(key) => Some(key),
        Err(why) => {
            errors.push(error(path("tls.key"), FieldCause::Invalid, why));
            None
        }
    };
    if let (Some(chain), Some(key)) = (chain, key)
        && let Err(rustls::Error::InconsistentKeys(_)) = CertifiedKey::new(chain, key).keys_match()
    {
        let message = "the private key does not belong to the first certificate of tls.crt";
        errors.push(error(path("tls.key"), FieldCause::Invalid, message));
    }
    if let Some(ca) = get("ca.crt").filter(|ca| !ca.is_empty())
        && let Err(why) = certificates(ca)
    {
        errors.push(error(path("ca.crt"), FieldCause::Invalid, why));
    }
}

/// The certificates of a PEM text; at least one, each of which parses.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "is not well-formed PEM".to_owned())?;
    if chain.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    for (index, certificate) in chain.iter().enumerate() {
        if x509_parser::parse_x509_certificate(certificate).is_err() {
            return Err(format!("certificate {} is not a valid X.509 certificate", index + 1));
        }
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn tls(certificate: &str, key: &str) -> Value {
        json!({"type": TLS, "stringData": {"tls.crt": certificate, "tls.key": key}})
    }

    fn faults(mut object: Value) -> Vec<String> {
        normalise(&mut object, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plain_text_becomes_data() {
        let mut secret = json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}});
        assert_eq!(normalise(&mut secret, None), []);
        assert_eq!(secret, json!({"data": {"b": "eQ==", "a": "eA=="}, "type": "Opaque"}));
        assert!(faults(json!({"data": {"a": "%"}}))[0].starts_with("data[a]: Invalid value: must be base64"));
    }

    #[test]
    fn certificate_and_key_must_belong_together() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        assert_eq!(faults(tls(&certificate, &key)), [""; 0]);
        assert_eq!(
            faults(tls(&certificate, &other)),
            ["data[tls.key]: Invalid value: the private key does not belong to the first certificate of tls.crt"]
        );
        assert!(faults(tls("nonsense", &key))[0].starts_with("data[tls.crt]: Invalid value: holds no certificate"));
        assert!(
            faults(tls(&certificate, "nonsense"))[0].starts_with("data[tls.key]: Invalid value: holds no private key")
        );
        assert_eq!(faults(json!({"type": TLS})).len(), 2);
        for fault in faults(tls(&certificate, &other)) {
            assert!(!fault.contains("PRIVATE KEY"), "{fault}");
        }
    }

    #[test]
    fn what_is_fixed_stays() {
        let previous = json!({"type": "Opaque", "data": {"a": "eA=="}, "immutable": true});
        let mut changed = json!({"type": "Opaque", "data": {"a": "eQ=="}, "immutable": true});
        assert_eq!(normalise(&mut changed, Some(&previous)).len(), 1);
        assert_eq!(normalise(&mut previous.clone(), Some(&previous)), []);
        let mut retyped = json!({"type": TLS});
        assert!(!normalise(&mut retyped, Some(&json!({"type": "Opaque"}))).is_empty());
    }
}
