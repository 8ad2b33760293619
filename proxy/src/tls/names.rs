//! The names that a certificate is for.

use std::net::IpAddr;

use x509_parser::prelude::{GeneralName, X509Certificate};

/// Whether a certificate is for one of these names: host names (which a wildcard of the certificate takes too), URIs,
/// mail addresses, IP addresses. Only its subject alternative names count.
pub(super) fn is_for_one_of(certificate: &X509Certificate<'_>, names: &[String]) -> bool {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
    extension.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(dns) => names.iter().any(|wanted| takes(dns, wanted)),
        GeneralName::URI(text) | GeneralName::RFC822Name(text) => names.iter().any(|wanted| wanted == text),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.is_ok_and(|address| names.iter().any(|wanted| wanted.parse() == Ok(address)))
        }
        _ => false,
    })
}

/// A wildcard stands for one label, the leftmost (RFC 9525 section 6.3).
fn takes(presented: &str, wanted: &str) -> bool {
    if presented.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let (Some(domain), Some((label, rest))) = (presented.strip_prefix("*."), wanted.split_once('.')) else {
        return false;
    };
    !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_takes_one_label() {
        for (presented, wanted, takes_it) in [
            ("a.test", "A.Test", true),
            ("*.b.test", "a.b.test", true),
            ("*.b.test", "b.test", false),
            ("*.b.test", ".b.test", false),
            ("*.b.test", "x.a.b.test", false),
            ("*.test", "a.test", false),
            ("*.b.test", "*.b.test", true),
            ("a.test", "b.test", false),
        ] {
            assert_eq!(takes(presented, wanted), takes_it, "{presented} {wanted}");
        }
    }
}
