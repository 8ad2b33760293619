//! Transparent capture: the kernel redirects TCP connections to the sidecar, which asks it where they were meant to go.
//!
//! What is redirected ([`Rules`]) is said once and written in the language of nftables ([`nft`]) or of iptables
//! ([`iptables`]). Everything that Fairway puts into the kernel has a name of its own and is replaced as a whole, so
//! that applying twice is applying once, and removing leaves nothing.

mod iptables;
mod nft;
mod rules;
mod tools;

use std::io::{self, Write};

use clap::ValueEnum;

pub(crate) use self::rules::mark;
pub use self::rules::{Cidr, Included, List, Port, Rules};
pub use self::tools::Error;
use self::tools::{Tool, require_privilege};

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Redirect new connections; replaces what was applied before, in one step
    Apply(Box<Args>),
    /// Redirect nothing any more; connections that exist go on
    Remove(Choice),
    /// Show what `apply` would load, without loading it
    Print(Box<Args>),
}

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    rules: Rules,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Choice {
    /// What to load the rules with [default: nft where it is installed and works, else iptables]
    #[arg(long, env = "FAIRWAY_CAPTURE_BACKEND", value_name = "TOOL")]
    backend: Option<Backend>,
}

/// A way to tell the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// One table for IPv4 and IPv6, by `nft`
    Nft,
    /// Chains in the table `nat`, by `iptables-restore` and `ip6tables-restore`
    Iptables,
}

/// Runs `fairway-sidecar capture …`.
pub fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Apply(args) => {
            require_privilege()?;
            let backend = args.choice.detect()?;
            backend.apply(&args.rules)?;
            // Rules of the other tool, from an earlier start, would go on redirecting.
            backend.other().remove_if_present()?;
            say(&format!("applied with {}: {}\n", backend.name(), args.rules))
        }
        Command::Remove(choice) => {
            require_privilege()?;
            let backends =
                choice.backend.map_or_else(|| vec![Backend::Nft, Backend::Iptables], |backend| vec![backend]);
            let mut removed = false;
            for backend in backends {
                removed |= backend.remove_if_present()?;
            }
            say(if removed { "removed\n" } else { "there was nothing to remove\n" })
        }
        Command::Print(args) => say(&match args.choice.detect()? {
            Backend::Nft => nft::script(&args.rules),
            Backend::Iptables => iptables::print(&args.rules),
        }),
    }
}

impl Choice {
    fn detect(self) -> Result<Backend, Error> {
        match self.backend {
            Some(backend) => Ok(backend),
            None if nft::works() => Ok(Backend::Nft),
            None if Tool::find("iptables-restore").is_ok() => Ok(Backend::Iptables),
            // The error says what to install.
            None => Tool::find("nft").map(|_| Backend::Nft),
        }
    }
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Nft => Self::Iptables,
            Self::Iptables => Self::Nft,
        }
    }

    fn apply(self, rules: &Rules) -> Result<(), Error> {
        match self {
            Self::Nft => nft::apply(rules),
            Self::Iptables => iptables::apply(rules),
        }
    }

    /// Whether there was anything. Where the tool is not installed there is nothing of its kind.
    fn remove_if_present(self) -> Result<bool, Error> {
        match self {
            Self::Nft => nft::remove(),
            Self::Iptables => iptables::remove(),
        }
    }
}

fn say(text: &str) -> Result<(), Error> {
    // Nobody reads on: as good as read.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}
