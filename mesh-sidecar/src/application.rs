//! The application that a sidecar starts, hands signals to, and outlives.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use follower::{Missing, Prerequisites};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tracing::{error, info, warn};

/// How often it is said that the application is held back.
const REMIND: Duration = Duration::from_secs(10);

/// What shells answer for a command that is not there, or cannot be run.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;

/// Added by shells to the number of the signal that ended a command.
const SIGNALLED: i32 = 128;

/// A command that is not started yet.
#[derive(Debug)]
pub(crate) struct Application {
    /// Program and arguments; not empty.
    command: Vec<OsString>,
    signals: Signals,
}

impl Application {
    /// From here on signals are the application's.
    pub(crate) fn new(command: Vec<OsString>) -> io::Result<Self> {
        Ok(Self { command, signals: Signals::new()? })
    }

    /// Starts the application, when all is there if `ready` is given, and answers with its exit code when it
    /// has ended; 128 and the signal's number if a signal ended it, as shells do. A further signal then ends this
    /// process at once. Calls `ending` when the application is told to end.
    pub(crate) async fn run(mut self, ready: Option<Prerequisites>, ending: impl FnOnce() + Send) -> u8 {
        if let Some(ready) = ready
            && let Err(signal) = self.until(ready).await
        {
            info!(?signal, "ending before the application was started");
            return code_of_signal(signal.as_raw());
        }
        let code = match self.start() {
            Ok(child) => self.supervise(child, ending).await,
            Err(error) => {
                error!(program = %self.command[0].display(), %error, "cannot start the application");
                if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
            }
        };
        tokio::spawn(async move {
            let signal = self.signals.ending().await;
            warn!(?signal, "ending at once");
            std::process::exit(code.into());
        });
        code
    }

    /// Waits until all is there, or until a signal says that it will not be needed.
    async fn until(&mut self, ready: Prerequisites) -> Result<(), Signal> {
        let mut met = ready.clone();
        let mut remind = tokio::time::interval(REMIND);
        loop {
            tokio::select! {
                () = met.met() => return Ok(()),
                signal = self.signals.ending() => return Err(signal),
                _ = remind.tick() => {
                    match ready.missing() {
                        None => {}
                        Some(Missing::Given(what)) => {
                            info!("the application is started when there is {what} from the control plane");
                        }
                        Some(Missing::Listener(address)) => {
                            info!("the application is started when its sidecar can listen on {address}");
                        }
                    }
                }
            }
        }
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = tokio::process::Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        if !self.signals.shared {
            // What reaches the group of this process is handed on, and must not arrive twice.
            command.process_group(0);
        }
        let child = command.spawn()?;
        info!(program = %self.command[0].display(), pid = child.id(), "started the application");
        Ok(child)
    }

    async fn supervise(&mut self, mut child: Child, ending: impl FnOnce()) -> u8 {
        let mut ending = Some(ending);
        loop {
            tokio::select! {
                status = child.wait() => return match status {
                    Ok(status) => {
                        info!(%status, "the application has ended");
                        code_of(status)
                    }
                    Err(error) => {
                        error!(%error, "cannot wait for the application");
                        CANNOT_RUN
                    }
                },
                signal = self.signals.next() => {
                    // Others may mean anything: reload, say where the threads are.
                    if [Signal::TERM, Signal::INT].contains(&signal) && let Some(ending) = ending.take() {
                        ending();
                    }
                    // Not reaped yet, or the branch above would have been taken: the number is still its own.
                    let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
                    if let Some(pid) = pid && self.signals.is_to_hand_on(signal) {
                        info!(?signal, "handing on to the application");
                        if let Err(error) = kill_process(pid, signal) {
                            warn!(?signal, %error, "cannot signal the application");
                        }
                    }
                }
            }
        }
    }
}

/// The signals that are the application's.
#[derive(Debug)]
struct Signals {
    hang_up: Listener,
    interrupt: Listener,
    quit: Listener,
    terminate: Listener,
    user_1: Listener,
    user_2: Listener,
    /// There is a terminal: the application stays in its foreground group, so that it can read, and gets what is typed
    /// (Ctrl-C) from the terminal itself.
    shared: bool,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            shared: io::stdin().is_terminal(),
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hang_up.recv() => Signal::HUP,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.user_1.recv() => Signal::USR1,
            _ = self.user_2.recv() => Signal::USR2,
        }
    }

    /// The next one that asks to end.
    async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if ![Signal::USR1, Signal::USR2].contains(&signal) {
                return signal;
            }
        }
    }

    fn is_to_hand_on(&self, signal: Signal) -> bool {
        !(self.shared && [Signal::INT, Signal::QUIT].contains(&signal))
    }
}

fn code_of(status: ExitStatus) -> u8 {
    match status.code() {
        // The system keeps eight bits of it.
        Some(code) => code as u8,
        None => code_of_signal(status.signal().unwrap_or_default()),
    }
}

fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(SIGNALLED + signal).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code_of(ExitStatus::from_raw(15)), 143);
        assert_eq!(code_of_signal(Signal::INT.as_raw()), 130);
    }
}
