//! The upstream side: what goes out, what comes back, and what becomes of the connection.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Empty;

use super::*;
use crate::http::message::RequestParts;

type Pool = Rc<RefCell<Option<Connection<DuplexStream>>>>;

fn into(pool: &Pool) -> impl Reclaim<DuplexStream> + Unpin + use<> {
    let pool = pool.clone();
    move |connection| *pool.borrow_mut() = Some(connection)
}

fn connect(io: DuplexStream) -> Connection<DuplexStream> {
    Connection::new(io, ClientOptions::default())
}

fn head(method: &str, uri: &str, headers: &[(&'static str, &'static str)]) -> RequestParts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0.into()
}

/// What the origin's `answer` amounts to: status, headers and body, and whether the connection can be used again.
async fn receive(method: &str, answer: &[u8], close: bool) -> (Result<String, String>, bool) {
    let (mut origin, client) = duplex(1 << 20);
    let pool = Pool::default();
    let head = head(method, "/", &[("host", "a")]);
    let receiving = async {
        let response =
            connect(client).send(&head, Empty::<Bytes>::new(), into(&pool)).await.map_err(|e| e.to_string())?;
        let (head, body) = response.into_parts();
        let text = format!("{} {:?}", head.status.as_u16(), fields(&head.headers));
        let body = body.collect().await.map_err(|error| format!("{text} {error}"))?;
        let trailers = body.trailers().map(fields);
        let body = body.to_bytes().escape_ascii().to_string();
        Ok(format!("{text} {body}{}", trailers.map_or(String::new(), |trailers| format!(" {trailers:?}"))))
    };
    let answering = async {
        read_until(&mut origin, "\r\n\r\n").await;
        origin.write_all(answer).await.unwrap();
        if close {
            origin.shutdown().await.unwrap();
        }
        origin
    };
    let (received, _origin) = tokio::join!(receiving, answering);
    let reusable = pool.take().is_some_and(|mut connection| connection.is_quiet());
    (received, reusable)
}

#[tokio::test]
async fn responses_that_are_accepted() {
    for (method, answer, expected, reusable) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 [\"content-length: 3\"] abc", true),
        ("GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "200 [\"content-length: 0\"] ", true),
        ("GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "200 [\"content-length: 0\"] ", true),
        ("GET", "HTTP/1.1 204 No\r\n\r\n", "204 [] ", true),
        ("GET", "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", "304 [\"content-length: 9\"] ", true),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "200 [\"content-length: 9\"] ", true),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "200 [\"transfer-encoding: chunked\"] ",
            true,
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", "200 [] ", true),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nX: y\r\n\r\n",
            "200 [\"transfer-encoding: chunked\"] abcde [\"x: y\"]",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "200 [\"content-length: 0\"] ",
            true,
        ),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "200 [\"content-length: 1\"] x", false),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: Keep-Alive\r\n\r\nx",
            "200 [\"content-length: 1\"] x",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, close\r\n\r\nx",
            "200 [\"content-length: 1\", \"connection: x, close\"] x",
            false,
        ),
        // More than was announced: the rest is not the next response.
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n",
            "200 [\"content-length: 1\"] x",
            false,
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "200 [\"content-length: 1\"] ", false),
        ("GET", "HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\nx", "204 [\"content-length: 1\"] ", false),
    ] {
        let received = receive(method, answer.as_bytes(), false).await;
        assert_eq!(received, (Ok(expected.to_owned()), reusable), "{answer:?}");
    }
    let received = receive("GET", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", true).await;
    assert_eq!(received, (Ok("200 [] until the end".to_owned()), false));
}

