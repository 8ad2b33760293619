//! A link that a test can break: a TCP relay that stops, comes back and takes its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bytes that are on their way at once, in chunks of [`CHUNK`].
const CHUNKS: usize = 64;
const CHUNK: usize = 16 * 1024;

/// A relay on loopback to one address at a time. Dropping it ends it and what goes through it.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    to: SocketAddr,
    /// Rises with every cut: what was open before is closed.
    cuts: u64,
    closed: bool,
    /// How long each byte is on its way.
    delay: Duration,
    accepted: u64,
}

impl Relay {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let state =
            Arc::new(watch::Sender::new(State { to, cuts: 0, closed: false, delay: Duration::ZERO, accepted: 0 }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                shared.send_modify(|state| state.accepted += 1);
                links.spawn(link(near, shared.subscribe()));
                while links.try_join_next().is_some() {}
            }
        });
        Self { address, state, task }
    }

    /// Ends all connections and lets no other through.
    pub fn cut(&self) {
        self.state.send_modify(|state| (state.cuts, state.closed) = (state.cuts + 1, true));
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.send_modify(|state| state.closed = false);
    }

    /// Leads connections elsewhere from now on, as a load balancer does when it has noticed that a server died.
    pub fn lead_to(&self, to: SocketAddr) {
        self.state.send_modify(|state| (state.to, state.cuts) = (to, state.cuts + 1));
    }

    /// Has every byte be on its way for so long, from the next connection on.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Connections that came, those that were not let through included.
    pub fn accepted(&self) -> u64 {
        self.state.borrow().accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn link(near: TcpStream, mut state: watch::Receiver<State>) {
    let State { to, cuts, closed, delay, .. } = *state.borrow();
    if closed {
        return;
    }
    let Ok(far) = TcpStream::connect(to).await else { return };
    for stream in [&near, &far] {
        let _ = stream.set_nodelay(true);
    }
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = async { tokio::join!(carry(near_read, far_write, delay), carry(far_read, near_write, delay)) } => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

/// Carries bytes one way to their end, each chunk `delay` after it came.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            match from.read_buf(&mut chunk).await {
                Ok(1..) if sender.send((Instant::now() + delay, chunk)).await.is_ok() => {}
                _ => return,
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
