//! A connection's life: responses, keep-alive, drain, disconnects, upgrade.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// The bytes of the response to `input` whose status, headers and body are given; the client then closes.
async fn answer<B>(input: &[u8], make: impl AsyncFn() -> Response<B>) -> (String, Closed)
where
    B: Body<Data = Bytes>,
{
    let (mut client, server) = duplex(1 << 20);
    let (options, drain) = (options(), Drain::new());
    let serving = serve(server, BytesMut::new(), &options, &drain, async |_| make().await);
    let talking = async {
        client.write_all(input).await.unwrap();
        client.shutdown().await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        output.replace("\r\n", "\n")
    };
    let (outcome, output) = tokio::join!(serving, talking);
    let Outcome::Closed(closed) = outcome else { panic!("nobody switched protocols") };
    (output, closed)
}

fn with_headers<B>(status: u16, headers: &[(&'static str, &'static str)], body: B) -> Response<B> {
    let mut response = http::Response::builder().status(status).header("date", "x");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap().into()
}

#[tokio::test]
async fn heads_of_responses_with_a_known_length() {
    let full = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes()));
    for (method, response, expected) in [
        ("GET", with_headers(200, &[], full("abc")), "200 OK\ndate: x\ncontent-length: 3\n\nabc"),
        ("GET", with_headers(200, &[], full("")), "200 OK\ndate: x\ncontent-length: 0\n\n"),
        // Framing headers of the message are replaced.
        (
            "GET",
            with_headers(200, &[("content-length", "9")], full("abc")),
            "200 OK\ndate: x\ncontent-length: 3\n\nabc",
        ),
        (
            "GET",
            with_headers(200, &[("transfer-encoding", "chunked"), ("keep-alive", "x")], full("abc")),
            "200 OK\ndate: x\ncontent-length: 3\n\nabc",
        ),
        (
            "GET",
            with_headers(404, &[("connection", "x, Close"), ("upgrade", "y")], full("")),
            "404 Not Found\ndate: x\ncontent-length: 0\nconnection: close\n\n",
        ),
        ("HEAD", with_headers(200, &[], full("abc")), "200 OK\ndate: x\ncontent-length: 3\n\n"),
        ("HEAD", with_headers(200, &[("content-length", "7")], full("")), "200 OK\ndate: x\ncontent-length: 7\n\n"),
        ("HEAD", with_headers(200, &[], full("")), "200 OK\ndate: x\n\n"),
        ("GET", with_headers(204, &[("content-length", "3")], full("abc")), "204 No Content\ndate: x\n\n"),
        (
            "GET",
            with_headers(304, &[("content-length", "3")], full("")),
            "304 Not Modified\ndate: x\ncontent-length: 3\n\n",
        ),
        ("GET", with_headers(599, &[], full("")), "599 \ndate: x\ncontent-length: 0\n\n"),
        (
            "GET",
            with_headers(200, &[("set-cookie", "a"), ("set-cookie", "b")], full("")),
            "200 OK\ndate: x\nset-cookie: a\nset-cookie: b\ncontent-length: 0\n\n",
        ),
    ] {
        let input = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = Cell::new(Some(response));
        let (output, _) = answer(input.as_bytes(), async || response.take().unwrap()).await;
        assert_eq!(output, format!("HTTP/1.1 {expected}"));
    }
}

