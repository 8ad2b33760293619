//! Header values with Envoy's `%…%` formatters, parsed once when a resource is compiled.

use std::fmt;

use http::{HeaderName, HeaderValue};
use thiserror::Error;

use crate::request::headers::Headers;

/// A header value with formatters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueTemplate {
    /// As written.
    text: Box<str>,
    parts: Box<[Part]>,
    /// The whole value, when no part depends on the request.
    fixed: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Command(Command),
}

/// Envoy's command operators that Fairway knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `%REQ(name?alternative):max%`.
    Request { header: HeaderRef, alternative: Option<HeaderRef>, max: Option<usize> },
    /// `%RESP(name?alternative):max%`.
    Response { header: HeaderName, alternative: Option<HeaderName>, max: Option<usize> },
    /// Any other operator: a fact that the proxy knows.
    Fact(Fact),
}

/// A header of a request as a formatter names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderRef {
    Header(HeaderName),
    Pseudo(PseudoHeader),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PseudoHeader {
    Method,
    Scheme,
    Authority,
    Path,
}

/// Facts about a request that only the proxy knows; the names are Envoy's operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamRemotePort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    DownstreamPeerSubject,
    DownstreamPeerUriSan,
    RequestedServerName,
    Protocol,
    ResponseCode,
    ResponseFlags,
    RouteName,
    VirtualClusterName,
    UpstreamHost,
    UpstreamCluster,
    /// `%START_TIME%` in its default format, ISO 8601 with milliseconds, UTC.
    StartTime,
    /// `%START_TIME(%s)%`: Unix seconds.
    StartTimeSeconds,
    BytesReceived,
    BytesSent,
    Duration,
    Hostname,
    /// `%STREAM_ID%`, which for HTTP is the request's `x-request-id`.
    RequestId,
}

/// Operators without a parameter.
const FACTS: &[(&str, Fact)] = &[
    ("BYTES_RECEIVED", Fact::BytesReceived),
    ("BYTES_SENT", Fact::BytesSent),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Fact::DownstreamDirectRemoteAddress),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Fact::DownstreamDirectRemoteAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_ADDRESS", Fact::DownstreamLocalAddress),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Fact::DownstreamLocalAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_PORT", Fact::DownstreamLocalPort),
    ("DOWNSTREAM_PEER_SUBJECT", Fact::DownstreamPeerSubject),
    ("DOWNSTREAM_PEER_URI_SAN", Fact::DownstreamPeerUriSan),
    ("DOWNSTREAM_REMOTE_ADDRESS", Fact::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Fact::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_REMOTE_PORT", Fact::DownstreamRemotePort),
    ("DOWNSTREAM_TLS_CIPHER", Fact::DownstreamTlsCipher),
    ("DOWNSTREAM_TLS_VERSION", Fact::DownstreamTlsVersion),
    ("DURATION", Fact::Duration),
    ("HOSTNAME", Fact::Hostname),
    ("PROTOCOL", Fact::Protocol),
    ("REQUESTED_SERVER_NAME", Fact::RequestedServerName),
    ("RESPONSE_CODE", Fact::ResponseCode),
    ("RESPONSE_FLAGS", Fact::ResponseFlags),
    ("ROUTE_NAME", Fact::RouteName),
    ("START_TIME", Fact::StartTime),
    ("STREAM_ID", Fact::RequestId),
    ("UPSTREAM_CLUSTER", Fact::UpstreamCluster),
    ("UPSTREAM_HOST", Fact::UpstreamHost),
    ("VIRTUAL_CLUSTER_NAME", Fact::VirtualClusterName),
];

/// What a template is formatted from. The proxy implements it over its request context.
pub trait FormatContext {
    fn method(&self) -> &str;
    fn scheme(&self) -> &str;
    fn authority(&self) -> &str;
    /// Path and query as the client sent them (normalised), before any rewrite.
    fn path_and_query(&self) -> &str;
    fn request_headers(&self) -> &Headers;
    /// `None` while there is no response yet.
    fn response_headers(&self) -> Option<&Headers>;
    /// Appends the fact's text; appends nothing where it is not known.
    fn append_fact(&self, fact: Fact, out: &mut Vec<u8>);
}

