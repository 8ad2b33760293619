//! The known ways to attack a proxy through HTTP/1, each with the rule that stops it.

use super::*;

/// The head's answer must be 400 and close, and what follows must not become a request.
async fn refuses(head: &str, body: &str, violation: Violation) {
    let input = format!("{head}\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let observed = talk(input.as_bytes()).await;
    assert_eq!(observed.seen, [Seen::Violation(violation)], "{head:?}");
    let start = format!("HTTP/1.1 {}\n", violation.status());
    assert!(observed.output.starts_with(&start) && observed.output.ends_with("connection: close\n\n"), "{head:?}");
}

#[tokio::test]
async fn content_length_beside_transfer_encoding() {
    for head in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0",
    ] {
        refuses(head, "0\r\n\r\n", Violation::LengthAndEncoding).await;
    }
}

#[tokio::test]
async fn ambiguous_content_lengths() {
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 ;x",
        "Content-Length: 0x5",
        "Content-Length: 5.0",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length: \u{665}",
    ] {
        refuses(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}"), "", Violation::ContentLength).await;
    }
}

#[tokio::test]
async fn transfer_encodings_that_are_not_exactly_chunked() {
    for encodings in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
    ] {
        refuses(&format!("POST / HTTP/1.1\r\nHost: a\r\n{encodings}"), "", Violation::TransferEncoding).await;
    }
    for encodings in ["Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked"] {
        refuses(&format!("POST / HTTP/1.1\r\nHost: a\r\n{encodings}"), "", Violation::HeaderName).await;
    }
    refuses("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked", "", Violation::HeaderValue).await;
    refuses("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked", "", Violation::LineFolding).await;
}

#[tokio::test]
async fn transfer_encoding_on_http_1_0() {
    refuses("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", "0\r\n\r\n", Violation::Http10).await;
}

#[tokio::test]
async fn chunk_size_overflow() {
    let observed = talk(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nabcde\r\n0\r\n\r\n",
    )
    .await;
    assert!(matches!(&observed.seen[..], [Seen::Request { body: Err(_), .. }]), "{:?}", observed.seen);
}

#[tokio::test]
async fn duplicate_and_conflicting_hosts() {
    refuses("GET / HTTP/1.1\r\nHost: a\r\nHost: b", "", Violation::HostConflict).await;
    refuses("GET / HTTP/1.1\r\nHost: a\r\nhost: a", "", Violation::HostConflict).await;
    refuses("GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b", "", Violation::HostConflict).await;
    refuses("GET / HTTP/1.1\r\nX: y", "", Violation::HostMissing).await;
    // One authority is left: the target's.
    let observed = talk(b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(observed.seen, [request("GET /", &["host: b"], "")]);
}

#[tokio::test]
async fn nul_and_control_bytes() {
    for byte in (0..=31).chain([127]).filter(|byte| ![b'\t', b'\r', b'\n'].contains(byte)) {
        let byte = byte as char;
        refuses(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: a{byte}b"), "", Violation::HeaderValue).await;
        refuses(&format!("GET / HTTP/1.1\r\nHost: a\r\nX{byte}: a"), "", Violation::HeaderName).await;
        refuses(&format!("GET /a{byte}b HTTP/1.1\r\nHost: a"), "", Violation::Target).await;
    }
}

#[tokio::test]
async fn leftovers_of_an_unread_body() {
    // The service answers without reading: the body is discarded, not taken for a request.
    for (body, requests) in [
        ("Content-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 2),
        (
            "Transfer-Encoding: chunked\r\n\r\n23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n".to_owned(),
            2,
        ),
        // More than is worth discarding: the connection ends.
        (format!("Content-Length: 200000\r\n\r\n{}", "x".repeat(200_000)), 1),
        (format!("Transfer-Encoding: chunked\r\n\r\n30d40\r\n{}\r\n0\r\n\r\n", "x".repeat(200_000)), 1),
        ("Transfer-Encoding: chunked\r\n\r\nnonsense\r\n".to_owned(), 1),
    ] {
        let (mut client, server) = duplex(1 << 20);
        let lines = RefCell::new(Vec::new());
        let (options, drain) = (options(), Drain::new());
        let serving = serve(server, BytesMut::new(), &options, &drain, async |request| {
            lines.borrow_mut().push(request.map(|request| request.head.uri.to_string()));
            response(StatusCode::OK, Full::<Bytes>::default())
        });
        let talking = async {
            client.write_all(format!("POST /first HTTP/1.1\r\nHost: a\r\n{body}").as_bytes()).await.unwrap();
            let _ = client.write_all(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.shutdown().await.unwrap();
            let mut output = String::new();
            client.read_to_string(&mut output).await.unwrap();
        };
        tokio::join!(serving, talking);
        let expected: Vec<_> = ["/first", "/second"].into_iter().take(requests).map(|uri| Ok(uri.to_owned())).collect();
        assert_eq!(lines.into_inner(), expected, "{}", &body[..40]);
    }
}

#[tokio::test]
async fn no_tunnel_before_101() {
    // An upgrade that the origin does not grant stays HTTP: what follows is parsed as such.
    let observed = talk(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\
          GET /next HTTP/1.1\r\nHost: a\r\n\r\n\x01\x02",
    )
    .await;
    assert_eq!(observed.seen.len(), 3);
    assert_eq!(observed.seen[1], request("GET /next", &["host: a"], ""));
    assert_eq!(observed.seen[2], Seen::Violation(Violation::RequestLine));
}

#[tokio::test]
async fn slow_heads() {
    let options = Options { header_timeout: std::time::Duration::from_millis(30), ..options() };
    let (mut client, server) = duplex(1024);
    let drain = Drain::new();
    let seen = RefCell::new(Vec::new());
    let serving = serve(server, BytesMut::new(), &options, &drain, async |request| {
        let (status, body) = record(request, &seen).await;
        response(status, Full::new(body))
    });
    let talking = async {
        // Progress does not extend the time.
        let mut output = Vec::new();
        for byte in "GET / HTTP/1.1\r\nHost: a\r\n".bytes().chain(std::iter::repeat(b'x')) {
            let _ = client.write_all(&[byte]).await;
            let tick = std::time::Duration::from_millis(1);
            if let Ok(Ok(_)) = tokio::time::timeout(tick, client.read_buf(&mut output)).await {
                break;
            }
        }
        drop(client);
        String::from_utf8(output).unwrap()
    };
    let (_, output) = tokio::join!(serving, talking);
    assert!(output.starts_with("HTTP/1.1 408 "), "{output}");
    assert_eq!(*seen.borrow(), [Seen::Violation(Violation::HeaderTimeout)]);
}

#[tokio::test]
async fn slow_bodies_and_slow_readers() {
    let millis = std::time::Duration::from_millis;
    let options = Options { body_timeout: Some(millis(20)), write_timeout: millis(20), ..options() };
    let (mut client, server) = duplex(64);
    let drain = Drain::new();
    let seen = RefCell::new(Vec::new());
    let serving = serve(server, BytesMut::new(), &options, &drain, async |request| {
        record(request, &seen).await;
        response(StatusCode::OK, Full::new(Bytes::from(vec![b'x'; 10_000])))
    });
    let talking = async {
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").await.unwrap();
        // Then neither writes nor reads.
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! { outcome = serving => outcome, () = talking => unreachable!() };
    assert!(
        matches!(&seen.borrow()[..], [Seen::Request { body: Err(error), .. }] if *error == BodyError::Timeout.to_string())
    );
    assert!(matches!(outcome, Outcome::Closed(Closed::WriteTimeout)), "{outcome:?}");
}
