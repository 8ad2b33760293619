use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::kind::Kind;
use crate::meta::ResourceKey;
use crate::request::claims::ClaimPath;
use crate::table::authentication::{KeySource, TokenPlace};

const NOW: i64 = 1_800_000_000;

fn written(header: &Value, payload: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(header), part(payload))
}

fn of(payload: &Value) -> String {
    written(&json!({"alg": "RS256", "kid": "k"}), payload)
}

fn rule(issuer: &str) -> JwtRule {
    JwtRule {
        policy: ResourceKey::new(Kind::RequestAuthentication, "default", "p"),
        index: 0,
        issuer: (!issuer.is_empty()).then(|| issuer.into()),
        audiences: Box::default(),
        keys: KeySource::None,
        places: Box::new([TokenPlace::Bearer]),
        payload_header: None,
        claim_headers: Box::default(),
        forward: false,
        timeout: std::time::Duration::from_secs(5),
        space_delimited: Box::default(),
    }
}

#[test]
fn every_fault_is_a_text_and_its_details() {
    for fault in [TokenFault::Form, TokenFault::Es512, TokenFault::NoKey, TokenFault::Audience, TokenFault::Fetch] {
        assert_eq!(fault.details(), format!("jwt_authn_access_denied{{{}}}", fault.to_string().replace(' ', "_")));
        assert_eq!(fault.status().as_u16(), if fault == TokenFault::Audience { 403 } else { 401 });
    }
}

#[test]
fn what_is_no_token_is_told() {
    let header = json!({"alg": "RS256"});
    let with = |payload: Value| written(&json!({"alg": "RS256"}), &payload);
    for (text, fault) in [
        (String::new(), TokenFault::Form),
        ("a.b".into(), TokenFault::Form),
        ("a.b.c.d".into(), TokenFault::Form),
        ("a.b.c.d.e".into(), TokenFault::Form),
        ("!.e30.x".into(), TokenFault::HeaderBase64),
        // Padding has no place in a token.
        ("e30=.e30.x".into(), TokenFault::HeaderBase64),
        ("aGV5.e30.x".into(), TokenFault::HeaderJson),
        ("e30.e30.x".into(), TokenFault::AlgMissing),
        (written(&json!({"alg": 7}), &json!({})), TokenFault::AlgMissing),
        (written(&json!({"alg": "none"}), &json!({})), TokenFault::Alg),
        (written(&json!({"alg": "HS256"}), &json!({})), TokenFault::Alg),
        (written(&json!({"alg": "rs256"}), &json!({})), TokenFault::Alg),
        (written(&json!({"alg": "ES512"}), &json!({})), TokenFault::Es512),
        (written(&json!({"alg": "RS256", "kid": 7}), &json!({})), TokenFault::Kid),
        (written(&json!({"alg": "RS256", "crit": ["b64"]}), &json!({})), TokenFault::Alg),
        (written(&header, &json!([])), TokenFault::PayloadJson),
        (format!("{}.!.x", URL_SAFE_NO_PAD.encode(header.to_string())), TokenFault::PayloadBase64),
        (with(json!({"iss": 7})), TokenFault::Iss),
        (with(json!({"sub": {}})), TokenFault::Sub),
        (with(json!({"jti": 7})), TokenFault::Jti),
        (with(json!({"aud": 7})), TokenFault::Aud),
        (with(json!({"aud": ["a", 7]})), TokenFault::Aud),
        (with(json!({"iat": "now"})), TokenFault::Iat),
        (with(json!({"nbf": "now"})), TokenFault::Nbf),
        (with(json!({"exp": "never"})), TokenFault::Exp),
        (with(json!({"exp": -1})), TokenFault::Exp),
        (with(json!({"exp": 1e300})), TokenFault::Exp),
        (with(json!({"exp": null})), TokenFault::Exp),
    ] {
        assert_eq!(Token::parse(&text).map(|_| ()), Err(fault), "{text}");
    }
}

