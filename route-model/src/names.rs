//! The forms of names: Kubernetes' objects, labels and keys.

/// What [`is_dns_label`] asks, for error messages.
pub const DNS_LABEL: &str =
    "must be at most 63 lower case letters, digits and '-', and start and end with a letter or digit";
/// What [`is_dns_subdomain`] asks.
pub const DNS_SUBDOMAIN: &str =
    "must be at most 253 lower case letters, digits, '-' and '.', and start and end with a letter or digit";
/// What [`is_qualified`] asks.
pub const QUALIFIED: &str = "must be at most 63 letters, digits, '-', '_' and '.', start and end with a letter or \
                             digit, and may have a DNS name and '/' before it";
/// What [`is_label_value`] asks.
pub const LABEL_VALUE: &str =
    "must be at most 63 letters, digits, '-', '_' and '.', and start and end with a letter or digit";

/// A label of RFC 1123: what namespaces are called.
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Labels with dots between them: what most objects are called.
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// The key of a label or annotation: `name` or `prefix/name`.
pub fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_plain_key(name),
        None => is_plain_key(key),
    }
}

fn is_plain_key(name: &str) -> bool {
    !name.is_empty() && is_label_value(name)
}

/// The value of a label; it may be empty.
pub fn is_label_value(value: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63
        && edge(value.as_bytes().first())
        && edge(value.as_bytes().last())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_forms() {
        let long = "a".repeat(64);
        for (name, label, subdomain, qualified, value) in [
            ("a", true, true, true, true),
            ("a-b", true, true, true, true),
            ("a.b", false, true, true, true),
            ("a..b", false, false, true, true),
            ("-a", false, false, false, false),
            ("a-", false, false, false, false),
            ("A_b", false, false, true, true),
            ("", false, false, false, true),
            ("a/b", false, false, true, false),
            ("A/b", false, false, false, false),
            ("a/", false, false, false, false),
            ("a/b/c", false, false, false, false),
            (&long, false, true, false, false),
        ] {
            let found = (is_dns_label(name), is_dns_subdomain(name), is_qualified(name), is_label_value(name));
            assert_eq!(found, (label, subdomain, qualified, value), "{name:?}");
        }
    }
}
