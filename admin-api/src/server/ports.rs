//! The certificates of the control plane's own ports: made anew when the CA changes.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, info};

use super::StartError;
use super::bootstrap::write_file;
use crate::ca::{Authority, Ca, ServerKey};

/// What hangs on the CA in this process: the certificates it issued to ports, and its own in the data folder.
pub(super) struct Issued {
    pub(super) keys: Vec<Arc<ServerKey>>,
    pub(super) names: Vec<String>,
    pub(super) data_dir: PathBuf,
}

impl Issued {
    /// Follows the CA for as long as it is polled.
    pub(super) async fn follow(self, ca: Arc<Ca>) {
        let mut current = ca.watch();
        while current.changed().await.is_ok() {
            let authority = current.borrow_and_update().clone();
            match self.renew(&authority) {
                Ok(()) => info!("the ports have certificates of the new CA, and ca.crt is written"),
                Err(error) => error!(%error, "the ports keep the certificates of the CA before"),
            }
        }
        std::future::pending::<()>().await;
    }

    fn renew(&self, authority: &Authority) -> Result<(), StartError> {
        write_file(&self.data_dir, "ca.crt", authority.root_pem().as_bytes(), 0o644)?;
        for key in &self.keys {
            let issued = authority.issue_server(&self.names)?;
            key.set(issued).map_err(|error| StartError::Tls { flag: "--push-addr", error })?;
        }
        Ok(())
    }
}