#[test]
fn a_token_is_held_against_its_rule() {
    let audiences = |list: &[&str]| list.iter().map(|name| Box::from(*name)).collect::<Box<[Box<str>]>>();
    let for_any = rule("");
    let mine = JwtRule { audiences: audiences(&["a", "https://b.test/"]), ..rule("i") };
    for (payload, rule, fault) in [
        (json!({"iss": "i"}), &rule("i"), None),
        (json!({"iss": "j"}), &rule("i"), Some(TokenFault::UnknownIssuer)),
        (json!({}), &rule("i"), Some(TokenFault::UnknownIssuer)),
        (json!({"iss": "i/"}), &rule("i"), Some(TokenFault::UnknownIssuer)),
        (json!({}), &for_any, None),
        (json!({"iss": "anyone"}), &for_any, None),
        // A minute is granted to clocks.
        (json!({"exp": NOW - 60}), &for_any, None),
        (json!({"exp": NOW - 61}), &for_any, Some(TokenFault::Expired)),
        (json!({"exp": NOW as f64 - 60.5}), &for_any, Some(TokenFault::Expired)),
        (json!({"nbf": NOW + 60}), &for_any, None),
        (json!({"nbf": NOW + 61}), &for_any, Some(TokenFault::NotYetValid)),
        (json!({"exp": i64::MAX, "nbf": 0}), &for_any, None),
        (json!({"iss": "i", "aud": "a"}), &mine, None),
        (json!({"iss": "i", "aud": ["x", "a"]}), &mine, None),
        (json!({"iss": "i", "aud": "http://b.test"}), &mine, None),
        (json!({"iss": "i", "aud": "b.test/"}), &mine, None),
        (json!({"iss": "i", "aud": "A"}), &mine, Some(TokenFault::Audience)),
        (json!({"iss": "i", "aud": []}), &mine, Some(TokenFault::Audience)),
        (json!({"iss": "i"}), &mine, Some(TokenFault::Audience)),
        (json!({"iss": "j"}), &mine, Some(TokenFault::UnknownIssuer)),
    ] {
        let text = of(&payload);
        let token = Token::parse(&text).expect("a token");
        assert_eq!(token.check(rule, Some(NOW)).err(), fault, "{payload}");
    }
}

#[test]
fn claims_become_headers() {
    let name = HeaderName::from_static;
    let claims = [("x-sub", "sub"), ("x-level", "level"), ("x-half", "half"), ("x-deep", "user.id"), ("x-ok", "ok")];
    let more =
        [("x-list", "list"), ("x-none", "none"), ("x-gone", "gone.at.all"), ("x-bad", "bad"), ("x-sub", "user.id")];
    let rule = JwtRule {
        payload_header: Some(name("x-payload")),
        claim_headers: claims.into_iter().chain(more).map(|(to, from)| (name(to), ClaimPath::dotted(from))).collect(),
        ..rule("")
    };
    let text = of(&json!({
        "sub": "ann", "level": 7, "half": 0.5, "user": {"id": "u"}, "ok": true, "list": ["a", 1], "none": null,
        "bad": "a\r\nb",
    }));
    let token = Token::parse(&text).expect("a token");
    let headers = token.headers(&rule);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
    assert_eq!(
        headers,
        [
            ("x-payload", text.split('.').nth(1).expect("a payload")),
            ("x-sub", "ann"),
            ("x-level", "7"),
            ("x-half", "0.5"),
            ("x-deep", "u"),
            ("x-ok", "true"),
            ("x-list", "WyJhIiwxXQ=="),
            ("x-sub", "u"),
        ]
    );
}

