//! Accepting connections, within limits, and spreading them over the workers.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::ListenerId;
use crate::http::serve;
use crate::process::Message;
use crate::worker::Worker;

/// First pause after the process has run out of file descriptors or memory; doubles up to [`MAX_BACK_OFF`].
const MIN_BACK_OFF: Duration = Duration::from_millis(5);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);

/// Accepts until told to stop, then takes what the kernel has already queued.
pub(crate) async fn accept_loop(worker: Rc<Worker>, listener: TcpListener, id: ListenerId, stop: Rc<Notify>) {
    let stopped = stop.notified();
    tokio::pin!(stopped);
    let mut back_off = MIN_BACK_OFF;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                back_off = MIN_BACK_OFF;
                place(&worker, stream, peer, id);
            }
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, pause_ms = back_off.as_millis() as u64, "cannot accept connections");
                // Jitter: the workers run out together and must not come back together.
                let pause = tokio::time::sleep(back_off.mul_f64(0.5 + fastrand::f64()));
                tokio::select! {
                    () = &mut stopped => break,
                    () = pause => {}
                }
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
            // The connection ended before it was accepted; the next one is not concerned.
            Err(error) => tracing::debug!(%error, "a connection failed before it was accepted"),
        }
    }
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, peer)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                serve_here(&worker, stream, peer, id);
            }
        }
    }
}

/// Serves a connection that another worker accepted.
pub(crate) fn adopt(worker: &Rc<Worker>, stream: std::net::TcpStream, peer: SocketAddr, id: ListenerId) {
    match TcpStream::from_std(stream) {
        Ok(stream) => serve_here(worker, stream, peer, id),
        Err(error) => tracing::warn!(%error, "cannot register a connection"),
    }
}

/// Serves a connection here, or gives it to a worker that has clearly fewer.
fn place(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, id: ListenerId) {
    let Some(other) = worker.process.less_loaded_than(worker.index) else {
        return serve_here(worker, stream, peer, id);
    };
    match stream.into_std() {
        Ok(stream) => {
            // A worker that is gone takes the process with it.
            let _ = worker.process.inboxes()[other].send(Message::Adopt { stream, peer, listener: id });
        }
        Err(error) => tracing::warn!(%error, "cannot hand a connection over"),
    }
}

fn serve_here(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, id: ListenerId) {
    let Some(group) = worker.group(id) else { return };
    let Some(permit) = worker.process.admit(worker.index) else {
        serve::refuse(worker, &stream, id);
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        // The client is gone already.
        tracing::debug!(%error, "cannot set TCP_NODELAY");
        return;
    }
    let table = worker.table_for(id);
    let place = table.runtime().find_listener(id);
    let listener = place.map(|place| &table.runtime().listener_at(place).listener);
    let counted = listener.map(|listener| worker.metrics.connection(&worker.process.metrics.listener(listener.port)));
    let announced = listener.is_some_and(|listener| listener.proxy_protocol);
    drop(table);
    let (worker, member) = (Rc::clone(worker), group.join());
    if announced {
        let connection = serve::serve_announced(worker, stream, peer, id, member);
        spawn_local(async move {
            connection.await;
            drop((permit, counted));
        });
    } else {
        let connection = serve::serve_connection(worker, stream, peer, None, id, member);
        spawn_local(async move {
            connection.await;
            drop((permit, counted));
        });
    }
}

/// Whether accepting failed for lack of something that others have to give back first.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
