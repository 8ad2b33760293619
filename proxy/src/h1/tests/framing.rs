//! What is accepted, and what it means.

use super::*;

#[tokio::test]
async fn heads_that_are_accepted() {
    for (input, seen) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /", &["host: a"], "")),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /", &["host: a"], "")),
        ("GET /x?y=%41 HTTP/1.1\r\nhOsT:\t a:80 \t\r\n\r\n", request("GET /x?y=%41", &["host: a:80"], "")),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", request("GET /", &["host: "], "")),
        ("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", request("GET /", &["host: a:x"], "")),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", request("OPTIONS *", &["host: a"], "")),
        ("GET http://b:1/p?q HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /p?q", &["host: b:1"], "")),
        ("GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /", &["host: b"], "")),
        ("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /?q", &["host: b"], "")),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /a", &["host: a"], "")),
        ("GET /a?b#c?d HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /a?b", &["host: a"], "")),
        (
            "GET /<`^|\"{}>?<`^|{}\"> HTTP/1.1\r\nHost: a\r\n\r\n",
            request("GET /%3C%60%5E%7C%22%7B%7D%3E?%3C`^|{}%22%3E", &["host: a"], ""),
        ),
        ("GET /\\..\\%zz% HTTP/1.1\r\nHost: a\r\n\r\n", request("GET /\\..\\%zz%", &["host: a"], "")),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: \x21\t\u{e9}\r\nx:\r\n\r\n",
            request("GET /", &["host: a", "x: !\\t\\xc3\\xa9", "x: "], ""),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            request("GET /", &["host: a", "content-length: 0"], ""),
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            request("POST /", &["host: a", "content-length: 3"], "abc"),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            request("GET /", &["host: a", "content-length: 3"], "abc"),
        ),
        (
            "PURGE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
            request("PURGE /", &["host: a", "transfer-encoding: Chunked"], "abc0123456789"),
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            request("PUT /", &["host: a", "transfer-encoding: chunked"], ""),
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\nx\r\n000;\r\n\r\n",
            request("PUT /", &["host: a", "transfer-encoding: chunked"], "x"),
        ),
    ] {
        let observed = talk(input.as_bytes()).await;
        assert_eq!(observed.seen, [seen], "{input:?}");
        assert!(observed.output.starts_with("HTTP/1.1 200 OK\n"), "{input:?}: {}", observed.output);
        assert!(matches!(observed.closed, Closed::ByClient), "{input:?}: {:?}", observed.closed);
    }
}

