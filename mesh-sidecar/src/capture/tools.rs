//! Running the system's firewall tools.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

/// Where the tools are on systems that keep them out of the PATH of ordinary users.
const FURTHER_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why traffic could not be captured.
#[derive(Debug, Error)]
pub enum Error {
    #[error(
        "changing what the kernel redirects needs the capability NET_ADMIN: run this as root (in a container: \
         --cap-add NET_ADMIN), or do without by --capture explicit"
    )]
    Privilege,
    #[error("{0} is not installed: install nftables (or iptables), or do without by --capture explicit")]
    NotInstalled(&'static str),
    #[error("{tool} refused the rules: {said}")]
    Refused { tool: &'static str, said: String },
    #[error("cannot run {tool}: {source}")]
    Run { tool: &'static str, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Without it the tools fail one by one, and say so less clearly.
pub(super) fn require_privilege() -> Result<(), Error> {
    let ours = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if ours.contains(CapabilitySet::NET_ADMIN) { Ok(()) } else { Err(Error::Privilege) }
}

/// An installed program.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    path: PathBuf,
}

impl Tool {
    pub(super) fn find(name: &'static str) -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(FURTHER_FOLDERS.iter().map(PathBuf::from));
        let mut paths = folders.map(|folder| folder.join(name));
        let path = paths.find(|path| is_file(path)).ok_or(Error::NotInstalled(name))?;
        Ok(Self { name, path })
    }

    /// What it prints, when fed `input`.
    pub(super) fn run(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let failed = |source| Error::Run { tool: self.name, source };
        let mut child = Command::new(&self.path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that ends before it has read everything says why on its own.
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() { output.status.to_string() } else { said.trim().to_owned() };
        Err(Error::Refused { tool: self.name, said })
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}
