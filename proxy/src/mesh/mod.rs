//! The entrances of a sidecar: what its application opens, and what others open to its application.
//!
//! `sniff` finds out what a connection speaks where nobody said, `outbound` and `inbound` where it belongs, `serving`
//! hands it to HTTP or to the relay of bytes; `corked` sends together what the streams of HTTP/2 write.

mod corked;
mod inbound;
mod outbound;
mod serving;
mod sniff;

use std::rc::Rc;

use route_model::table::{Listener, ListenerProtocol};
use tokio::net::TcpStream;

use self::serving::Arrival;
use crate::drain::Member;
use crate::http::context::Lane;
use crate::http::facts::ConnectionFacts;
use crate::listener::ListenerId;
use crate::worker::Worker;

/// Serves a connection on a listener of a sidecar to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    facts: ConnectionFacts,
    listener: &Listener,
    id: ListenerId,
    member: Member,
) {
    let to_workload = matches!(listener.protocol, ListenerProtocol::Inbound { .. });
    let arrival = |facts, lane| Arrival { worker, facts, listener: id, lane, member, certificate: None, to_workload };
    match &listener.protocol {
        ListenerProtocol::Service(routes) => arrival(facts, Lane::Listener).serve(stream, routes).await,
        ListenerProtocol::Outbound(outbound) => outbound::serve(arrival(facts, Lane::Forward), stream, outbound).await,
        ListenerProtocol::Inbound { port, inbound } => {
            inbound::serve(arrival(facts, Lane::Captured), stream, *port, inbound).await;
        }
        ListenerProtocol::Http(_) | ListenerProtocol::Tls(_) | ListenerProtocol::Tcp(_) => {}
    }
}
