//! Which form of an answer the client asked for: the `Accept` header of RFC 9110, section 12.5.1, with the `as`, `v` and
//! `g` parameters by which Kubernetes clients ask for tables, metadata or aggregated discovery.

use http::{HeaderMap, header};

use super::error::ApiError;

/// The form of an answer about resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    Object,
    /// Rows for people, as `kubectl get` prints them.
    Table,
    /// Objects without spec and status.
    Metadata,
}

/// The form of an answer to `GET /api` and `GET /apis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiscoveryForm {
    Plain,
    /// All groups with their resources in one answer; the version is `v2` or `v2beta1`.
    Aggregated(&'static str),
}

/// Ranges beyond this many are not looked at.
const MAX_RANGES: usize = 32;

/// One media range of an `Accept` header.
#[derive(Debug)]
struct Range<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let mut quality = 1000;
        let mut parameters = Vec::new();
        for (name, value) in parts.filter_map(|p| p.split_once('=')) {
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                quality = value.parse::<f32>().map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16);
            } else {
                parameters.push((name, value));
            }
        }
        Self { media, parameters, quality }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v)
    }

    fn takes_json(&self) -> bool {
        ["application/json", "application/*", "*/*"].iter().any(|m| self.media.eq_ignore_ascii_case(m))
    }
}

/// The ranges by preference; an absent header is one range that takes JSON.
fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    let mut all: Vec<Range<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|v| !v.is_empty())
        .take(MAX_RANGES)
        .map(Range::parse)
        .collect();
    if all.is_empty() {
        all.push(Range::parse("application/json"));
    }
    all.retain(|r| r.quality > 0);
    all.sort_by_key(|r| std::cmp::Reverse(r.quality));
    all
}

impl Form {
    /// The first form asked for that is known here. Unknown media types are passed over; if nothing is left the
    /// error is 406.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        for range in ranges(headers).iter().filter(|r| r.takes_json()) {
            let meta_v1 = range.get("g") == Some("meta.k8s.io") && range.get("v") == Some("v1");
            match range.get("as") {
                None => return Ok(Self::Object),
                Some("Table") if meta_v1 => return Ok(Self::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta_v1 => return Ok(Self::Metadata),
                Some(_) => {}
            }
        }
        Err(ApiError::not_acceptable())
    }
}

impl DiscoveryForm {
    /// Anything that is not a known aggregated form is answered plainly.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        for range in ranges(headers).iter().filter(|r| r.takes_json()) {
            match (range.get("as"), range.get("g"), range.get("v")) {
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                    return Self::Aggregated("v2");
                }
                (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                    return Self::Aggregated("v2beta1");
                }
                (None, ..) => return Self::Plain,
                _ => {}
            }
        }
        Self::Plain
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn forms_by_what_clients_really_send() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        for (sent, form) in [
            (table, Some(Form::Table)),
            ("application/json;g=meta.k8s.io;v=v1;as=Table", Some(Form::Table)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Metadata)),
            ("*/*", Some(Form::Object)),
            ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", Some(Form::Object)),
            ("application/json;q=0.1, application/json;as=Table;v=v1;g=meta.k8s.io", Some(Form::Table)),
            ("text/html", None),
            ("application/json;q=0", None),
        ] {
            assert_eq!(Form::of(&accept(sent)).ok(), form, "{sent}");
        }
        assert_eq!(Form::of(&HeaderMap::new()).ok(), Some(Form::Object));
    }

    #[test]
    fn aggregated_discovery_takes_the_first_version_known() {
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let new = "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json";
        assert_eq!(DiscoveryForm::of(&accept(both)), DiscoveryForm::Aggregated("v2"));
        assert_eq!(DiscoveryForm::of(&accept(old)), DiscoveryForm::Aggregated("v2beta1"));
        assert_eq!(DiscoveryForm::of(&accept(new)), DiscoveryForm::Plain);
        assert_eq!(DiscoveryForm::of(&HeaderMap::new()), DiscoveryForm::Plain);
    }
}
