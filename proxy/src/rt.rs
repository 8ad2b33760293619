//! Tasks: those that hyper asks of a runtime, on a worker's, and those that end with what they are for.

use std::future::Future;

use tokio::task::{JoinHandle, spawn_local};

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

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
