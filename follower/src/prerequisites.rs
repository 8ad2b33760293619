//! What a proxy needs before it can serve.

use std::sync::Arc;
use std::time::SystemTime;

use proxy::identity::Credentials;
use route_model::meta::Revision;
use tokio::sync::watch;

/// A configuration, that of the last good set too, and a certificate that has not expired.
#[derive(Clone, Debug)]
pub struct Prerequisites {
    in_force: watch::Receiver<Option<Revision>>,
    identity: watch::Receiver<Option<Arc<Credentials>>>,
}

impl Prerequisites {
    pub(crate) fn new(
        in_force: watch::Receiver<Option<Revision>>,
        identity: watch::Receiver<Option<Arc<Credentials>>>,
    ) -> Self {
        Self { in_force, identity }
    }

    /// Resolves when all is there, or when the proxy ends.
    pub async fn met(&mut self) {
        loop {
            // An error means that the proxy has ended.
            let in_force = self.in_force.wait_for(Option::is_some).await.is_ok();
            if !in_force || self.identity.wait_for(|current| is_good(current.as_ref())).await.is_err() {
                return;
            }
            if self.missing().is_none() {
                return;
            }
        }
    }

    /// What is not there yet, in words.
    pub fn missing(&self) -> Option<&'static str> {
        match (self.in_force.borrow().is_some(), is_good(self.identity.borrow().as_ref())) {
            (true, true) => None,
            (false, true) => Some("a configuration"),
            (true, false) => Some("a certificate"),
            (false, false) => Some("a configuration and a certificate"),
        }
    }
}

fn is_good(current: Option<&Arc<Credentials>>) -> bool {
    current.is_some_and(|current| SystemTime::now() < current.not_after())
}
