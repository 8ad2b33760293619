//! A connection to the control plane and the stream on it: Fairway's push protocol without what a real proxy does with
//! the resources.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use push::message::{FromProxy, ProxyMessage};
use push::transport::Connect;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::client::{Grpc, GrpcService};
use tonic_prost::ProstCodec;

use crate::delta::Delta;
use crate::proxy::Proxy;

/// As the real client has them.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
const STREAM_PATH: &str = "/fairway.push.v1.Push/Stream";

/// An open stream. It ends when dropped.
pub(crate) struct Stream {
    sender: mpsc::Sender<FromProxy>,
    deltas: Streaming<Delta>,
    _connection: JoinSet<()>,
}

impl Stream {
    /// Connects and says hello.
    pub(crate) async fn open(proxy: &Proxy) -> anyhow::Result<Self> {
        let io = proxy.transport.connect().await?;
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 2)
            .handshake(TokioIo::new(io))
            .await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Why it ended shows in the stream.
            let _ = connection.await;
        });
        let (sender, messages) = mpsc::channel(4);
        let hello = ProxyMessage::Hello(Box::new(proxy.hello()));
        sender.try_send(FromProxy { message: Some(hello) })?;
        let origin: Uri = proxy.transport.origin().parse()?;
        let mut grpc = Grpc::with_origin(Requests(requests), origin).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = tonic::Request::new(ReceiverStream::new(messages));
        let response = grpc.streaming(request, PathAndQuery::from_static(STREAM_PATH), ProstCodec::default()).await?;
        Ok(Self { sender, deltas: response.into_inner(), _connection: tasks })
    }

    pub(crate) async fn next(&mut self) -> anyhow::Result<Delta> {
        let delta = self.deltas.message().await?;
        delta.ok_or_else(|| anyhow::anyhow!("the control plane ended the stream"))
    }

    pub(crate) async fn say(&self, message: ProxyMessage) -> anyhow::Result<()> {
        Ok(self.sender.send(FromProxy { message: Some(message) }).await?)
    }
}

/// An open connection as tonic wants it.
struct Requests(http2::SendRequest<tonic::body::Body>);

impl GrpcService<tonic::body::Body> for Requests {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Self::ResponseBody>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
