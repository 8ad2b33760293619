//! What one proxied request costs in allocations, held fast so that it does not creep up.

// A global allocator cannot be written without it; this one only counts and passes on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};

use bytes::BytesMut;
use proxy::h1::{ClientOptions, Connection, Drain, Options, Request, Violation, recycle, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const REQUEST: &[u8] = b"GET /index.html?x=y HTTP/1.1\r\nHost: bookinfo.example:8080\r\nUser-Agent: wrk/4.1\r\n\
                         Accept: */*\r\nAccept-Encoding: gzip, br\r\nCookie: session=0123456789abcdef\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                        Content-Type: text/plain\r\nContent-Length: 100\r\n\r\n";

/// Answers every request with the same bytes.
async fn origin(mut io: DuplexStream, answer: &[u8]) {
    let mut buffer = [0; 4096];
    loop {
        let mut end = 0;
        while !buffer[..end].ends_with(b"\r\n\r\n") {
            end += io.read(&mut buffer[end..]).await.expect("the proxy keeps the connection");
        }
        io.write_all(answer).await.expect("the proxy reads");
    }
}

#[tokio::test]
async fn a_small_proxied_request() {
    let (mut client, downstream) = duplex(8192);
    let (upstream, behind) = duplex(8192);
    let pool = RefCell::new(Some(Connection::new(upstream, ClientOptions::default())));
    let answer = [ANSWER, &[b'x'; 100]].concat();
    let (options, drain) = (Options::default(), Drain::new());
    let service = async |request: Result<Request, Violation>| {
        let (head, body) = request.expect("the requests are valid").into_parts();
        let connection = pool.take().expect("the connection comes back");
        let reclaim = |connection| *pool.borrow_mut() = Some(connection);
        let response = connection.send(&head, body, reclaim).await.expect("the origin answers");
        recycle(head);
        response
    };
    let talking = async {
        let mut buffer = [0; 4096];
        let mut counts = Vec::with_capacity(16);
        for _ in 0..10 {
            let before = ALLOCATIONS.get();
            for _ in 0..100 {
                client.write_all(REQUEST).await.expect("the proxy reads");
                let mut end = 0;
                while !buffer[..end].ends_with(&[b'x'; 100]) {
                    end += client.read(&mut buffer[end..]).await.expect("the proxy answers");
                }
            }
            counts.push(ALLOCATIONS.get() - before);
        }
        counts
    };
    let counts = tokio::select! {
        _ = serve(downstream, BytesMut::new(), &options, &drain, service) => unreachable!("the client stays"),
        () = origin(behind, &answer) => unreachable!("so does the connection"),
        counts = talking => counts,
    };
    // One each, for the state of the exchange. Buffers and header tables are used again, header values are slices.
    assert!(counts[1..].iter().all(|&count| count == 100), "allocations of a hundred requests each: {counts:?}");
}
