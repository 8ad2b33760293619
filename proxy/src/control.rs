//! The control thread: what a proxy does beside serving (name resolution, metrics, freeing old tables), on a runtime
//! of its own and at a lower priority, so that it never delays a request for long.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};

use crate::proxy::StartError;
use crate::runtime_table::RuntimeTable;

/// Added to the niceness of the control thread.
const NICENESS: i32 = 5;

/// The control thread; ends when dropped.
#[derive(Debug)]
pub(crate) struct Control {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub(crate) fn start(mut buried: mpsc::UnboundedReceiver<Arc<RuntimeTable>>) -> Result<Self, StartError> {
        let failed = |source: io::Error| StartError::Thread { what: "control", source };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        handle.spawn(async move { while buried.recv().await.is_some() {} });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("proxy-control".to_owned())
            .spawn(move || {
                lower_priority();
                // An error means that the sender is gone, which says the same.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Control {
    /// The runtime that everything beside serving runs on.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn lower_priority() {
    // On Linux a thread id names the thread alone.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "the control thread keeps its priority");
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