#[tokio::test]
async fn bodies_of_unknown_length_are_chunked() {
    let (sender, body) = channel();
    for frame in [data("abc"), data(""), Frame::data(vec![b'x'; 5000].into()), data("0123456789")] {
        sender.send(Ok(frame)).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("content-length", "1".parse().unwrap());
    sender.send(Ok(Frame::trailers(trailers))).unwrap();
    let body = Cell::new(Some(body));
    let (output, closed) = answer(GET, async || with_headers(200, &[], body.take().unwrap())).await;
    let large = "x".repeat(5000);
    let chunks = format!("3\nabc\n1388\n{large}\na\n0123456789\n0\ngrpc-status: 0\n\n");
    assert_eq!(output, format!("HTTP/1.1 200 OK\ndate: x\ntransfer-encoding: chunked\n\n{chunks}"));
    assert!(matches!(closed, Closed::ByClient));
}

#[tokio::test]
async fn framing_is_never_wrong() {
    // A body that is shorter or longer than its length ends the connection, and no byte beyond the length is sent.
    for (frames, expected) in [(vec!["ab"], ""), (vec!["abc", "de"], "")] {
        let (sender, body) = channel();
        for frame in frames {
            sender.send(Ok(data(frame))).unwrap();
        }
        drop(sender);
        let body = Cell::new(Some(body));
        let headers = [("content-length", "4")];
        let (output, closed) = answer(GET, async || with_headers(200, &headers, body.take().unwrap())).await;
        assert_eq!(output, expected);
        assert!(matches!(closed, Closed::ResponseFailed), "{closed:?}");
    }
    // A failing chunked body is not ended as if it were whole.
    let (mut client, server) = duplex(1 << 20);
    let (sender, body) = channel();
    let (options, drain, body) = (options(), Drain::new(), Cell::new(Some(body)));
    let serving =
        serve(server, BytesMut::new(), &options, &drain, async |_| with_headers(200, &[], body.take().unwrap()));
    let talking = async {
        client.write_all(GET).await.unwrap();
        sender.send(Ok(data("abc"))).unwrap();
        read_until(&mut client, "3\r\nabc\r\n").await;
        sender.send(Err(BodyError::UnexpectedEof)).unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "");
    };
    let (outcome, ()) = tokio::join!(serving, talking);
    assert!(matches!(outcome, Outcome::Closed(Closed::ResponseFailed)));
}

#[tokio::test]
async fn a_date_is_made_where_none_is() {
    let (output, _) = answer(GET, async || Response::new(Full::<Bytes>::default())).await;
    let date = output.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let post = |n| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{n:02}");
    let mut input: String = (0..50).map(post).collect();
    input += "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /unheard HTTP/1.1\r\nHost: a\r\n\r\n";
    let observed = talk(input.as_bytes()).await;
    assert_eq!(observed.seen.len(), 51);
    let answers: Vec<_> = observed.output.split("HTTP/1.1 200 OK\ndate: x\ncontent-length: ").skip(1).collect();
    for (n, answer) in answers.iter().take(50).enumerate() {
        assert_eq!(*answer, format!("2\n\n{n:02}"));
    }
    assert_eq!(answers[50], "0\nconnection: close\n\n");
}

#[tokio::test]
async fn earlier_responses_go_out_before_a_refusal() {
    let observed = talk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(
        observed.output,
        "HTTP/1.1 200 OK\ndate: x\ncontent-length: 0\n\n\
         HTTP/1.1 400 Bad Request\ndate: x\ncontent-length: 0\nconnection: close\n\n"
    );
}

#[tokio::test]
async fn continue_is_said_when_the_body_is_wanted() {
    let (mut client, server) = duplex(1024);
    let (options, drain) = (options(), Drain::new());
    let wanted = Cell::new(false);
    let asked = tokio::sync::Notify::new();
    let serving = serve(server, BytesMut::new(), &options, &drain, async |request: Result<crate::h1::Request, _>| {
        asked.notified().await;
        wanted.set(true);
        let body = request.unwrap().into_body().collect().await.unwrap();
        response(StatusCode::OK, Full::new(body.to_bytes()))
    });
    let talking = async {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        assert!(timeout(Duration::from_millis(10), client.read_u8()).await.is_err());
        asked.notify_one();
        assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(wanted.get());
        client.write_all(b"abc").await.unwrap();
        read_until(&mut client, "content-length: 3\r\n\r\nabc").await;
        // Whoever sends the body at once needs no leave.
        asked.notify_one();
        client.write_all(format!("{head}def").as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "content-length: 3\r\n\r\ndef").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(client);
    };
    tokio::join!(serving, talking);
}