/// What becomes of a request with these headers, whose tokens are the names of their issuers, good unless they begin
/// with `bad`.
fn judged(rules: Vec<JwtRule>, sent: &[(&'static str, &'static str)]) -> String {
    let mut headers = Headers::new();
    for (name, value) in sent {
        headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let authentication = Authentication { rules: rules.into(), written: Box::default() };
    let (method, scheme, authority, path) = ("GET", "http", "a", "/");
    let head = RequestHead { method, scheme, authority, path, query: None, headers: &headers, claims: None };
    let verify = |rule: &JwtRule, _: usize, token: &str| match token.strip_prefix("bad") {
        None if rule.issuer.as_deref().is_some_and(|issuer| issuer != token) => Err(TokenFault::UnknownIssuer),
        None => Ok(token.to_owned()),
        Some(issuer) if rule.issuer.as_deref() == Some(issuer) => Err(TokenFault::Signature),
        Some(_) => Err(TokenFault::UnknownIssuer),
    };
    match authentication.judge(&head, verify) {
        TokenVerdict::None => "none".to_owned(),
        TokenVerdict::Accepted { rule, verified, .. } => format!("{verified} by {rule}"),
        TokenVerdict::Refused(fault) => format!("{fault:?}"),
    }
}

#[test]
fn one_rule_that_is_content_is_enough() {
    let in_header = |issuer| JwtRule {
        places: Box::new([TokenPlace::Header { name: HeaderName::from_static("x-jwt"), prefix: "".into() }]),
        ..rule(issuer)
    };
    let bearer = |name: &'static str| ("authorization", name);
    for (rules, sent, want) in [
        (vec![rule("i")], &[][..], "none"),
        (vec![rule("i")], &[bearer("Bearer i")], "i by 0"),
        (vec![rule("i")], &[bearer("Basic i")], "none"),
        (vec![rule("i")], &[bearer("Bearer j")], "UnknownIssuer"),
        (vec![rule("i")], &[bearer("Bearer badi")], "Signature"),
        (vec![rule("i"), rule("j")], &[bearer("Bearer j")], "j by 1"),
        (vec![rule("i"), rule("j")], &[bearer("Bearer badi")], "Signature"),
        (vec![rule("i"), rule("j")], &[bearer("Bearer badj")], "Signature"),
        (vec![rule("i"), rule("j")], &[bearer("Bearer k")], "UnknownIssuer"),
        // All tokens of a place must be in order, and the first speaks.
        (vec![rule("")], &[bearer("Bearer i"), bearer("Bearer j")], "i by 0"),
        (vec![rule("i")], &[bearer("Bearer i"), bearer("Bearer badi")], "Signature"),
        // Tokens in two places: one rule that is content is enough.
        (vec![rule("i"), in_header("j")], &[bearer("Bearer i"), ("x-jwt", "badj")], "i by 0"),
        (vec![rule("i"), in_header("j")], &[bearer("Bearer badi"), ("x-jwt", "j")], "j by 1"),
        (vec![rule("i"), in_header("j")], &[("x-jwt", "i")], "UnknownIssuer"),
    ] {
        assert_eq!(judged(rules, sent), want, "{sent:?}");
    }
}

#[test]
fn clients_cannot_write_what_the_proxy_writes() {
    let written = Box::new([HeaderName::from_static("x-sub"), HeaderName::from_static("x_role")]);
    let authentication = Authentication { rules: Box::default(), written };
    let mut headers = Headers::new();
    for name in ["x-sub", "x_sub", "x-role", "x_role", "x-other", "xsub"] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("forged"));
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("twice"));
    }
    authentication.sanitise(&mut headers);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["x-other", "x-other", "xsub", "xsub"]);
}

#[test]
fn preflights_are_whole() {
    let mut headers = Headers::new();
    assert!(!is_preflight("OPTIONS", &headers));
    headers.insert(ORIGIN, HeaderValue::from_static("https://a.test"));
    assert!(!is_preflight("OPTIONS", &headers));
    headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
    assert!(is_preflight("OPTIONS", &headers));
    assert!(!is_preflight("GET", &headers));
    headers.insert(ORIGIN, HeaderValue::from_static(""));
    assert!(!is_preflight("OPTIONS", &headers));
}
