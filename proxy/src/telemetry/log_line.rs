//! The access log's lines: Istio's default text format, and the same fields as JSON.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::header::{HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};
use route_model::request::admission::{X_FORWARDED_FOR, X_REQUEST_ID};
use route_model::request::headers::Headers;

use super::flags::ResponseFlags;
use crate::http::facts::{ConnectionFacts, append_address, append_time, protocol_name};

/// What a log line keeps of a request's head, which itself is gone by the time the line is written. Taken after the
/// headers were judged ([`Peer::admit`](route_model::request::admission::Peer::admit)) and before anything is rewritten.
#[derive(Clone, Debug)]
pub struct LogHead {
    pub start: SystemTime,
    /// `None`: there is no HTTP.
    pub version: Option<Version>,
    /// `None`: the head could not be read.
    pub method: Option<Method>,
    pub path: Option<PathAndQuery>,
    /// Host or `:authority`.
    pub authority: Option<HeaderValue>,
    pub forwarded_for: Option<HeaderValue>,
    pub user_agent: Option<HeaderValue>,
    pub request_id: Option<HeaderValue>,
}

impl LogHead {
    pub fn new(
        start: SystemTime,
        version: Version,
        method: Method,
        path: Option<PathAndQuery>,
        authority: Option<HeaderValue>,
        headers: &Headers,
    ) -> Self {
        let header = |name| headers.get(name).cloned();
        Self {
            start,
            version: Some(version),
            method: Some(method),
            path,
            authority,
            forwarded_for: header(X_FORWARDED_FOR),
            user_agent: header(USER_AGENT),
            request_id: header(X_REQUEST_ID),
        }
    }

    /// A request whose head could not be read: the protocol was broken, or the client went away.
    pub fn unread(start: SystemTime, version: Version) -> Self {
        Self { version: Some(version), ..Self::connection(start) }
    }

    /// A connection that is not HTTP.
    pub fn connection(start: SystemTime) -> Self {
        Self {
            start,
            version: None,
            method: None,
            path: None,
            authority: None,
            forwarded_for: None,
            user_agent: None,
            request_id: None,
        }
    }
}

/// A finished request, as the log sees it. What is `None` shows as `-`, in JSON as `null`.
#[derive(Clone, Copy, Debug)]
pub struct LogEntry<'a> {
    pub head: &'a LogHead,
    pub connection: &'a ConnectionFacts,
    /// The client as far as it can be trusted; port 0 if it is known from X-Forwarded-For only.
    pub client: SocketAddr,
    /// `None`: the client went away before there was one (0 in the log).
    pub status: Option<StatusCode>,
    pub flags: ResponseFlags,
    /// Why the response is what it is, in Envoy's words: `via_upstream`, `route_not_found` …
    pub details: Option<&'a str>,
    /// Why the connection to the client was ended.
    pub termination: Option<&'a str>,
    /// Why an upstream could not be reached.
    pub transport_failure: Option<&'a str>,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    pub duration: Duration,
    /// From the end of the request to the head of the upstream's response.
    pub upstream_service_time: Option<Duration>,
    pub upstream_host: Option<&'a str>,
    pub upstream_cluster: Option<&'a str>,
    pub upstream_local: Option<SocketAddr>,
    /// Empty for a route without a name.
    pub route_name: &'a str,
    /// `grpc-status`; `None` for a request that is not gRPC, or ended without one.
    pub grpc_status: Option<u8>,
}