#[tokio::test]
async fn responses_that_are_refused() {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let conflict = ProtocolError::Head(Violation::LengthAndEncoding);
    for (answer, error) in [
        ("HTTP/2.0 200 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.2 200 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1 600 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1  200 OK\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1 200 \0\r\n\r\n".to_owned(), ProtocolError::StatusLine),
        ("<html>".to_owned(), ProtocolError::StatusLine),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(), ProtocolError::UnaskedUpgrade),
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(17), ProtocolError::InterimResponses),
        (head("Content-Length: 1\r\nTransfer-Encoding: chunked"), conflict),
        (head("Content-Length: 1\r\nContent-Length: 1"), ProtocolError::Head(Violation::ContentLength)),
        (head("Content-Length: 1, 1"), ProtocolError::Head(Violation::ContentLength)),
        (head("Transfer-Encoding: gzip, chunked"), ProtocolError::Head(Violation::TransferEncoding)),
        (head("X : y"), ProtocolError::Head(Violation::HeaderName)),
        (head("X: y\r\n z"), ProtocolError::Head(Violation::LineFolding)),
        (head("X: \0"), ProtocolError::Head(Violation::HeaderValue)),
        (head("X: y\nZ: a"), ProtocolError::Head(Violation::LineEnd)),
        (head(&format!("X: {}", "x".repeat(70_000))), ProtocolError::HeadTooLarge),
        (head(&"X: y\r\n".repeat(101)), ProtocolError::Head(Violation::TooManyHeaders)),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), ProtocolError::ChunkedHttp10),
    ] {
        let (received, reusable) = receive("GET", answer.as_bytes(), false).await;
        let expected = SendErrorKind::Protocol(error).to_string();
        assert_eq!((received, reusable), (Err(expected), false), "{:?}", &answer[..answer.len().min(60)]);
    }
}

#[tokio::test]
async fn bodies_that_break_off() {
    for (answer, error) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", BodyError::UnexpectedEof),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", BodyError::UnexpectedEof),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx", BodyError::Violation(Violation::ChunkSize)),
    ] {
        let (received, reusable) = receive("GET", answer.as_bytes(), true).await;
        let received = received.unwrap_err();
        assert!(received.ends_with(&error.to_string()) && !reusable, "{answer:?}: {received}");
    }
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let (received, _) = receive("GET", answer.as_bytes(), true).await;
        assert_eq!(received, Err(SendErrorKind::Closed.to_string()));
    }
}

#[tokio::test]
async fn split_at_every_byte() {
    let answer: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n\
                          3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n";
    let expected = (Ok("200 [\"transfer-encoding: chunked\", \"x: y\"] abcd [\"x-sum: 1\"]".to_owned()), true);
    assert_eq!(receive("GET", answer, false).await, expected);
    for at in 1..answer.len() {
        let (mut origin, client) = duplex(1 << 20);
        let pool = Pool::default();
        let head = head("GET", "/", &[("host", "a")]);
        let receiving = async {
            let response = connect(client).send(&head, Empty::<Bytes>::new(), into(&pool)).await.unwrap();
            response.into_body().collect().await.unwrap()
        };
        let answering = async {
            origin.write_all(&answer[..at]).await.unwrap();
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            origin.write_all(&answer[at..]).await.unwrap();
        };
        let (body, ()) = tokio::join!(receiving, answering);
        assert_eq!(body.trailers().map(fields), Some(vec!["x-sum: 1".to_owned()]), "split at {at}");
        assert_eq!(body.to_bytes(), "abcd", "split at {at}");
        assert!(pool.borrow().is_some(), "split at {at}");
    }
}

