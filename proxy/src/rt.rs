//! What hyper asks of a runtime, on a worker's.

use std::future::Future;

use tokio::task::spawn_local;

/// Runs hyper's tasks on the worker that polls the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        // The output says how the task ended, which hyper reports elsewhere too.
        spawn_local(async move {
            future.await;
        });
    }
}
