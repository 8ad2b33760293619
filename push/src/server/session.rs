//! One proxy's stream: hello, then a delta, its acknowledgement, the next delta.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use route_model::compile::ProxyRole;
use route_model::meta::Revision;
use tokio::sync::{oneshot, watch};
use tonic::codec::BufferSettings;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::body::{Messages, Sender};
use super::scope::{Delivery, Position, Scope, message};
use super::{Caller, ClientCertificate, ControlPlane, Event, LEFT, Peer, Refusal, SessionId, Shared};
use crate::client::Token;
use crate::message::{Ack, Delta, FromProxy, Hello, Nack, ProxyMessage, Trust, role_of_name};
use crate::rpc::AUTHORIZATION;
use crate::workload::{self, MAX_REASON_BYTES};
use crate::{MAX_ISSUES, MAX_MESSAGE_BYTES, MAX_NAME_BYTES, broken};

/// How long a proxy may take from opening the stream to its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a control plane that is behind a proxy is given to catch up before it sends the proxy back to its own
/// revision: another replica may have been a moment faster.
const CATCH_UP: Duration = Duration::from_secs(3);

const MAX_LABELS: usize = 64;

/// Room for what a proxy sends, which is little; it grows with a message and stays so.
const READ_BYTES: usize = 512;

/// Answers at once; the session runs on its own and its verdict on the hello ends the stream.
pub(super) fn serve<C: ControlPlane>(
    shared: Arc<Shared<C>>,
    peer: Peer,
    certificate: Arc<ClientCertificate>,
    request: http::Request<Incoming>,
) -> http::Response<tonic::body::Body> {
    let request = Request::from_http(request);
    let caller = Caller { peer, certificate, token: bearer(&request) };
    let decoder = ProstCodec::<FromProxy, FromProxy>::raw_decoder(BufferSettings::new(READ_BYTES, READ_BYTES));
    let messages = Streaming::new_request(decoder, request.into_inner(), None, Some(MAX_MESSAGE_BYTES));
    let (sender, answer) = Messages::channel();
    tokio::spawn(async move {
        if let Err(status) = run(&shared, caller, messages, &sender).await {
            // Fails when the proxy is gone.
            let _ = sender.send(Err(status)).await;
        }
    });
    answer.into_response()
}

async fn run<C: ControlPlane>(
    shared: &Shared<C>,
    caller: Caller,
    mut messages: Streaming<FromProxy>,
    pieces: &Sender,
) -> Result<(), Status> {
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, messages.message()).await {
        Err(_) => return Err(Status::deadline_exceeded("no hello within 10 s")),
        Ok(Ok(Some(FromProxy { message: Some(ProxyMessage::Hello(hello)) }))) => hello,
        Ok(Ok(_)) => return Err(Status::invalid_argument("the first message must be a hello")),
        Ok(Err(status)) => return Err(status),
    };
    check(&hello)?;
    let scope = shared.control_plane.admit(&caller, &hello).await?;

    let id = shared.session_id();
    let ended_by_us = shared.claim(&hello.node, id);
    let hello: Arc<Hello> = hello.into();
    shared.control_plane.observe(id, Event::Connected { hello: hello.clone(), caller, scope: scope.clone() });
    let mut session = Session {
        shared,
        id,
        scope: &scope,
        pieces,
        messages,
        held: None,
        resumed: None,
        outstanding: None,
        acked: None,
        refused: None,
        registered: hello.workload.is_some(),
    };
    let ended = session.follow(&hello, ended_by_us).await;
    drop(shared.release(&hello.node, id));
    let reason = match &ended {
        Ok(()) => LEFT.to_owned(),
        Err(status) => broken::describe(status, "the proxy").unwrap_or_else(|| status.message().to_owned()),
    };
    shared.control_plane.observe(id, Event::Disconnected { reason });
    ended
}

/// The token that a request shows; one that could be none is like none.
pub(super) fn bearer<T>(request: &Request<T>) -> Option<Token> {
    let value = request.metadata().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Token::new(token).ok())?
}

fn check(hello: &Hello) -> Result<(), Refusal> {
    let names = [("node", &hello.node), ("namespace", &hello.namespace), ("role", &hello.role)];
    for (what, text) in names {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(Refusal::Invalid(format!("the {what} must have 1 to {MAX_NAME_BYTES} bytes")));
        }
    }
    let long = |text: &str| text.len() > MAX_NAME_BYTES;
    let labels = &hello.labels;
    if labels.len() > MAX_LABELS
        || labels.iter().any(|(key, value)| long(key) || long(value))
        || long(&hello.build)
        || long(&hello.service_account)
    {
        return Err(Refusal::Invalid(format!(
            "at most {MAX_LABELS} labels and names of {MAX_NAME_BYTES} bytes each are taken"
        )));
    }
    check_workload(hello)
}

fn check_workload(hello: &Hello) -> Result<(), Refusal> {
    let Some(workload) = &hello.workload else { return Ok(()) };
    if role_of_name(&hello.role) != Some(ProxyRole::Sidecar) {
        return Err(Refusal::Invalid(format!("a proxy of role {:?} registers no workload", hello.role)));
    }
    workload.check().map_err(|mut reason| {
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Refusal::Invalid(reason)
    })
}

struct Session<'s, C> {
    shared: &'s Shared<C>,
    id: SessionId,
    scope: &'s Scope,
    pieces: &'s Sender,
    messages: Streaming<FromProxy>,
    /// The state that the next delta builds on.
    held: Option<Position>,
    /// The revision that the proxy came with; it may acknowledge it late.
    resumed: Option<Revision>,
    /// Sent and not answered yet.
    outstanding: Option<Arc<Delivery>>,
    /// Revision and nonce of what was acknowledged last. The proxy may do so again with other issues: a port that was
    /// taken became free.
    acked: Option<(u64, u64)>,
    /// A state that the proxy could not take; it is not offered again.
    refused: Option<Position>,
    /// The proxy registered a workload.
    registered: bool,
}