#[tokio::test]
async fn a_refused_expectation_closes() {
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let (output, closed) = answer(input, async || with_headers(413, &[], Full::<Bytes>::default())).await;
    assert_eq!(output, "HTTP/1.1 413 Payload Too Large\ndate: x\ncontent-length: 0\nconnection: close\n\n");
    assert!(matches!(closed, Closed::AfterResponse));
}

#[tokio::test]
async fn a_response_may_overtake_the_request_body() {
    // An echo that answers at once and goes on in both directions.
    let (mut client, server) = duplex(256);
    let (options, drain) = (options(), Drain::new());
    let serving = serve(server, BytesMut::new(), &options, &drain, async |request: Result<crate::h1::Request, _>| {
        response(StatusCode::OK, request.unwrap().into_body())
    });
    let talking = async {
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        read_until(&mut client, "transfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..100 {
            client.write_all(b"4\r\nping\r\n").await.unwrap();
            read_until(&mut client, "4\r\nping\r\n").await;
        }
        client.write_all(b"0\r\n\r\n").await.unwrap();
        read_until(&mut client, "0\r\n\r\n").await;
        client.write_all(GET).await.unwrap();
        read_until(&mut client, "content-length: 0\r\n\r\n").await;
        drop(client);
    };
    tokio::join!(serving, talking);
}

#[tokio::test]
async fn an_unpolled_body_is_backpressure() {
    let (mut client, server) = duplex(1024);
    let (options, drain) = (options(), Drain::new());
    let serving = serve(server, BytesMut::new(), &options, &drain, async |_request| {
        std::future::pending::<Response<Full<Bytes>>>().await
    });
    let flooding = async {
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n").await.unwrap();
        for taken in 0.. {
            if timeout(Duration::from_millis(10), client.write_all(&[0; 1024])).await.is_err() {
                return taken;
            }
        }
        unreachable!()
    };
    let taken = tokio::select! { _ = serving => unreachable!(), taken = flooding => taken };
    assert!(taken <= 16, "{taken} KiB were read that nobody asked for");
}

#[tokio::test]
async fn a_body_read_elsewhere() {
    // The body may be polled by another task than the connection's.
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (mut client, server) = duplex(64);
            let (options, drain) = (options(), Drain::new());
            let serving =
                serve(server, BytesMut::new(), &options, &drain, async |request: Result<crate::h1::Request, _>| {
                    let body = request.unwrap().into_body();
                    let body = tokio::task::spawn_local(body.collect()).await.unwrap().unwrap();
                    response(StatusCode::OK, Full::new(body.to_bytes().len().to_string().into()))
                });
            let talking = async {
                client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n").await.unwrap();
                client.write_all(&[0; 5000]).await.unwrap();
                read_until(&mut client, "\r\n\r\n5000").await;
                drop(client);
            };
            tokio::join!(serving, talking);
        })
        .await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_request() {
    struct Dropped<'a>(&'a Cell<bool>);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    for body in ["", "Content-Length: 3\r\n\r\nabc"] {
        let (mut client, server) = duplex(1024);
        let (options, drain, dropped) = (options(), Drain::new(), Cell::new(false));
        let started = tokio::sync::Notify::new();
        let serving =
            serve(server, BytesMut::new(), &options, &drain, async |request: Result<crate::h1::Request, _>| {
                let _guard = Dropped(&dropped);
                request.unwrap().into_body().collect().await.unwrap();
                started.notify_one();
                std::future::pending::<Response<Full<Bytes>>>().await
            });
        let talking = async {
            let end = if body.is_empty() { "\r\n" } else { "" };
            client.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}{end}").as_bytes()).await.unwrap();
            started.notified().await;
            drop(client);
        };
        let (outcome, ()) = tokio::join!(serving, talking);
        assert!(matches!(outcome, Outcome::Closed(Closed::ClientGone)), "{outcome:?}");
        assert!(dropped.get());
    }
}

