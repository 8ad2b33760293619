//! What a process does around its gateway: limits, signals, a runtime for everything that is not traffic.

use std::future::Future;
use std::io;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::Args;

/// Runs a gateway until a signal ends the process. The workers have threads of their own; this thread runs the rest.
pub fn run(args: Args) -> anyhow::Result<()> {
    raise_file_limit();
    let (options, transport) = args.into_parts()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(async {
        let shutdown = signalled().context("cannot listen for signals")?;
        crate::run(options, transport, shutdown).await?;
        Ok(())
    })
}

/// Every connection is a file: take as many as the system lets this process have.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => info!(from = ?limit.current, to = ?limit.maximum, "raised the limit of open files"),
        Err(error) => warn!(current = ?limit.current, %error, "cannot raise the limit of open files"),
    }
}

/// Resolves with the first SIGTERM or SIGINT. The second one ends the process at once, whatever it is doing.
pub fn signalled() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, is_first) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut first = Some(first);
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            let Some(first) = first.take() else {
                warn!(signal = name, "ending at once");
                std::process::exit(1);
            };
            info!(signal = name, "shutting down, once more to end at once");
            // Fails when nobody waits; the next signal still ends the process.
            let _ = first.send(());
        }
    });
    Ok(async move {
        // An error means that the task is gone, and with it the runtime.
        let _ = is_first.await;
    })
}
