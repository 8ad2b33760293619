//! An HTTP/1.1 client whose connections come from wherever they were made.

use std::time::Duration;

use http::request::Builder;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A connection for one request after the other.
pub(crate) struct Connection {
    sender: SendRequest<Full<bytes::Bytes>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// A GET of a path of the service `reviews`.
pub(crate) fn get(path: &str) -> Builder {
    Request::get(path).header("host", "reviews:9080")
}

impl Connection {
    pub(crate) async fn new(stream: TcpStream) -> Result<Self, String> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender })
    }

    pub(crate) async fn ask(&mut self, request: Builder) -> Result<Answer, String> {
        self.send(request, "").await
    }

    /// The same with a body.
    pub(crate) async fn send(&mut self, request: Builder, body: &str) -> Result<Answer, String> {
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let answer = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let text = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
            Ok::<_, hyper::Error>(Answer { status: head.status.as_u16(), headers: head.headers, text })
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| "no answer in time".to_owned())?;
        answer.map_err(|error| format!("{error:?}"))
    }
}

impl Answer {
    /// The application that answered; empty if none did.
    pub(crate) fn origin(&self) -> &str {
        self.headers.get("x-origin").and_then(|name| name.to_str().ok()).unwrap_or_default()
    }

    /// A header that the application got.
    pub(crate) fn got(&self, name: &str) -> Option<String> {
        let seen: Value = serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let pairs = seen["headers"].as_array().unwrap();
        pairs.iter().find(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned())
    }
}
