//! Cipher suites by their OpenSSL names, as Istio's `cipherSuites` and Envoy's log write them.

use rustls::{CipherSuite, SupportedCipherSuite};

const NAMES: [(CipherSuite, &str); 9] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
];

/// The OpenSSL name of a suite; empty for one that is never negotiated here.
pub(super) fn name(suite: CipherSuite) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == suite).map_or("", |(_, name)| name)
}

/// The suites of `all` that `names` allow, in the order of `all`, and the names that none of them has.
///
/// As in Envoy the names govern TLS 1.2; the suites of TLS 1.3 are all sound and cannot be chosen between. If none of
/// the names is known, the library's defaults remain.
pub(super) fn select<'n>(
    names: &'n [String],
    all: &[SupportedCipherSuite],
) -> (Vec<SupportedCipherSuite>, Vec<&'n str>) {
    let known = |wanted: &str| all.iter().any(|suite| name(suite.suite()) == wanted);
    let (asked, unknown): (Vec<&str>, Vec<&str>) = names.iter().map(String::as_str).partition(|name| known(name));
    let takes_1_2 = |suite: &SupportedCipherSuite| asked.contains(&name(suite.suite()));
    let any_1_2 = all.iter().any(|suite| suite.tls13().is_none() && takes_1_2(suite));
    let kept = all.iter().filter(|suite| suite.tls13().is_some() || !any_1_2 || takes_1_2(suite));
    (kept.copied().collect(), unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_library_has_a_name() {
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            assert!(!name(suite.suite()).is_empty(), "{suite:?}");
        }
    }

    #[test]
    fn names_choose_among_tls_1_2_and_unknown_ones_are_reported() {
        let all = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (asked, tls12, unknown) in [
            (names(&[]), 6, vec![]),
            (names(&["ECDHE-RSA-AES128-GCM-SHA256"]), 1, vec![]),
            (names(&["ECDHE-RSA-AES128-GCM-SHA256", "AES128-SHA"]), 1, vec!["AES128-SHA"]),
            (names(&["AES128-SHA"]), 6, vec!["AES128-SHA"]),
            (names(&["TLS_AES_128_GCM_SHA256"]), 6, vec![]),
        ] {
            let (kept, strange) = select(&asked, all);
            assert_eq!(kept.iter().filter(|suite| suite.tls13().is_none()).count(), tls12, "{asked:?}");
            assert_eq!(kept.iter().filter(|suite| suite.tls13().is_some()).count(), 3, "{asked:?}");
            assert_eq!(strange, unknown, "{asked:?}");
        }
    }
}