impl LogEntry<'_> {
    fn server_name(&self) -> Option<&str> {
        self.connection.tls.as_ref()?.server_name.as_deref()
    }

    fn route(&self) -> Option<&str> {
        (!self.route_name.is_empty()).then_some(self.route_name)
    }

    /// Appends Istio's default text line, with its line feed; that of a gRPC request ends with its status beside, as
    /// its HTTP status says nothing (`grpc_status:14`). Control bytes, quotes and backslashes that came from
    /// outside are written as `\xHH`, so that nobody can forge a line or a field.
    pub fn append_text(&self, out: &mut Vec<u8>) {
        let head = self.head;
        out.push(b'[');
        append_time(head.start, out);
        out.extend_from_slice(b"] \"");
        text(head.method.as_ref().map(|method| method.as_str().as_bytes()), out);
        out.push(b' ');
        text(head.path.as_ref().map(|path| path.as_str().as_bytes()), out);
        out.push(b' ');
        text(head.version.map(|version| protocol_name(version).as_bytes()), out);
        out.extend_from_slice(b"\" ");
        number(self.status.map_or(0, |status| status.as_u16().into()), out);
        out.push(b' ');
        self.flags.append_to(out);
        for value in [self.details, self.termination] {
            out.push(b' ');
            text(value.map(str::as_bytes), out);
        }
        out.push(b' ');
        quoted(self.transport_failure.map(str::as_bytes), out);
        for value in [self.bytes_received, self.bytes_sent, millis(self.duration)] {
            out.push(b' ');
            number(value, out);
        }
        out.push(b' ');
        match self.upstream_service_time {
            Some(time) => number(millis(time), out),
            None => out.push(b'-'),
        }
        for value in [&head.forwarded_for, &head.user_agent, &head.request_id, &head.authority] {
            out.push(b' ');
            quoted(bytes(value.as_ref()), out);
        }
        out.push(b' ');
        quoted(self.upstream_host.map(str::as_bytes), out);
        out.push(b' ');
        text(self.upstream_cluster.map(str::as_bytes), out);
        out.push(b' ');
        match self.upstream_local {
            Some(address) => append_address(address, out),
            None => out.push(b'-'),
        }
        for address in [self.connection.local, self.client] {
            out.push(b' ');
            append_address(address, out);
        }
        for value in [self.server_name(), self.route()] {
            out.push(b' ');
            text(value.map(str::as_bytes), out);
        }
        if let Some(status) = self.grpc_status {
            out.extend_from_slice(b" grpc_status:");
            number(status.into(), out);
        }
        out.push(b'\n');
    }

    /// Appends the line as one JSON object, with its line feed.
    pub fn append_json(&self, out: &mut Vec<u8>) {
        let head = self.head;
        out.extend_from_slice(b"{\"start_time\":\"");
        append_time(head.start, out);
        out.push(b'"');
        json_text("method", head.method.as_ref().map(|method| method.as_str().as_bytes()), out);
        json_text("path", head.path.as_ref().map(|path| path.as_str().as_bytes()), out);
        json_text("protocol", head.version.map(|version| protocol_name(version).as_bytes()), out);
        json_number("response_code", Some(self.status.map_or(0, |status| status.as_u16().into())), out);
        json_key("response_flags", out);
        out.push(b'"');
        self.flags.append_to(out);
        out.push(b'"');
        json_text("response_code_details", self.details.map(str::as_bytes), out);
        json_text("connection_termination_details", self.termination.map(str::as_bytes), out);
        json_text("upstream_transport_failure_reason", self.transport_failure.map(str::as_bytes), out);
        json_number("bytes_received", Some(self.bytes_received), out);
        json_number("bytes_sent", Some(self.bytes_sent), out);
        json_number("duration", Some(millis(self.duration)), out);
        json_number("upstream_service_time", self.upstream_service_time.map(millis), out);
        json_text("x_forwarded_for", bytes(head.forwarded_for.as_ref()), out);
        json_text("user_agent", bytes(head.user_agent.as_ref()), out);
        json_text("request_id", bytes(head.request_id.as_ref()), out);
        json_text("authority", bytes(head.authority.as_ref()), out);
        json_text("upstream_host", self.upstream_host.map(str::as_bytes), out);
        json_text("upstream_cluster", self.upstream_cluster.map(str::as_bytes), out);
        json_address("upstream_local_address", self.upstream_local, out);
        json_address("downstream_local_address", Some(self.connection.local), out);
        json_address("downstream_remote_address", Some(self.client), out);
        json_text("requested_server_name", self.server_name().map(str::as_bytes), out);
        json_text("route_name", self.route().map(str::as_bytes), out);
        json_number("grpc_status", self.grpc_status.map(u64::from), out);
        out.extend_from_slice(b"}\n");
    }
}

fn bytes(value: Option<&HeaderValue>) -> Option<&[u8]> {
    value.map(HeaderValue::as_bytes)
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn number(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn quoted(value: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(b'"');
    text(value, out);
    out.push(b'"');
}

fn text(value: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        out.push(b'-');
        return;
    };
    for byte in value {
        match byte {
            b'"' | b'\\' | 0x7f | 0..=0x1f => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\x");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0x0f)]);
            }
            _ => out.push(*byte),
        }
    }
}

