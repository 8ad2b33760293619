//! Cross-origin requests (the Fetch standard's CORS protocol) as Istio's `corsPolicy` has them.

use http::HeaderValue;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};

use crate::matching::StringMatch;
use crate::request::headers::Headers;

/// `http[].corsPolicy`, ready to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    pub origins: Box<[StringMatch]>,
    /// `Access-Control-Allow-Methods`; `None`: the header is not sent.
    pub methods: Option<HeaderValue>,
    pub headers: Option<HeaderValue>,
    pub expose: Option<HeaderValue>,
    /// Seconds.
    pub max_age: Option<HeaderValue>,
    pub credentials: bool,
    /// `unmatchedPreflights: IGNORE`: a preflight of an origin that is not allowed is answered here, without leave,
    /// instead of upstream.
    pub ignore_unmatched: bool,
}

/// What a request is to a [`Cors`] policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsVerdict {
    /// Not from another origin, or from one that is not allowed: it goes on, and the browser withholds the answer.
    Indifferent,
    /// A preflight to be answered here. `allowed`: with what the policy permits.
    Preflight { allowed: Option<HeaderValue> },
    /// A request of this origin, whose response is to say that it may be read.
    Allowed(HeaderValue),
}

impl Cors {
    /// Judges a request by its method and headers.
    pub fn judge(&self, method: &str, headers: &Headers) -> CorsVerdict {
        let Some(origin) = headers.get(ORIGIN) else { return CorsVerdict::Indifferent };
        let allowed = self.origins.iter().any(|wanted| wanted.is_match(origin.as_bytes()));
        let preflight = method == "OPTIONS" && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        match (preflight, allowed) {
            (true, true) => CorsVerdict::Preflight { allowed: Some(origin.clone()) },
            (true, false) if self.ignore_unmatched => CorsVerdict::Preflight { allowed: None },
            (false, true) => CorsVerdict::Allowed(origin.clone()),
            (_, false) => CorsVerdict::Indifferent,
        }
    }

    /// The headers of the answer to a preflight of an allowed origin.
    pub fn permit(&self, origin: HeaderValue, headers: &mut Headers) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// What the response to a request of an allowed origin says in addition.
    pub fn expose(&self, origin: HeaderValue, headers: &mut Headers) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(ignore_unmatched: bool) -> Cors {
        Cors {
            origins: Box::new([
                StringMatch::Exact("https://shop.test".into()),
                StringMatch::Prefix("http://local".into()),
            ]),
            methods: Some(HeaderValue::from_static("GET,POST")),
            credentials: true,
            expose: Some(HeaderValue::from_static("x-total")),
            ignore_unmatched,
            ..Cors::default()
        }
    }

    fn headers(origin: Option<&'static str>, asks: bool) -> Headers {
        let mut headers = Headers::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        if asks {
            headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        }
        headers
    }

    #[test]
    fn only_whole_preflights_of_allowed_origins_are_answered_here() {
        use CorsVerdict::{Allowed, Indifferent, Preflight};
        let shop = HeaderValue::from_static("https://shop.test");
        let cases: [(&str, Option<&'static str>, bool, bool, CorsVerdict); 8] = [
            ("OPTIONS", Some("https://shop.test"), true, false, Preflight { allowed: Some(shop.clone()) }),
            ("OPTIONS", Some("https://shop.test"), false, false, Allowed(shop.clone())),
            ("OPTIONS", Some("https://evil.test"), true, false, Indifferent),
            ("OPTIONS", Some("https://evil.test"), true, true, Preflight { allowed: None }),
            ("OPTIONS", None, true, true, Indifferent),
            ("GET", Some("https://shop.test"), true, false, Allowed(shop)),
            ("GET", Some("https://evil.test"), false, true, Indifferent),
            ("GET", Some("http://localhost:3000"), false, false, Allowed("http://localhost:3000".parse().unwrap())),
        ];
        for (method, origin, asks, ignore, verdict) in cases {
            assert_eq!(cors(ignore).judge(method, &headers(origin, asks)), verdict, "{method} {origin:?} {asks}");
        }
    }

    #[test]
    fn answers_say_what_the_policy_says() {
        let shop = HeaderValue::from_static("https://shop.test");
        let (mut preflight, mut actual) = (Headers::new(), Headers::new());
        cors(false).permit(shop.clone(), &mut preflight);
        cors(false).expose(shop, &mut actual);
        let list = |headers: &Headers| {
            let mut list: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            list.sort();
            list
        };
        let origin = "access-control-allow-origin: https://shop.test";
        let credentials = "access-control-allow-credentials: true";
        assert_eq!(list(&preflight), [credentials, "access-control-allow-methods: GET,POST", origin]);
        assert_eq!(list(&actual), [credentials, origin, "access-control-expose-headers: x-total"]);
    }
}