#[tokio::test]
async fn heads_that_are_refused() {
    use Violation as V;
    let host = "\r\nHost: a\r\n\r\n";
    let big = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(62_000));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(62_000));
    let endless = "GET /".to_owned() + &"x".repeat(100_000);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    let after = |head: &str| format!("{head}{host}");
    let with = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    for (input, violation) in [
        (after("GET / HTTP/1.0"), V::Http10),
        (after("GET / HTTP/1.2"), V::Version),
        (after("GET / HTTP/2.0"), V::Version),
        (after("GET / HTTP/1.1 "), V::RequestLine),
        (after("GET / http/1.1"), V::RequestLine),
        (after("GET / HTTP/1.10"), V::RequestLine),
        (after("GET /"), V::RequestLine),
        (after("GET"), V::RequestLine),
        (after("GET  / HTTP/1.1"), V::RequestLine),
        (after("GET /  HTTP/1.1"), V::RequestLine),
        (after("GET / x HTTP/1.1"), V::RequestLine),
        (after("GET\t/ HTTP/1.1"), V::RequestLine),
        (after(" GET / HTTP/1.1"), V::RequestLine),
        (after("\r\n\r\nGET / HTTP/1.1"), V::RequestLine),
        (after("\nGET / HTTP/1.1"), V::RequestLine),
        (after("\u{16}\u{3}\u{1}"), V::RequestLine),
        (after("FOO / HTTP/1.1"), V::Method),
        (after("get / HTTP/1.1"), V::Method),
        (after("QUERY / HTTP/1.1"), V::Method),
        (after("G\0T / HTTP/1.1"), V::Method),
        (after("CONNECT a:1 HTTP/1.1"), V::Connect),
        (after("GET a HTTP/1.1"), V::Target),
        (after("GET * HTTP/1.1"), V::Target),
        (after("GET ftp://a/ HTTP/1.1"), V::Target),
        (after("GET http:/// HTTP/1.1"), V::Target),
        (after("GET http://u@a/ HTTP/1.1"), V::Target),
        (after("GET http:a HTTP/1.1"), V::Target),
        (after("GET https://a/ HTTP/1.1"), V::SchemeMismatch),
        (after("GET /\u{1} HTTP/1.1"), V::Target),
        (after("GET /\t HTTP/1.1"), V::Target),
        (after("GET /?\u{7f} HTTP/1.1"), V::Target),
        (after("GET /\u{e9} HTTP/1.1"), V::Target),
        (after("GET /?\u{e9} HTTP/1.1"), V::Target),
        (after("GET /#\0 HTTP/1.1"), V::Target),
        (after("GET / HTTP/1.1\r\n x: y"), V::LineFolding),
        (with("X: y\r\n z"), V::LineFolding),
        (with("X: y\r\n\tz: a"), V::LineFolding),
        (with("X : y"), V::HeaderName),
        (with("X\t: y"), V::HeaderName),
        (with(": y"), V::HeaderName),
        (with("X"), V::HeaderName),
        (with("X(: y"), V::HeaderName),
        (with("X\0: y"), V::HeaderName),
        (with("\u{e9}: y"), V::HeaderName),
        (with("X: \0"), V::HeaderValue),
        (with("X: a\u{1}"), V::HeaderValue),
        (with("X: a\u{7f}"), V::HeaderValue),
        (with("X: a\rb: c"), V::HeaderValue),
        (with("X: a\r\r"), V::HeaderValue),
        (with("X: a\nb: c"), V::LineEnd),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), V::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), V::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), V::LineEnd),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), V::HostMissing),
        ("GET http://a/ HTTP/1.1\r\n\r\n".to_owned(), V::HostMissing),
        (with("Host: a"), V::HostConflict),
        (with("HOST: b"), V::HostConflict),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), V::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: a/\r\n\r\n".to_owned(), V::HostMalformed),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned(), V::HostMalformed),
        (many, V::TooManyHeaders),
        (big, V::HeadTooLarge),
        (long, V::HeadTooLarge),
        (endless, V::HeadTooLarge),
    ] {
        let shown = &input[..input.len().min(80)];
        let observed = talk(input.as_bytes()).await;
        assert_eq!(observed.seen, [Seen::Violation(violation)], "{shown:?}");
        let expected = format!("HTTP/1.1 {}\ndate: x\ncontent-length: 0\nconnection: close\n\n", violation.status());
        assert_eq!(observed.output, expected, "{shown:?}");
        assert!(matches!(observed.closed, Closed::Violation(_)), "{shown:?}: {:?}", observed.closed);
    }
}

#[tokio::test]
async fn statuses_of_violations() {
    for (violation, status) in [
        (Violation::Http10, 426),
        (Violation::HeadTooLarge, 431),
        (Violation::TooManyHeaders, 431),
        (Violation::HeaderTimeout, 408),
        (Violation::SchemeMismatch, 403),
        (Violation::Connect, 403),
        (Violation::HostMissing, 400),
        (Violation::ChunkSize, 400),
    ] {
        assert_eq!(violation.status(), status);
    }
}

#[tokio::test]
async fn an_https_target_is_welcome_over_tls() {
    let options = Options { tls: true, ..options() };
    let input = b"GET https://b/p HTTP/1.1\r\nHost: a\r\n\r\n";
    let observed = talk_with(&[input], &options).await;
    assert_eq!(observed.seen, [request("GET /p", &["host: b"], "")]);
}