#[tokio::test]
async fn a_drain_ends_idle_connections_at_once_and_busy_ones_after_their_response() {
    let (options, drain) = (options(), Drain::new());
    let release = tokio::sync::Notify::new();
    let (mut idle, idle_server) = duplex(1024);
    let (mut busy, busy_server) = duplex(1024);
    let at_once = async |_request| response(StatusCode::OK, Full::<Bytes>::default());
    let released = async |_request| {
        release.notified().await;
        response(StatusCode::OK, Full::<Bytes>::default())
    };
    let talking = async {
        busy.write_all(GET).await.unwrap();
        idle.write_all(GET).await.unwrap();
        let answer = read_until(&mut idle, "\r\n\r\n").await;
        assert!(!answer.contains("close"), "{answer}");
        drain.start();
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        release.notify_one();
        let answer = read_until(&mut busy, "\r\n\r\n").await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(busy.read(&mut [0]).await.unwrap(), 0);
        drop(busy);
    };
    let (idle, busy, ()) = tokio::join!(
        serve(idle_server, BytesMut::new(), &options, &drain, at_once),
        serve(busy_server, BytesMut::new(), &options, &drain, released),
        talking
    );
    assert!(matches!(idle, Outcome::Closed(Closed::Drained)), "{idle:?}");
    assert!(matches!(busy, Outcome::Closed(Closed::AfterResponse)), "{busy:?}");
    // One that comes later has no time at all.
    let (_late, late_server) = duplex(1024);
    let late = serve(late_server, BytesMut::new(), &options, &drain, at_once).await;
    assert!(matches!(late, Outcome::Closed(Closed::Drained)), "{late:?}");
}

#[tokio::test]
async fn idle_connections() {
    let millis = Duration::from_millis;
    let options = Options { idle_timeout: millis(20), ..options() };
    let drain = Drain::new();
    let service = async |_request| response(StatusCode::OK, Full::<Bytes>::default());
    let (mut client, server) = duplex(1024);
    let talking = async {
        for _ in 0..10 {
            // Each request starts the idle time anew.
            tokio::time::sleep(millis(5)).await;
            client.write_all(GET).await.unwrap();
            read_until(&mut client, "\r\n\r\n").await;
        }
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    };
    let (outcome, ()) = tokio::join!(serve(server, BytesMut::new(), &options, &drain, service), talking);
    assert!(matches!(outcome, Outcome::Closed(Closed::Idle)), "{outcome:?}");
}

#[tokio::test]
async fn upgrade_hands_over_the_stream_and_what_was_read() {
    let (mut client, server) = duplex(1024);
    let (options, drain) = (options(), Drain::new());
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly";
    client.write_all(input).await.unwrap();
    let outcome = serve(server, BytesMut::new(), &options, &drain, async |_request| {
        http::Response::builder().status(101).header("upgrade", "echo").body(Full::<Bytes>::default()).unwrap().into()
    })
    .await;
    let Outcome::Upgraded(Upgraded { mut io, read_ahead }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(&read_ahead[..], b"early");
    io.write_all(b"late").await.unwrap();
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n";
    assert_eq!(read_until(&mut client, "late").await, format!("{head}late"));
}

#[tokio::test]
async fn an_idle_connection_is_small_whatever_the_service() {
    let (_client, server) = duplex(64);
    let (options, drain) = (options(), Drain::new());
    let serving = serve(server, BytesMut::new(), &options, &drain, async |_request| {
        let large = [0_u8; 10_000];
        tokio::task::yield_now().await;
        response(StatusCode::OK, Full::new(Bytes::copy_from_slice(&large)))
    });
    assert!(size_of_val(&serving) <= 1536, "{} bytes", size_of_val(&serving));
}

#[tokio::test]
async fn what_was_read_ahead_is_served() {
    let (mut client, server) = duplex(1024);
    let (options, drain) = (options(), Drain::new());
    client.write_all(&GET[7..]).await.unwrap();
    client.shutdown().await.unwrap();
    serve(server, BytesMut::from(&GET[..7]), &options, &drain, async |_request| {
        response(StatusCode::OK, Full::<Bytes>::default())
    })
    .await;
    read_until(&mut client, "\r\n\r\n").await;
}
