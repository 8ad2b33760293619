//! East-west: a proxy that follows a control plane ([`follower`]) and takes the traffic of one application.
//!
//! [`Command`] is the command line of `fairway-sidecar`, and of `fairway sidecar`. [`capture`] is how an application's
//! traffic comes to the sidecar without the application's doing.

mod application;
mod args;
pub mod capture;
mod footprint;
mod listeners;
mod options;
mod readiness;
mod registration;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use follower::{Follower, process};
use push::workload::Ready;
use tokio::sync::oneshot;

use self::application::Application;
pub use self::args::RunArgs;
pub use self::options::{ApplicationPort, BindService, CaptureMode, ListenOn, Options, Readiness};

/// What `--help` ends with.
pub const EXAMPLES: &str = "\
Run a sidecar for an application that runs already:
  fairway-sidecar --control-plane https://control.internal:15012 --control-plane-ca ca.crt \\
    --join-token-file join.token --namespace shop --service reviews --port http=9080
Start the application when the sidecar can serve it, and drain after it has ended:
  fairway-sidecar run … --wait-ready -- myserver --listen :9080
Lead the traffic of this host through it (as root), and back:
  fairway-sidecar capture apply
  fairway-sidecar capture remove
Without root: listeners on loopback that stand for services:
  fairway-sidecar … --capture explicit --port http=9080@19080 \\
    --bind-service ratings:9080=127.0.0.1:9081";

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Run a sidecar (also without this word), and the application after `--` with it
    Run(Box<RunArgs>),
    /// Lead the TCP traffic of this host, or of this network namespace, through a sidecar
    #[command(subcommand)]
    Capture(capture::Command),
}

/// Makes `run` of a command line that names no command: its flags begin at `position`.
pub fn with_run(mut words: Vec<OsString>, position: usize) -> Vec<OsString> {
    let commands = ["run", "capture", "help", "-h", "--help", "-V", "--version"];
    let named = words.get(position).is_some_and(|word| commands.iter().any(|command| word == command));
    if !named && words.len() >= position {
        words.insert(position, "run".into());
    }
    words
}

/// Runs a command to its end.
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Run(args) => run_sidecar(*args),
        Command::Capture(command) => capture::run(command).map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
    };
    result.unwrap_or_else(|error| process::exit_code(Err(error)))
}

fn run_sidecar(args: RunArgs) -> anyhow::Result<ExitCode> {
    args.log.init();
    process::raise_file_limit();
    let (options, transport) = args.into_parts()?;
    process::runtime()?.block_on(async {
        tracing::info!(
            namespace = %options.follower.scope.namespace, service_account = options.follower.service_account,
            address = options.address.map(tracing::field::display), capture = ?options.capture, "starting"
        );
        tokio::spawn(footprint::keep_small());
        if options.command.is_empty() {
            let shutdown = process::signalled().context("cannot listen for signals")?;
            let follower = Follower::start(options.follower, transport)?;
            tokio::spawn(readiness::watch(options.readiness, &follower));
            follower.run(shutdown).await;
            return Ok(ExitCode::SUCCESS);
        }
        let application = Application::new(options.command).context("cannot listen for signals")?;
        let follower = Follower::start(options.follower, transport)?;
        let probing = tokio::spawn(readiness::watch(options.readiness, &follower)).abort_handle();
        let readiness = follower.readiness();
        // Its clients go elsewhere while it still serves those that did not hear yet.
        let ending = move || {
            probing.abort();
            readiness.send_replace(Ready { ready: false, reason: "it was told to end".to_owned() });
        };
        let ready = options.wait_ready.then(|| follower.prerequisites());
        let (stop, stopped) = oneshot::channel::<()>();
        let supervise = async {
            let code = application.run(ready, ending).await;
            // The sidecar outlives the application: answers that are still under way get out.
            let _ = stop.send(());
            code
        };
        let follow = follower.run(async {
            let _ = stopped.await;
        });
        let (code, ()) = tokio::join!(supervise, follow);
        Ok(ExitCode::from(code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_what_is_meant_without_a_command() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (written, meant) in [
            ("x", "x run"),
            ("x --service a", "x run --service a"),
            ("x -- server run", "x run -- server run"),
            ("x run --service a", "x run --service a"),
            ("x capture print", "x capture print"),
            ("x --help", "x --help"),
            ("x --version", "x --version"),
        ] {
            assert_eq!(with_run(words(written), 1), words(meant));
        }
        assert_eq!(with_run(words("fairway sidecar --service a"), 2), words("fairway sidecar run --service a"));
    }
}