#[tokio::test]
async fn exactly_a_hundred_headers() {
    let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99));
    let observed = talk(input.as_bytes()).await;
    assert!(matches!(&observed.seen[..], [Seen::Request { headers, .. }] if headers.len() == 100));
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(1100));
    let extensions = format!("{}0\r\n\r\n", format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(17));
    let long_trailer = format!("0\r\nx: {}\r\n\r\n", "x".repeat(9000));
    let many_trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(33));
    for (body, error) in [
        ("\r\n", Violation::ChunkSize),
        ("x\r\n", Violation::ChunkSize),
        ("-1\r\n", Violation::ChunkSize),
        ("+1\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("0x1\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        (" 1\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("1 \r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("1 ;a\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("1\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("1\r\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("1;a\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("1;a\rb\r\nx\r\n0\r\n\r\n", Violation::ChunkExtension),
        ("1;\0\r\nx\r\n0\r\n\r\n", Violation::ChunkExtension),
        ("00000000000000001\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        ("fffffffffffffffff\r\nx\r\n0\r\n\r\n", Violation::ChunkSize),
        (&long_extension, Violation::ChunkExtension),
        (&extensions, Violation::ChunkExtension),
        ("1\r\nxy\r\n0\r\n\r\n", Violation::ChunkEnd),
        ("1\r\nx\n0\r\n\r\n", Violation::ChunkEnd),
        ("1\r\nx0\r\n\r\n", Violation::ChunkEnd),
        ("0\r\nx\r\n\r\n", Violation::Trailers),
        ("0\r\nx : y\r\n\r\n", Violation::Trailers),
        ("0\r\n x: y\r\n\r\n", Violation::Trailers),
        ("0\r\nx: y\n\r\n", Violation::Trailers),
        ("0\r\nx: \0\r\n\r\n", Violation::Trailers),
        (&long_trailer, Violation::Trailers),
        (&many_trailers, Violation::Trailers),
    ] {
        let input = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let shown = &body[..body.len().min(40)];
        let observed = talk(input.as_bytes()).await;
        let [Seen::Request { body: Err(seen), .. }] = &observed.seen[..] else {
            panic!("{shown:?}: {:?}", observed.seen);
        };
        assert_eq!(*seen, BodyError::Violation(error).to_string(), "{shown:?}");
        assert_eq!(
            observed.output, "HTTP/1.1 400 Bad Request\ndate: x\ncontent-length: 0\nconnection: close\n\n",
            "{shown:?}"
        );
    }
}

#[tokio::test]
async fn a_body_that_breaks_off() {
    for input in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ] {
        let observed = talk(input.as_bytes()).await;
        let [Seen::Request { body: Err(seen), .. }] = &observed.seen[..] else { panic!("{:?}", observed.seen) };
        assert_eq!(*seen, BodyError::UnexpectedEof.to_string());
        assert!(observed.output.ends_with("connection: close\n\n"), "{}", observed.output);
    }
}

#[tokio::test]
async fn trailers_are_carried_if_they_may_be() {
    let observed = talk(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
          Grpc-Status: 0\r\nContent-Length: 9\r\nAuthorization: x\r\nHost: b\r\nX-Sum: 1\r\n\r\n",
    )
    .await;
    let [Seen::Request { trailers, body, .. }] = &observed.seen[..] else { panic!("{:?}", observed.seen) };
    assert_eq!(*trailers, ["grpc-status: 0", "x-sum: 1"]);
    assert_eq!(body.as_deref(), Ok("x"));
    assert!(matches!(observed.closed, Closed::ByClient));
}

/// The meaning of a byte stream does not depend on how it is cut into reads.
#[tokio::test]
async fn split_at_every_byte() {
    for input in [
        "\r\nGET /a?b#c HTTP/1.1\r\nHost: a\r\nX: \t y \r\n\r\nPOST http://b/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n\
         GET /d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let input = input.as_bytes();
        let whole = talk(input).await;
        for at in 1..input.len() {
            let split = talk_with(&[&input[..at], &input[at..]], &options()).await;
            assert_eq!((split.output, split.seen), (whole.output.clone(), whole.seen.clone()), "split at {at}");
        }
        let single: Vec<_> = input.chunks(1).collect();
        let split = talk_with(&single, &options()).await;
        assert_eq!((split.output, split.seen), (whole.output, whole.seen), "byte by byte");
    }
}