/// Why a text is no header value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("the `%` at byte {at} begins no formatter; a percent sign of its own is written `%%`")]
    LonePercent { at: usize },
    #[error("`%{name}%` is no formatter that is known here; those are REQ(header), RESP(header), {}", names())]
    UnknownOperator { name: String },
    #[error("`%{name}%` takes no parameter in parentheses")]
    UnexpectedParameter { name: String },
    #[error("`%{name}%` takes no length")]
    UnexpectedLength { name: String },
    #[error("the length of `%{name}%` must be a number of bytes that fits in 32 bits")]
    BadLength { name: String },
    #[error("`%START_TIME({format})%` is not supported; write %START_TIME% or %START_TIME(%s)%")]
    TimeFormat { format: String },
    #[error("`%{operator}({name})%` must name a header")]
    BadHeaderName { operator: String, name: String },
    #[error("the value has a control character at byte {at}, which no header may hold")]
    ControlCharacter { at: usize },
}

fn names() -> String {
    FACTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl ValueTemplate {
    /// Parses a value as Istio's header operations hold it: `%%` is a percent sign, `%OPERATOR(parameter):max%` a
    /// formatter.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if let Some(at) = text.bytes().position(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(TemplateError::ControlCharacter { at });
        }
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'%', rest.as_bytes()) {
            literal.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let (command, after) = Syntax::split(rest)
                .ok_or(TemplateError::LonePercent { at: text.len() - rest.len() - 1 })
                .and_then(|(syntax, after)| Ok((syntax.command()?, after)))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Command(command));
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        let fixed = match &parts[..] {
            [] => Some(HeaderValue::from_static("")),
            [Part::Literal(text)] => HeaderValue::from_bytes(text).ok(),
            _ => None,
        };
        Ok(Self { text: text.into(), parts: parts.into(), fixed })
    }

    /// A value in which `%` has no meaning. `None` if it holds what no header may hold.
    pub fn literal(text: &str) -> Option<Self> {
        let fixed = HeaderValue::from_str(text).ok()?;
        Some(Self { text: text.into(), parts: Box::new([Part::Literal(text.as_bytes().into())]), fixed: Some(fixed) })
    }

    /// The value, when it is the same for every request.
    pub fn as_static(&self) -> Option<&HeaderValue> {
        self.fixed.as_ref()
    }

    /// Appends the formatted value. What is unknown or absent appends nothing.
    pub fn render(&self, context: &dyn FormatContext, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Command(command) => command.render(context, out),
            }
        }
    }
}

/// As it was written.
impl fmt::Display for ValueTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Command {
    fn render(&self, context: &dyn FormatContext, out: &mut Vec<u8>) {
        fn cut(value: &[u8], max: Option<usize>) -> &[u8] {
            &value[..value.len().min(max.unwrap_or(usize::MAX))]
        }
        match self {
            Self::Request { header, alternative, max } => {
                let value = header.value(context).or_else(|| alternative.as_ref()?.value(context));
                out.extend_from_slice(cut(value.unwrap_or_default(), *max));
            }
            Self::Response { header, alternative, max } => {
                let Some(headers) = context.response_headers() else { return };
                let value = headers.get(header).or_else(|| headers.get(alternative.as_ref()?));
                out.extend_from_slice(cut(value.map(HeaderValue::as_bytes).unwrap_or_default(), *max));
            }
            Self::Fact(fact) => context.append_fact(*fact, out),
        }
    }
}

impl HeaderRef {
    fn parse(name: &str) -> Option<Self> {
        Some(Self::Pseudo(match name.to_ascii_lowercase().as_str() {
            ":method" => PseudoHeader::Method,
            ":scheme" => PseudoHeader::Scheme,
            // Envoy keeps HTTP/1's Host as `:authority`.
            ":authority" | "host" => PseudoHeader::Authority,
            ":path" => PseudoHeader::Path,
            name => return name.parse().ok().map(Self::Header),
        }))
    }

    /// Of a repeated header the first value.
    fn value<'c>(&self, context: &'c dyn FormatContext) -> Option<&'c [u8]> {
        match self {
            Self::Header(name) => context.request_headers().get(name).map(HeaderValue::as_bytes),
            Self::Pseudo(PseudoHeader::Method) => Some(context.method().as_bytes()),
            Self::Pseudo(PseudoHeader::Scheme) => Some(context.scheme().as_bytes()),
            Self::Pseudo(PseudoHeader::Authority) => Some(context.authority().as_bytes()),
            Self::Pseudo(PseudoHeader::Path) => Some(context.path_and_query().as_bytes()),
        }
    }
}