#[tokio::test]
async fn heads_of_requests() {
    let expect = |head: RequestParts, body: &'static str, expected: &'static str| async move {
        let (mut origin, client) = duplex(1 << 20);
        let body = Full::new(Bytes::from_static(body.as_bytes()));
        let sending = connect(client).send(&head, body, |_| ());
        let reading = async {
            let sent = read_until(&mut origin, &format!("\r\n\r\n{}", expected.rsplit('\n').next().unwrap())).await;
            assert_eq!(sent.replace("\r\n", "\n"), expected);
            origin.write_all(b"HTTP/1.1 204 x\r\n\r\n").await.unwrap();
        };
        let (sent, ()) = tokio::join!(sending, reading);
        sent.unwrap();
    };
    expect(head("GET", "/a?b", &[("x", "y"), ("host", "a:1")]), "", "GET /a?b HTTP/1.1\nhost: a:1\nx: y\n\n").await;
    expect(head("GET", "https://b/a", &[]), "", "GET /a HTTP/1.1\nhost: b\n\n").await;
    expect(head("OPTIONS", "*", &[("host", "")]), "", "OPTIONS * HTTP/1.1\nhost: \n\n").await;
    expect(head("POST", "/", &[("host", "a")]), "", "POST / HTTP/1.1\nhost: a\ncontent-length: 0\n\n").await;
    expect(head("POST", "/", &[("host", "a")]), "abc", "POST / HTTP/1.1\nhost: a\ncontent-length: 3\n\nabc").await;
    // Framing is the codec's own.
    let framed = [("host", "a"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("connection", "x, close")];
    expect(head("PUT", "/", &framed), "abc", "PUT / HTTP/1.1\nhost: a\ncontent-length: 3\n\nabc").await;
    let upgrade = [("host", "a"), ("upgrade", "websocket")];
    expect(head("GET", "/", &upgrade), "", "GET / HTTP/1.1\nhost: a\nupgrade: websocket\nconnection: upgrade\n\n")
        .await;
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_out_chunked_while_the_answer_comes_in() {
    let (mut origin, client) = duplex(1 << 20);
    let pool = Pool::default();
    let (sender, body) = channel();
    let head = head("POST", "/", &[("host", "a")]);
    let exchange = async {
        let response = connect(client).send(&head, body, into(&pool)).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let talking = async {
        read_until(&mut origin, "transfer-encoding: chunked\r\n\r\n").await;
        sender.send(Ok(data("one"))).unwrap();
        read_until(&mut origin, "3\r\none\r\n").await;
        origin.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        sender.send(Ok(data("two"))).unwrap();
        read_until(&mut origin, "3\r\ntwo\r\n").await;
        drop(sender);
        read_until(&mut origin, "0\r\n\r\n").await;
        origin.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    };
    let (body, ()) = tokio::join!(exchange, talking);
    assert_eq!(body, "ab");
    assert!(pool.borrow().is_some());
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_ends_the_connection() {
    let (mut origin, client) = duplex(1 << 20);
    let pool = Pool::default();
    let (sender, body) = channel();
    let head = head("POST", "/", &[("host", "a")]);
    let sending = connect(client).send(&head, body, into(&pool));
    let answering = async { origin.write_all(b"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n").await.unwrap() };
    let (response, ()) = tokio::join!(sending, answering);
    assert_eq!(response.unwrap().status(), 413);
    assert!(pool.borrow().is_none());
    drop(sender);
    assert_eq!(read_until(&mut origin, "chunked\r\n\r\n").await.lines().next(), Some("POST / HTTP/1.1"));
    assert_eq!(origin.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_answer_before_a_close_counts_even_if_writing_fails() {
    let (mut origin, client) = duplex(64);
    origin.write_all(b"HTTP/1.1 413 x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    drop(origin);
    let head = head("POST", "/", &[("host", "a")]);
    let response =
        connect(client).send(&head, Full::new(Bytes::from(vec![0; 10_000])), |_| panic!("not reusable")).await;
    assert_eq!(response.unwrap().status(), 413);
}

#[tokio::test]
async fn a_stale_connection_gives_the_request_back() {
    let (origin, client) = duplex(1024);
    drop(origin);
    let connection = connect(client);
    let head = head("GET", "/", &[("host", "a")]);
    let error = connection.send(&head, Full::new(Bytes::new()), |_| ()).await.unwrap_err();
    assert!(error.is_stale() && error.body.is_some() && !error.response_started, "{error:?}");
    // Once a part of the body was taken it cannot be sent again.
    let (origin, client) = duplex(1024);
    drop(origin);
    let error = connect(client).send(&head, Full::new(Bytes::from_static(b"x")), |_| ()).await.unwrap_err();
    assert!(!error.is_stale() && error.body.is_none(), "{error:?}");
    // Nor once an answer began.
    let (mut origin, client) = duplex(1024);
    origin.write_all(b"HTTP/1.1 2").await.unwrap();
    drop(origin);
    let error = connect(client).send(&head, Full::new(Bytes::new()), |_| ()).await.unwrap_err();
    assert!(!error.is_stale() && error.response_started, "{error:?}");
}

#[tokio::test]
async fn an_idle_connection_notices_its_end_and_stray_bytes() {
    for stray in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (mut origin, client) = duplex(1024);
        let mut connection = connect(client);
        assert!(connection.is_quiet());
        origin.write_all(stray).await.unwrap();
        if stray.is_empty() {
            drop(origin);
        }
        assert!(!connection.is_quiet());
    }
}

#[tokio::test]
async fn the_body_waits_for_the_origins_continue() {
    for (word, timeout, body_is_sent) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", 3600, true),
        ("HTTP/1.1 417 x\r\nContent-Length: 0\r\n\r\n", 3600, false),
        ("", 0, true),
    ] {
        let (mut origin, client) = duplex(1 << 20);
        let options = ClientOptions { continue_timeout: Duration::from_secs(timeout), ..ClientOptions::default() };
        let head = head("POST", "/", &[("host", "a"), ("expect", "100-continue")]);
        let reclaimed = Cell::new(false);
        let body = Full::new(Bytes::from_static(b"abc"));
        let sending = Connection::new(client, options).send(&head, body, |_| reclaimed.set(true));
        let answering = async {
            read_until(&mut origin, "\r\n\r\n").await;
            if timeout > 0 {
                assert!(tokio::time::timeout(Duration::from_millis(10), origin.read_u8()).await.is_err());
            }
            origin.write_all(word.as_bytes()).await.unwrap();
            if body_is_sent {
                read_until(&mut origin, "abc").await;
                origin.write_all(b"HTTP/1.1 204 x\r\n\r\n").await.unwrap();
            }
        };
        let (response, ()) = tokio::join!(sending, answering);
        assert_eq!(response.unwrap().status() == 204, body_is_sent);
        assert_eq!(reclaimed.get(), body_is_sent);
    }
}

#[tokio::test]
async fn upgrade_hands_over_the_stream_and_what_was_read() {
    let (mut origin, client) = duplex(1024);
    let head = head("GET", "/", &[("host", "a"), ("upgrade", "echo")]);
    let sending = connect(client).send(&head, Empty::<Bytes>::new(), |_| panic!("not reusable"));
    let answering = async {
        read_until(&mut origin, "\r\n\r\n").await;
        origin.write_all(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\n\r\nearly").await.unwrap();
    };
    let (response, ()) = tokio::join!(sending, answering);
    let response = response.unwrap();
    assert_eq!((response.status().as_u16(), fields(response.headers())), (101, vec!["upgrade: echo".to_owned()]));
    let Upgraded { mut io, read_ahead } = response.into_body().into_upgraded().unwrap();
    assert_eq!(&read_ahead[..], b"early");
    io.write_all(b"late").await.unwrap();
    assert_eq!(read_until(&mut origin, "late").await, "late");
}

#[tokio::test]
async fn a_wrong_request_length_is_never_sent_as_if_right() {
    struct Lying(Channel);
    impl Body for Lying {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(4)
        }
    }
    for frames in [vec!["ab"], vec!["abc", "de"], vec!["abcde"]] {
        let (_origin, client) = duplex(1024);
        let (sender, body) = channel();
        for frame in frames {
            sender.send(Ok(data(frame))).unwrap();
        }
        drop(sender);
        let head = head("POST", "/", &[("host", "a")]);
        let error = connect(client).send(&head, Lying(body), |_| ()).await.unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::RequestBody(_)), "{error:?}");
    }
}

#[tokio::test]
async fn many_exchanges_on_one_connection() {
    let (origin, client) = duplex(1024);
    let (options, drain) = (options(), Drain::new());
    let serving = serve(origin, BytesMut::new(), &options, &drain, async |request: Result<crate::h1::Request, _>| {
        response(StatusCode::OK, request.unwrap().into_body())
    });
    let pool = Pool::default();
    *pool.borrow_mut() = Some(connect(client));
    let talking = async {
        for n in 0..200_usize {
            let text = n.to_string().repeat(n);
            let head = head("POST", "/", &[("host", "a")]);
            let connection = pool.take().expect("the connection comes back");
            assert_eq!(connection.exchanges(), n as u64);
            let response = connection.send(&head, Full::new(Bytes::from(text.clone())), into(&pool)).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
        }
        pool.take();
    };
    tokio::join!(serving, talking);
}
