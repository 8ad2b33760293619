//! The forms of hosts and addresses.

use std::net::IpAddr;

use super::Report;
use crate::field::Place;

/// Where a wildcard may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wildcard {
    Refused,
    /// `*.example.com` and partial ones such as `*-x.example.com`.
    Prefix,
    /// Also `*` alone.
    Any,
}

/// Reports what is wrong with a host name. IP addresses pass as names do.
pub(super) fn check(host: &str, wildcard: Wildcard, at: &Place<'_>, report: &mut Report) {
    if let Err(problem) = parse(host, wildcard) {
        report.invalid(at, host, problem);
    }
}

fn parse(host: &str, wildcard: Wildcard) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("must not be empty");
    }
    if is_ip(host) {
        return Ok(());
    }
    let rest = match host.strip_prefix('*') {
        Some("") if wildcard == Wildcard::Any => return Ok(()),
        Some(_) if wildcard == Wildcard::Refused => return Err("must not have a wildcard"),
        Some("") => return Err("must not be the wildcard * alone"),
        Some(rest) => rest.strip_prefix(['.', '-']).unwrap_or(rest),
        None => host,
    };
    if rest.contains('*') {
        return Err("a wildcard is only allowed at the start: * or *.example.com");
    }
    is_name(rest)
}

/// A DNS name; a trailing dot is allowed, and so is `_`, which no host name may have but many services do.
fn is_name(name: &str) -> Result<(), &'static str> {
    if name.len() > 255 {
        return Err("must be at most 255 characters long");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(label) {
        return Err("must be a DNS name: labels of letters, digits, '-' and '_' with dots between them");
    }
    if name.rsplit('.').next().is_some_and(|top| top.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("must not end in a label of digits alone");
    }
    Ok(())
}

/// A fully qualified name or an IP address.
pub(super) fn is_host(host: &str) -> bool {
    parse(host, Wildcard::Refused).is_ok()
}

pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// `10.0.0.0/8`, or an address alone.
pub(super) fn is_subnet(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return is_ip(text) };
    let max = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

/// Whether every name that `inner` takes is one that `outer` takes. Compared as they are written in lower case.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (outer.to_ascii_lowercase(), inner.to_ascii_lowercase());
    match (outer.strip_prefix('*'), inner.strip_prefix('*')) {
        (Some(outer), Some(inner)) => inner.ends_with(outer),
        (Some(outer), None) => inner.ends_with(outer),
        (None, Some(_)) => false,
        (None, None) => outer == inner,
    }
}

/// The value of a Host header that is set: a name or an address, with an optional port.
pub(super) fn is_authority(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_wildcards() {
        let cases: &[(&str, bool, bool, bool)] = &[
            // host, without wildcards, with a prefix, with any
            ("a", true, true, true),
            ("a.b", true, true, true),
            ("A.b.", true, true, true),
            ("10.0.0.1", true, true, true),
            ("::1", true, true, true),
            ("*", false, false, true),
            ("*.a.b", false, true, true),
            ("*a.b", false, true, true),
            ("*-a.b", false, true, true),
            ("a.*", false, false, false),
            ("*.*.a", false, false, false),
            ("a*.b", false, false, false),
            ("a..b", false, false, false),
            ("a_b.c", true, true, true),
            ("-a.b", false, false, false),
            ("a.123", false, false, false),
            ("a b", false, false, false),
            ("a:80", false, false, false),
            ("http://a", false, false, false),
            ("", false, false, false),
        ];
        for (host, refused, prefix, any) in cases {
            let found = [Wildcard::Refused, Wildcard::Prefix, Wildcard::Any].map(|w| parse(host, w).is_ok());
            assert_eq!(found, [*refused, *prefix, *any], "{host:?}");
        }
    }

    #[test]
    fn subnets() {
        for (text, valid) in [
            ("10.0.0.0/8", true),
            ("10.0.0.1", true),
            ("2001:db8::/32", true),
            ("10.0.0.0/33", false),
            ("10.0.0.0/", false),
            ("10.0.0.0/+8", false),
            ("a/8", false),
        ] {
            assert_eq!(is_subnet(text), valid, "{text}");
        }
    }

    #[test]
    fn one_host_covers_another() {
        for (outer, inner, expected) in [
            ("*", "a.b", true),
            ("*.b", "a.b", true),
            ("*.b", "*.a.b", true),
            ("*.b", "b", false),
            ("*.a.b", "*.b", false),
            ("a.b", "*.b", false),
            ("A.b", "a.B", true),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} {inner}");
        }
    }
}