/// A formatter taken apart: `NAME(parameter):length`.
struct Syntax<'t> {
    name: &'t str,
    parameter: Option<&'t str>,
    length: Option<&'t str>,
}

impl<'t> Syntax<'t> {
    /// Splits what follows a `%` into the formatter and what follows its closing `%`.
    fn split(text: &'t str) -> Option<(Self, &'t str)> {
        let name_end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        let (name, mut rest) = text.split_at(name_end);
        if name.is_empty() {
            return None;
        }
        let mut parameter = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let (inside, after) = inner.split_once(')')?;
            parameter = Some(inside);
            rest = after;
        }
        let mut length = None;
        if let Some(inner) = rest.strip_prefix(':') {
            let end = inner.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
            length = Some(&inner[..end]);
            rest = &inner[end..];
        }
        Some((Self { name, parameter, length }, rest.strip_prefix('%')?))
    }

    fn command(&self) -> Result<Command, TemplateError> {
        match self.name {
            "REQ" | "REQUEST_HEADER" => {
                let (header, alternative) = self.header_names(HeaderRef::parse)?;
                Ok(Command::Request { header, alternative, max: self.max()? })
            }
            "RESP" | "RESPONSE_HEADER" => {
                let (header, alternative) = self.header_names(|name| name.parse().ok())?;
                Ok(Command::Response { header, alternative, max: self.max()? })
            }
            name => {
                let unknown = || TemplateError::UnknownOperator { name: name.to_owned() };
                let (_, fact) = FACTS.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
                if self.length.is_some() {
                    return Err(TemplateError::UnexpectedLength { name: name.to_owned() });
                }
                match (fact, self.parameter) {
                    (fact, None) => Ok(Command::Fact(*fact)),
                    (Fact::StartTime, Some("")) => Ok(Command::Fact(Fact::StartTime)),
                    (Fact::StartTime, Some("%s")) => Ok(Command::Fact(Fact::StartTimeSeconds)),
                    (Fact::StartTime, Some(format)) => Err(TemplateError::TimeFormat { format: format.to_owned() }),
                    (_, Some(_)) => Err(TemplateError::UnexpectedParameter { name: name.to_owned() }),
                }
            }
        }
    }

    fn header_names<N>(&self, parse: impl Fn(&str) -> Option<N>) -> Result<(N, Option<N>), TemplateError> {
        let parameter = self.parameter.unwrap_or_default();
        let bad = || TemplateError::BadHeaderName { operator: self.name.to_owned(), name: parameter.to_owned() };
        match parameter.split_once('?') {
            Some((main, alternative)) => Ok((parse(main).ok_or_else(bad)?, Some(parse(alternative).ok_or_else(bad)?))),
            None => Ok((parse(parameter).ok_or_else(bad)?, None)),
        }
    }

    fn max(&self) -> Result<Option<usize>, TemplateError> {
        let parse =
            |digits: &str| digits.parse::<u32>().map_err(|_| TemplateError::BadLength { name: self.name.to_owned() });
        Ok(self.length.map(parse).transpose()?.map(|max| max as usize))
    }
}

#[cfg(test)]
pub(super) mod test_context {
    use super::*;

    /// A request in which every fact has the same text.
    #[derive(Default)]
    pub(crate) struct Context {
        pub(crate) request: Headers,
        pub(crate) response: Option<Headers>,
        pub(crate) fact: &'static str,
    }

