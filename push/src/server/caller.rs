//! Who calls, and what was shown for it.

use std::sync::Arc;
use std::time::SystemTime;

use super::Peer;
use crate::client::Token;

/// The one who opened a stream or made a call.
#[derive(Clone, Debug)]
pub struct Caller {
    pub peer: Peer,
    pub certificate: Arc<ClientCertificate>,
    /// The bearer token that came with the call.
    pub token: Option<Token>,
}

/// The certificate that a connection came with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    #[default]
    Absent,
    /// One that does not count, and why.
    Refused(String),
    /// One that counted when the connection was opened.
    Identity {
        /// A SPIFFE id.
        id: String,
        not_after: SystemTime,
    },
}
