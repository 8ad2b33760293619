//! The command line of `fleet`, and what it starts.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::fault::Fault;
use crate::fleet::{Fleet, Member};
use crate::peers::{DOMAIN, Peers};
use crate::service::{Service, Version};

/// The demo application of Fairway: seven services that track vehicles
#[derive(Clone, Debug, clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "All of it, without a proxy:      fleet all, then http://127.0.0.1:9101/\n\
                  One service beside its sidecar:  fleet webapp --listen 127.0.0.1:9101 --peer api-gateway=127.0.0.1:9202"
)]
pub struct Args {
    /// webapp, api-gateway, position-tracker, position-simulator, staff-service, photo-service, vehicle-telemetry, or all
    service: Which,

    /// Which version of it to be; staff-service and photo-service have a v2
    #[arg(long, env = "FLEET_VERSION", default_value = "v1")]
    version: Version,

    /// Where to listen [default: the service's own port, 9101 and up, on 127.0.0.1]. Of all of them the IP counts alone
    #[arg(long, env = "FLEET_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,

    /// Where all other services are reached: a gateway, or a proxy that goes by the Host
    #[arg(long, env = "FLEET_PEERS", value_name = "HOST:PORT")]
    peers: Option<String>,

    /// Where one of them is reached. May be given more than once
    #[arg(long = "peer", env = "FLEET_PEER", value_name = "SERVICE=HOST:PORT", value_delimiter = ',')]
    each: Vec<PeerAt>,

    /// What the services' names end in: they are called staff-service.DOMAIN, and found there if nothing else is said
    #[arg(long, env = "FLEET_DOMAIN", default_value = DOMAIN)]
    domain: String,

    /// Be slow: wait so many milliseconds before each answer. POST /fault changes it later, and the two below
    #[arg(long, env = "FLEET_DELAY_MS", value_name = "MS", default_value_t = 0)]
    delay_ms: u32,

    /// Be wrong: answer so many of a hundred requests with 500
    #[arg(long, env = "FLEET_ERROR_PERCENT", value_name = "PERCENT", default_value_t = 0)]
    error_percent: u8,

    /// Be stuck: answer nothing
    #[arg(long, env = "FLEET_HANG")]
    hang: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    One(Service),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerAt(Service, String);

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

impl FromStr for PeerAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, address) = text.split_once('=').ok_or("it is SERVICE=HOST:PORT")?;
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(Self(service.parse()?, address.to_owned())),
            _ => Err(format!("`{address}` is not HOST:PORT")),
        }
    }
}

/// Serves until a signal ends the process. Errors are printed.
pub fn run(args: Args) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    match serve_until_signalled(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_until_signalled(args: Args) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let serve = serve(args);
        let ended = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        let (mut terminated, mut interrupted) = (ended(SignalKind::terminate())?, ended(SignalKind::interrupt())?);
        tokio::select! {
            result = serve => result,
            _ = terminated.recv() => Ok(()),
            _ = interrupted.recv() => Ok(()),
        }
    })
}

async fn serve(args: Args) -> Result<(), String> {
    let fault = Fault { delay_ms: args.delay_ms, error_percent: args.error_percent, hang: args.hang }.check()?;
    let mut peers = Peers::new(&args.domain);
    if let Some(address) = &args.peers {
        peers = peers.all_at(address);
    }
    for PeerAt(service, address) in args.each {
        peers = peers.at(service, address);
    }
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    match args.service {
        Which::All => {
            let fleet = Fleet::bind(args.listen.map_or(loopback, |listen| listen.ip())).await;
            let fleet = fleet.map_err(|error| error.to_string())?;
            fleet.members().iter().for_each(announce);
            let peers = if args.peers.is_some() { peers } else { fleet.direct(peers) };
            fleet.run(peers).await;
        }
        Which::One(service) => {
            let version = args.version;
            if !service.versions().contains(&version) {
                return Err(format!("{service} has no {version}"));
            }
            let default = SocketAddr::new(loopback, service.default_port(version));
            let listen = args.listen.unwrap_or(default);
            let member = Member::bind(service, version, listen, fault).await;
            let member = member.map_err(|error| format!("{service} {version} cannot listen on {listen}: {error}"))?;
            announce(&member);
            member.run(peers).await;
        }
    }
    Ok(())
}

fn announce(member: &Member) {
    println!("{} {} listens on http://{}", member.service, member.version, member.address);
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        _args: Args,
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for (words, hint) in [
            ("fleet web", "webapp"),
            ("fleet webapp --peer api-gateway", "SERVICE=HOST:PORT"),
            ("fleet webapp --peer api-gateway=127.0.0.1", "HOST:PORT"),
            ("fleet webapp --version v3", "v1 or v2"),
        ] {
            let error = Cli::try_parse_from(words.split(' ')).unwrap_err().to_string();
            assert!(error.contains(hint), "{words}: {error}");
        }
    }
}