    impl FormatContext for Context {
        fn method(&self) -> &'static str {
            "GET"
        }
        fn scheme(&self) -> &'static str {
            "https"
        }
        fn authority(&self) -> &'static str {
            "shop.example:8443"
        }
        fn path_and_query(&self) -> &'static str {
            "/cart?item=1"
        }
        fn request_headers(&self) -> &Headers {
            &self.request
        }
        fn response_headers(&self) -> Option<&Headers> {
            self.response.as_ref()
        }
        fn append_fact(&self, _: Fact, out: &mut Vec<u8>) {
            out.extend_from_slice(self.fact.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test_context::Context;
    use super::*;

    #[test]
    fn formatters_become_text() {
        let mut request = Headers::new();
        request.append(HeaderName::from_static("x-user"), HeaderValue::from_static("jason"));
        request.append(HeaderName::from_static("x-user"), HeaderValue::from_static("bob"));
        request.append(HeaderName::from_static("x-empty"), HeaderValue::from_static(""));
        let mut response = Headers::new();
        response.append(HeaderName::from_static("x-r"), HeaderValue::from_static("answer"));
        let context = Context { request, response: Some(response), fact: "fact" };
        for (text, want) in [
            ("plain", "plain"),
            ("", ""),
            ("100%%", "100%"),
            ("%%REQ(x-user)%%", "%REQ(x-user)%"),
            ("%REQ(x-user)%", "jason"),
            ("%REQ(X-User):3%", "jas"),
            ("%REQ(X-User):0%", ""),
            ("%REQ(absent?x-user):2%", "ja"),
            // A header that is there, though empty, needs no alternative.
            ("%REQ(x-empty?x-user)%", ""),
            ("%REQ(absent)%", ""),
            (
                "%REQ(:path)% %REQ(:METHOD)% %REQ(:scheme)% %REQ(:authority)%",
                "/cart?item=1 GET https shop.example:8443",
            ),
            ("%REQ(host)%", "shop.example:8443"),
            ("%REQ(x-envoy-original-path?:path)%", "/cart?item=1"),
            ("%RESP(x-r)%/%RESP(none?x-r):1%/%RESP(none)%", "answer/a/"),
            ("a%PROTOCOL%b%START_TIME(%s)%c%START_TIME()%", "afactbfactcfact"),
            ("%STREAM_ID%", "fact"),
        ] {
            let template = ValueTemplate::parse(text).expect(text);
            let mut out = Vec::new();
            template.render(&context, &mut out);
            assert_eq!(String::from_utf8(out).as_deref(), Ok(want), "{text}");
            let is_static = !text.replace("%%", "").contains('%');
            assert_eq!(template.as_static().map(HeaderValue::as_bytes), is_static.then_some(want.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_formatter_is_refused_with_what_to_write() {
        for (text, want) in [
            ("50%", "the `%` at byte 2 begins no formatter; a percent sign of its own is written `%%`"),
            ("%", "the `%` at byte 0"),
            ("a % b", "the `%` at byte 2"),
            ("%%%", "the `%` at byte 2"),
            ("%req(x)%", "the `%` at byte 0"),
            ("%REQ(x%", "the `%` at byte 0"),
            ("%REQ(x):%", "the `%` at byte 0"),
            (
                "%NOPE%",
                "`%NOPE%` is no formatter that is known here; those are REQ(header), RESP(header), BYTES_RECEIVED",
            ),
            ("%DYNAMIC_METADATA(a:b)%", "`%DYNAMIC_METADATA%` is no formatter"),
            ("%PROTOCOL(x)%", "`%PROTOCOL%` takes no parameter in parentheses"),
            ("%PROTOCOL:3%", "`%PROTOCOL%` takes no length"),
            ("%REQ(x):99999999999%", "the length of `%REQ%`"),
            ("%START_TIME(%Y)%", "`%START_TIME(%Y)%` is not supported"),
            ("%REQ%", "`%REQ()%` must name a header"),
            ("%REQ(a b)%", "`%REQ(a b)%` must name a header"),
            ("%REQ(a?)%", "`%REQ(a?)%` must name a header"),
            ("%RESP(:path)%", "`%RESP(:path)%` must name a header"),
            ("a\nb", "the value has a control character at byte 1"),
        ] {
            let message = ValueTemplate::parse(text).expect_err(text).to_string();
            assert!(message.starts_with(want), "{text}: {message}");
        }
    }

    #[test]
    fn a_literal_keeps_its_percent_signs() {
        let template = ValueTemplate::literal("%REQ(x)%").expect("a legal value");
        assert_eq!(template.as_static(), Some(&HeaderValue::from_static("%REQ(x)%")));
        assert_eq!(ValueTemplate::literal("a\r\nb"), None);
    }
}