impl<C: ControlPlane> Session<'_, C> {
    async fn follow(&mut self, hello: &Hello, mut ended_by_us: oneshot::Receiver<Status>) -> Result<(), Status> {
        let mut ending = self.shared.ending.subscribe();
        let mut changed = self.scope.watch();
        let mut trust = self.shared.control_plane.trust();
        self.greet(&mut trust).await?;
        if let Some(ack) = &hello.applied {
            self.observe(Event::Acked { revision: Revision(ack.revision), issues: ack.issues.clone() });
        }
        let resume = hello.resume.as_ref().filter(|resume| resume.scope == **self.scope.id());
        if let Some(position) = resume.and_then(Position::of_resume) {
            self.held = Some(position);
            self.resumed = Some(position.revision);
            // An error means that the scope is gone, and the loop below says so.
            let _ = tokio::time::timeout(CATCH_UP, changed.wait_for(|seen| *seen >= position.revision)).await;
            // Revisions since then brought this scope nothing, although it may have begun with one of them here.
            if let Some(revision) = self.scope.is_at(position)
                && let Some(ack) = hello.applied.as_ref().filter(|ack| ack.revision == position.revision.0)
                && revision > position.revision
            {
                self.observe(Event::Acked { revision, issues: ack.issues.clone() });
            }
        }
        changed.mark_changed();
        loop {
            let mut trusts_others = false;
            tokio::select! {
                message = self.messages.message() => match message? {
                    Some(FromProxy { message: Some(message) }) => self.heard(message)?,
                    Some(_) => return Err(Status::invalid_argument("a message of an unknown type")),
                    None => return Ok(()),
                },
                Ok(()) = changed.changed(), if self.outstanding.is_none() => {}
                Ok(()) = trust.changed() => trusts_others = true,
                // The sender lives as long as the server knows this session.
                Ok(why) = &mut ended_by_us => return Err(why),
                _ = ending.wait_for(|ending| *ending) => {
                    return Err(Status::unavailable("the control plane is going down"));
                }
            }
            if trusts_others {
                self.greet(&mut trust).await?;
            }
            if self.outstanding.is_none()
                && let Some(delivery) = self.scope.delivery(self.held)
                && self.refused != Some(delivery.to)
            {
                self.deliver(delivery).await?;
            }
        }
    }

    /// Says into which scope the proxy was taken, and whose certificates it is to accept now.
    async fn greet(&self, trust: &mut watch::Receiver<Arc<Trust>>) -> Result<(), Status> {
        let trust = Some(Trust::clone(&trust.borrow_and_update()));
        let greeting =
            Delta { scope: self.scope.id().to_string(), more: true, trust, takes_reports: true, ..Delta::default() };
        self.send(message(&greeting)).await
    }

    async fn deliver(&mut self, delivery: Arc<Delivery>) -> Result<(), Status> {
        for piece in &delivery.pieces {
            self.send(piece.clone()).await?;
        }
        self.observe(Event::Sent { revision: delivery.to.revision });
        self.outstanding = Some(delivery);
        Ok(())
    }

    async fn send(&self, piece: Bytes) -> Result<(), Status> {
        self.pieces.send(Ok(piece)).await.map_err(|_| Status::cancelled("the connection broke"))
    }

    fn heard(&mut self, message: ProxyMessage) -> Result<(), Status> {
        match message {
            ProxyMessage::Hello(_) => return Err(Status::invalid_argument("a second hello")),
            ProxyMessage::Ack(Ack { revision, nonce, mut issues }) => {
                if self.is_answered(revision, nonce) || self.acked == Some((revision, nonce)) {
                    if let Some(delivery) = self.outstanding.take_if(|delivery| delivery.nonce == nonce) {
                        self.held = Some(delivery.to);
                        self.acked = Some((revision, nonce));
                    }
                    issues.truncate(MAX_ISSUES);
                    self.observe(Event::Acked { revision: Revision(revision), issues });
                }
            }
            ProxyMessage::Ready(_) if !self.registered => {
                return Err(Status::invalid_argument("readiness of a workload that was not registered"));
            }
            ProxyMessage::Ready(workload::Ready { reason, .. }) if reason.len() > MAX_REASON_BYTES => {
                let why = format!("the reason for not being ready is longer than {MAX_REASON_BYTES} bytes");
                return Err(Status::invalid_argument(why));
            }
            ProxyMessage::Ready(workload::Ready { ready, reason }) => self.observe(Event::Ready { ready, reason }),
            ProxyMessage::Report(report) => self.observe(Event::Reported(report)),
            ProxyMessage::Nack(Nack { revision, nonce, mut issues, held }) => {
                if self.is_answered(revision, nonce) {
                    if let Some(delivery) = self.outstanding.take_if(|delivery| delivery.nonce == nonce) {
                        if held {
                            self.held = Some(delivery.to);
                        } else {
                            self.refused = Some(delivery.to);
                        }
                    }
                    issues.truncate(MAX_ISSUES);
                    self.observe(Event::Nacked { revision: Revision(revision), issues });
                }
            }
        }
        Ok(())
    }

    /// Whether an answer is to what was sent or came with the proxy; any other is out of date.
    fn is_answered(&self, revision: u64, nonce: u64) -> bool {
        match &self.outstanding {
            Some(delivery) if delivery.nonce == nonce => delivery.to.revision.0 == revision,
            _ => nonce == 0 && self.resumed == Some(Revision(revision)),
        }
    }

    fn observe(&self, event: Event) {
        self.shared.control_plane.observe(self.id, event);
    }
}
