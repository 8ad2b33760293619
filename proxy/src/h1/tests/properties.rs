//! What holds for any bytes.

use proptest::prelude::*;

use super::super::fields::Lines;
use super::super::{head, status};
use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

/// Pieces of messages, in any order, whole and damaged.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop_oneof![
            Just("GET / HTTP/1.1\r\n"), Just("POST /a?b HTTP/1.1\r\n"), Just("GET http://b/ HTTP/1.1\r\n"),
            Just("Host: a\r\n"), Just("Host: a\r\n\r\n"), Just("X: y\r\n"), Just("\r\n"), Just("\r\n\r\n"),
            Just("Content-Length: 3\r\n"), Just("Content-Length: 3\r\n\r\nabc"), Just("Transfer-Encoding: chunked\r\n"),
            Just("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), Just("Connection: close\r\n"),
            Just("Expect: 100-continue\r\n"), Just("0\r\n\r\n"), Just("3\r\nabc\r\n"), Just("1;x\r\ny\r\n"),
            Just("0\r\nX: y\r\n\r\n"), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 204 No Content\r\n\r\n"),
            Just("Upgrade: x\r\n"),
        ].prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => "[ -~\r\n]{0,8}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

/// Requests that a client may well send.
fn valid_request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("REPORT")];
    let target = "/[a-z%.;\\\\<>{}\"]{0,8}(\\?[a-z=&%<>\"]{0,8})?(#[a-z]{0,3})?";
    let fields = proptest::collection::vec(("[A-Za-z][A-Za-z_-]{0,12}", "[ -~\t]{0,16}"), 0..6);
    let body = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..4);
    (method, target, fields, body, any::<bool>()).prop_map(|(method, target, fields, chunks, chunked)| {
        let mut out = format!("{method} {target} HTTP/1.1\r\nHost: a.test:8080\r\n").into_bytes();
        for (name, value) in fields {
            out.extend_from_slice(format!("X{name}: {value}\r\n").as_bytes());
        }
        if chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in &chunks {
                out.extend_from_slice(format!("{:X};x=y\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\nX-Sum: 1\r\n\r\n");
        } else {
            let body = chunks.concat();
            out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            out.extend_from_slice(&body);
        }
        out
    })
}

/// The requests of `input` as a first connection understands them, and as a second one does that they are forwarded to.
async fn forwarded(input: &[u8]) -> (Vec<Seen>, Vec<Seen>) {
    let seen = RefCell::new(Vec::new());
    let beyond = RefCell::new(Vec::new());
    let (options, drain) = (options(), Drain::new());
    let (mut client, server) = duplex(1 << 20);
    let serving = serve(server, BytesMut::new(), &options, &drain, async |request| {
        let Ok(request) = request else { return response(StatusCode::BAD_REQUEST, Full::<Bytes>::default()) };
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return response(StatusCode::BAD_REQUEST, Full::default()) };
        let (sender, replay) = channel();
        let trailers = body.trailers().cloned();
        let bytes = body.to_bytes();
        let text = bytes.escape_ascii().to_string();
        sender.send(Ok(Frame::data(bytes))).expect("the receiver is there");
        let carried = trailers.as_ref().map(fields).unwrap_or_default();
        if let Some(trailers) = trailers {
            sender.send(Ok(Frame::trailers(trailers))).expect("the receiver is there");
        }
        drop(sender);
        seen.borrow_mut().push(normal(Seen::Request {
            line: format!("{} {}", head.method, head.uri),
            headers: fields(&head.headers),
            body: Ok(text),
            trailers: carried,
        }));
        let (near, far) = duplex(1 << 20);
        let behind = serve(far, BytesMut::new(), &options, &drain, async |request| {
            let (status, body) = record(request, &beyond).await;
            response(status, Full::new(body))
        });
        let sending = async {
            let sent = Connection::new(near, ClientOptions::default()).send(&head, replay, |_| ()).await;
            sent.expect("the origin answers")
                .into_body()
                .collect()
                .await
                .expect("the origin answers in full")
                .to_bytes()
        };
        let (_, body) = tokio::join!(behind, sending);
        response(StatusCode::OK, Full::new(body))
    });
    let talking = async move {
        let _ = client.write_all(input).await;
        // A client that goes away cancels what it asked for: leave time for that to be done.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(serving, talking);
    (seen.into_inner(), beyond.into_inner().into_iter().map(normal).collect())
}

/// Without what a forwarding codec says for itself.
fn normal(seen: Seen) -> Seen {
    let Seen::Request { line, mut headers, body, trailers } = seen else { return seen };
    let own =
        ["content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade", "expect"];
    headers.retain(|field| !own.iter().any(|name| field.starts_with(&format!("{name}: "))));
    headers.sort();
    Seen::Request { line, headers, body, trailers }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// No panic, and no more memory than was given.
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop_oneof![message(), proptest::collection::vec(any::<u8>(), 0..200)]) {
        let mut buffer = BytesMut::from(&bytes[..]);
        if let Ok(Some(head)) = head::take(&mut buffer, &mut Lines::default(), &Options::default()) {
            prop_assert!(head.parts.headers.contains_key("host"));
            prop_assert!(buffer.len() < bytes.len());
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        let _ = status::take(&mut buffer, &mut Lines::default(), &ClientOptions::default(), &http::Method::GET);
    }

    /// Whatever a client sends, the server answers or closes, and its output is well-formed.
    #[test]
    fn any_bytes_are_served(bytes in message()) {
        let observed = run(talk(&bytes));
        let answers = observed.output.matches("HTTP/1.1 ").count();
        prop_assert!(answers >= observed.seen.len() || matches!(observed.closed, Closed::ClientGone), "{observed:?}");
    }

    /// How the bytes are cut changes nothing.
    #[test]
    fn any_bytes_mean_the_same_in_two_pieces(bytes in message(), at in any::<prop::sample::Index>()) {
        let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
        let (whole, split) = (run(talk(&bytes)), run(talk_with(&[first, second], &options())));
        prop_assert_eq!((whole.seen, whole.output), (split.seen, split.output));
    }

    /// An origin behind this codec sees the very request that was routed: no other line, header or body.
    #[test]
    fn what_is_forwarded_is_what_was_understood(bytes in prop_oneof![message(), valid_request()]) {
        let (seen, beyond) = run(forwarded(&bytes));
        prop_assert_eq!(seen, beyond);
    }

    #[test]
    fn valid_requests_are_accepted(bytes in valid_request()) {
        let (seen, _) = run(forwarded(&bytes));
        prop_assert_eq!(seen.len(), 1);
    }

    /// Whatever an origin sends, the client gets a response or an error.
    #[test]
    fn any_answer_is_a_response_or_an_error(bytes in message(), known in any::<bool>()) {
        run(async {
            let (mut origin, client) = duplex(1 << 20);
            let start: &[u8] = if known { b"HTTP/1.1 200 OK\r\n" } else { b"" };
            origin.write_all(&[start, &bytes].concat()).await.expect("a duplex does not fail");
            origin.shutdown().await.expect("a duplex does not fail");
            let (head, ()) = Request::builder().header("host", "a").body(()).expect("a valid request").into_parts();
            let body = Full::<Bytes>::default();
            if let Ok(response) = Connection::new(client, ClientOptions::default()).send(&head.into(), body, |_| ()).await {
                let _ = response.into_body().collect().await;
            }
        });
    }
}
