//! What a process does around its proxy: limits, signals, a runtime for everything that is not traffic.

use std::future::Future;
use std::io;
use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::{Follower, Options, Transport};

/// Runs a proxy until a signal ends the process. The workers have threads of their own; this thread runs the rest.
pub fn run(options: Options, transport: Transport) -> anyhow::Result<()> {
    raise_file_limit();
    runtime()?.block_on(async {
        let shutdown = signalled().context("cannot listen for signals")?;
        Follower::start(options, transport)?.run(shutdown).await;
        Ok(())
    })
}

/// For everything that is not traffic, in a process that has nothing else to do.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// Ends a process: an error is printed with what caused it.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes; a cause that was said with the error before it is not said again.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        before if before.contains(&cause) => said,
        before => format!("{before}: {cause}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let cause = io::Error::other("the disk is full");
        let error = anyhow::Error::new(cause).context("cannot write a: the disk is full").context("cannot start");
        assert_eq!(with_causes(&error), "cannot start: cannot write a: the disk is full");
    }
}