/// All keys but the first, which opens the object.
fn json_key(key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn json_text(key: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    json_key(key, out);
    match value {
        // Writing to a Vec cannot fail, and a string is always valid JSON.
        Some(value) => drop(serde_json::to_writer(&mut *out, &String::from_utf8_lossy(value))),
        None => out.extend_from_slice(b"null"),
    }
}

fn json_number(key: &str, value: Option<u64>, out: &mut Vec<u8>) {
    json_key(key, out);
    match value {
        Some(value) => number(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn json_address(key: &str, value: Option<SocketAddr>, out: &mut Vec<u8>) {
    json_key(key, out);
    match value {
        Some(address) => {
            out.push(b'"');
            append_address(address, out);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::facts::TlsFacts;

    fn connection() -> ConnectionFacts {
        ConnectionFacts {
            peer: "192.0.2.9:5000".parse().unwrap(),
            local: "127.0.0.1:8443".parse().unwrap(),
            tls: Some(Box::new(TlsFacts { server_name: Some("shop.example".into()), ..TlsFacts::default() })),
        }
    }

    fn head(user_agent: &[u8]) -> LogHead {
        let mut headers = Headers::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("192.0.2.9"));
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("abc"));
        headers.insert(USER_AGENT, HeaderValue::from_bytes(user_agent).unwrap());
        LogHead::new(
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_045),
            Version::HTTP_11,
            Method::GET,
            Some(PathAndQuery::from_static("/a?b=c")),
            Some(HeaderValue::from_static("shop.example")),
            &headers,
        )
    }

    fn entry<'a>(head: &'a LogHead, connection: &'a ConnectionFacts) -> LogEntry<'a> {
        LogEntry {
            head,
            connection,
            client: connection.peer,
            status: Some(StatusCode::OK),
            flags: ResponseFlags::NONE,
            details: Some("via_upstream"),
            termination: None,
            transport_failure: None,
            bytes_received: 0,
            bytes_sent: 178,
            duration: Duration::from_micros(5999),
            upstream_service_time: Some(Duration::from_millis(4)),
            upstream_host: Some("10.0.0.7:9080"),
            upstream_cluster: Some("outbound|9080||reviews"),
            upstream_local: Some("10.0.0.1:4000".parse().unwrap()),
            route_name: "",
            grpc_status: None,
        }
    }

    fn line(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_istios_default_line() {
        let (head, connection) = (head(b"curl/8"), connection());
        assert_eq!(
            line(|out| entry(&head, &connection).append_text(out)),
            "[2023-11-14T22:13:20.045Z] \"GET /a?b=c HTTP/1.1\" 200 - via_upstream - \"-\" 0 178 5 4 \"192.0.2.9\" \
             \"curl/8\" \"abc\" \"shop.example\" \"10.0.0.7:9080\" outbound|9080||reviews 10.0.0.1:4000 \
             127.0.0.1:8443 192.0.2.9:5000 shop.example -\n"
        );
    }

    #[test]
    fn a_grpc_request_shows_its_status() {
        let (head, connection) = (head(b"grpc"), connection());
        let entry = LogEntry { grpc_status: Some(14), ..entry(&head, &connection) };
        assert!(line(|out| entry.append_text(out)).ends_with(" shop.example - grpc_status:14\n"));
        assert!(line(|out| entry.append_json(out)).ends_with(",\"grpc_status\":14}\n"));
    }

    #[test]
    fn json_has_the_same_fields_in_the_same_order() {
        let (head, connection) = (head(b"curl/8"), connection());
        let line = line(|out| entry(&head, &connection).append_json(out));
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(
            keys.join(" "),
            "start_time method path protocol response_code response_flags response_code_details \
             connection_termination_details upstream_transport_failure_reason bytes_received bytes_sent duration \
             upstream_service_time x_forwarded_for user_agent request_id authority upstream_host upstream_cluster \
             upstream_local_address downstream_local_address downstream_remote_address requested_server_name route_name \
             grpc_status"
        );
        assert_eq!(object["response_code"], 200);
        assert_eq!(object["duration"], 5);
        assert_eq!(object["route_name"], serde_json::Value::Null);
        assert_eq!(object["downstream_remote_address"], "192.0.2.9:5000");
        assert!(line.ends_with("}\n"));
    }

    #[test]
    fn nobody_can_forge_a_line_or_a_field() {
        let (head, connection) = (head(b"a\" 500 \\ \t\xff"), connection());
        let mut out = Vec::new();
        entry(&head, &connection).append_text(&mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains(r#""a\x22 500 \x5c \x09"#), "{text}");
        assert_eq!(memchr::memchr_iter(b'\n', &out).count(), 1);
        let line = line(|out| entry(&head, &connection).append_json(out));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["user_agent"], "a\" 500 \\ \t\u{fffd}");
    }

    #[test]
    fn an_unreadable_head_still_makes_a_whole_line() {
        let connection = connection();
        let head = LogHead::unread(SystemTime::UNIX_EPOCH, Version::HTTP_11);
        let entry =
            LogEntry { flags: ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, status: None, ..entry(&head, &connection) };
        let text = line(|out| entry.append_text(out));
        assert!(text.starts_with("[1970-01-01T00:00:00.000Z] \"- - HTTP/1.1\" 0 DPE "), "{text}");
    }
}
