//! The command line of a sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{bail, ensure};
use follower::Transport;
use follower::args::{self, JoinArgs, ProxyArgs};
use follower::logging::LogArgs;
use proxy::{OwnTraffic, ProxyIdentity};
use push::declared::{service_key, service_label};
use route_model::compile::names::qualify_host;
use route_model::compile::{ProxyRole, ProxyScope};
use serde_json::Map;

use crate::capture;
use crate::listeners::Listeners;
use crate::options::{ApplicationPort, BindService, CaptureMode, ListenOn, Options, Readiness, is_dns_label, is_host};
use crate::registration;

/// More workers than this bring a sidecar little and cost memory and connections.
const MOST_WORKERS: usize = 2;

/// A sidecar, and the application that it may start.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub join: JoinArgs,

    /// Where the last good configuration, the node id and ports.json are kept
    #[arg(long, env = "FAIRWAY_DATA_DIR", value_name = "DIR", default_value = "./fairway-sidecar-data")]
    pub data_dir: PathBuf,

    /// The namespace of the application
    #[arg(long, env = "FAIRWAY_NAMESPACE", value_name = "NAMESPACE", default_value = "default", value_parser = dns_label)]
    pub namespace: String,

    /// The application's service account: with the namespace, its identity in the mesh
    #[arg(long, env = "FAIRWAY_SERVICE_ACCOUNT", value_name = "NAME", default_value = "default", value_parser = dns_label)]
    pub service_account: String,

    /// The labels of the application, for selectors and subsets: app=reviews,version=v2
    #[arg(long, env = unless_empty("FAIRWAY_LABELS"), value_name = "KEY=VALUE", value_delimiter = ',', value_parser = args::label)]
    pub labels: Vec<(String, String)>,

    /// Where the application runs, for endpoints that are nearer than others: region/zone/subzone, as far as it matters
    #[arg(long, env = "FAIRWAY_LOCALITY", value_name = "REGION/ZONE/SUBZONE", value_parser = args::locality)]
    pub locality: Option<String>,

    /// The network that the application is in, held against the network of endpoints
    #[arg(long, env = "FAIRWAY_NETWORK", value_name = "NAME")]
    pub network: Option<String>,

    /// The service that the application is part of; made, with the ports below, if nobody has written it
    #[arg(long, env = "FAIRWAY_SERVICE", value_name = "NAME", requires = "ports", value_parser = host)]
    pub service: Option<String>,

    /// The WorkloadGroup of the namespace that the application belongs to: it says what the flags leave unsaid, and how
    /// to probe the application
    #[arg(long, env = "FAIRWAY_WORKLOAD_GROUP", value_name = "NAME")]
    pub workload_group: Option<String>,

    // Not FAIRWAY_PORT: Kubernetes sets that in every container beside a Service called fairway.
    /// A port of the application, by a name that begins with its protocol: http=9080, grpc-api=7070, tcp=5432.
    /// With explicit capture also where the sidecar listens for it: http=9080@19080. May be given more than once
    #[arg(
        id = "ports",
        long = "port",
        env = unless_empty("FAIRWAY_PORTS"),
        value_name = "NAME=PORT[@LISTEN]",
        value_delimiter = ','
    )]
    pub ports: Vec<ApplicationPort>,

    /// How traffic comes to the sidecar
    #[arg(long, env = "FAIRWAY_CAPTURE", value_name = "HOW", default_value = "transparent")]
    pub capture: CaptureMode,

    /// The packet mark of the sidecar's own connections, by which `capture` leaves them alone whatever user it runs as. It
    /// is set where that is allowed (capability NET_ADMIN); 0: there is none
    #[arg(long, env = "FAIRWAY_CAPTURE_MARK", value_name = "MARK", default_value = "1337", value_parser = capture::mark)]
    pub mark: u32,

    /// A listener that stands for a service, with explicit capture: reviews=127.0.0.1:9080, or reviews:80=127.0.0.1:9080
    /// if the service's port is another. May be given more than once
    #[arg(
        long = "bind-service",
        env = unless_empty("FAIRWAY_BIND_SERVICES"),
        value_name = "HOST[:PORT]=IP:PORT",
        value_delimiter = ','
    )]
    pub bind_services: Vec<BindService>,

    /// Where the application's own connections are taken; on loopback alone, unless an address is written
    #[arg(long, env = "FAIRWAY_OUTBOUND_ADDR", value_name = "[IP]:PORT", default_value = ":15001")]
    pub outbound_addr: ListenOn,

    /// Where redirected connections to the application are taken
    #[arg(long, env = "FAIRWAY_INBOUND_ADDR", value_name = "[IP]:PORT", default_value = ":15006")]
    pub inbound_addr: ListenOn,

    /// Where others reach this host [default: its address on the way to the control plane]
    #[arg(long, env = "FAIRWAY_ADDRESS", value_name = "IP")]
    pub address: Option<IpAddr>,

    /// How to see, once a second, whether the application can take traffic: tcp:9080, http://:9080/healthz. Goes before
    /// the probe of the WorkloadGroup; without either the application is taken to be ready
    #[arg(long, env = "FAIRWAY_READINESS", value_name = "CHECK")]
    pub readiness: Option<Readiness>,

    /// Worker threads [default: the cores that this process may use, at most 2]
    #[arg(long, env = "FAIRWAY_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    #[command(flatten)]
    pub proxy: ProxyArgs,

    #[command(flatten)]
    pub log: LogArgs,

    /// Start the application only when there are a configuration to serve it by and a certificate to be known by
    #[arg(long, env = "FAIRWAY_WAIT_READY", requires = "command")]
    pub wait_ready: bool,

    /// The application to start: it gets the signals, its end is the sidecar's, its exit code too
    #[arg(last = true, value_name = "APPLICATION")]
    pub command: Vec<OsString>,
}

impl RunArgs {
    /// Reads the files that the command line names.
    pub fn into_parts(self) -> anyhow::Result<(Options, Transport)> {
        self.check()?;
        let address = registration::address(&self)?;
        let registered = registration::workload(&self)?;
        let scope = ProxyScope {
            role: ProxyRole::Sidecar,
            namespace: self.namespace.as_str().into(),
            labels: self.all_labels(),
        };
        let workload = scope.labels.get("app").or(self.service.as_ref()).map_or("fairway-sidecar", String::as_str);
        let listeners =
            Listeners::new(self.capture, self.outbound_addr, self.inbound_addr, &self.ports, &self.bind_services);
        let own_traffic = self.own_traffic();
        let transport = self.join.into_transport(&self.data_dir, own_traffic)?;
        let base = self.proxy.options();
        let proxy = proxy::Options {
            workers: self.workers.map_or_else(|| base.workers.min(MOST_WORKERS), usize::from),
            identity: ProxyIdentity { workload: workload.to_owned(), ..ProxyIdentity::default() },
            port_map: listeners.free,
            own_traffic,
            ..base
        };
        let follower = follower::Options {
            node_id: self.proxy.node_id,
            scope,
            sidecar: Some(listeners.scope),
            service_account: self.service_account,
            proxy,
            data_dir: self.data_dir,
            other_ports: Map::new(),
            workload: Some(registered),
        };
        let options = Options {
            follower,
            service: self.service,
            ports: self.ports,
            capture: self.capture,
            bind_services: self.bind_services,
            outbound: self.outbound_addr,
            inbound: self.inbound_addr,
            address,
            readiness: self.readiness,
            wait_ready: self.wait_ready,
            command: self.command,
        };
        Ok((options, transport))
    }

    fn own_traffic(&self) -> OwnTraffic {
        let led_here_by_rules = self.capture == CaptureMode::Transparent;
        if led_here_by_rules && self.mark != 0 && proxy::can_mark(self.mark) {
            OwnTraffic::Marked(self.mark)
        } else {
            OwnTraffic::Watched
        }
    }

    /// Those of the application, and the one by which the service that it declares selects it.
    fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = args::labels(self.locality.as_deref(), self.network.as_deref(), &self.labels);
        if let Some(service) = &self.service {
            let key = service_key(&self.namespace, &qualify_host(service, &self.namespace));
            labels.insert(service_label(&key), "true".to_owned());
        }
        labels
    }

    /// What flags say together.
    fn check(&self) -> anyhow::Result<()> {
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for port in &self.ports {
            ensure!(names.insert(&port.name), "--port: the name {} is given twice", port.name);
            ensure!(numbers.insert(port.port), "--port: {} is given twice", port.port);
            match (self.capture, port.listen) {
                (CaptureMode::Explicit, None) => bail!(
                    "--port {0}={1}: explicit capture needs to know where to listen for it: {0}={1}@{2}",
                    port.name,
                    port.port,
                    port.port.checked_add(10_000).unwrap_or_else(|| port.port - 10_000)
                ),
                (CaptureMode::Transparent, Some(listen)) => bail!(
                    "--port {}={}@{listen}: a listener of its own is for --capture explicit; transparent capture takes \
                     the connections to {1} themselves",
                    port.name,
                    port.port
                ),
                _ => {}
            }
        }
        let mut listeners = BTreeSet::new();
        for bind in &self.bind_services {
            ensure!(
                self.capture == CaptureMode::Explicit,
                "--bind-service {}: listeners that stand for services are for --capture explicit",
                bind.host
            );
            let free = bind.listen.port() == 0;
            ensure!(free || listeners.insert(bind.listen), "--bind-service: {} is given twice", bind.listen);
        }
        Ok(())
    }
}

/// The name of a variable with a list; `None` if it is set to nothing, which is a list of nothing and not a wrong item.
fn unless_empty(name: &'static str) -> Option<&'static str> {
    std::env::var_os(name).is_none_or(|list| !list.is_empty()).then_some(name)
}

fn dns_label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        Ok(text.to_owned())
    } else {
        Err("it has 1 to 63 lower-case letters, digits and inner hyphens".to_owned())
    }
}

fn host(text: &str) -> Result<String, String> {
    if is_host(text) {
        Ok(text.to_owned())
    } else {
        Err("it is the name of a service, reviews, or a host, reviews.example.com".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(more: &[&str]) -> Result<RunArgs, clap::Error> {
        let required = ["sidecar", "--control-plane-ca", "ca.pem", "--join-token-file", "token"];
        Cli::try_parse_from(required.iter().chain(more)).map(|cli| cli.args)
    }

    #[test]
    fn the_defaults_are_istios() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.namespace.as_str(), args.service_account.as_str()), ("default", "default"));
        assert_eq!((args.outbound_addr.to_string(), args.inbound_addr.to_string()), (":15001".into(), ":15006".into()));
        assert_eq!(args.capture, CaptureMode::Transparent);
        assert!(args.command.is_empty() && !args.wait_ready);
        args.check().unwrap();
    }

    #[test]
    fn an_application_keeps_its_own_flags() {
        let args = parse(&["--wait-ready", "--", "server", "--port", "x"]).unwrap();
        assert_eq!(args.command, ["server", "--port", "x"]);
        assert!(args.ports.is_empty());
    }

    #[test]
    fn lists_are_given_by_commas_or_one_by_one() {
        let args = parse(&["--port", "http=80,grpc=81", "--port", "tcp=82", "--labels", "a=b,c=d"]).unwrap();
        assert_eq!(args.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [80, 81, 82]);
        assert_eq!(args.labels.len(), 2);
        args.check().unwrap();
    }

    #[test]
    fn the_service_that_is_declared_selects_the_sidecar() {
        let words = ["--namespace", "shop", "--service", "reviews", "--port", "http=80", "--labels", "app=books"];
        let labels = parse(&words).unwrap().all_labels();
        assert_eq!(labels.get("service.fairway.dev/reviews").map(String::as_str), Some("true"), "{labels:?}");
        assert_eq!(labels.get("app").map(String::as_str), Some("books"), "{labels:?}");
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for (words, hint) in [
            ("--port 9080", "http=9080@19080"),
            ("--bind-service reviews", "reviews=127.0.0.1:9080"),
            ("--outbound-addr 15001", ":15001"),
            ("--readiness 9080", "http://:9080/healthz"),
            ("--namespace Shop", "lower-case"),
            ("--service reviews", "--port"),
            ("--service a_b --port http=1", "reviews.example.com"),
            ("--wait-ready", "APPLICATION"),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let error = parse(&words).unwrap_err().to_string();
            assert!(error.contains(hint), "{words:?}: {error}");
        }
    }

    #[test]
    fn flags_that_do_not_go_together_are_refused_with_a_hint() {
        for (words, hint) in [
            ("--port http=80 --port http=81", "the name http is given twice"),
            ("--port http=80 --port tcp=80", "80 is given twice"),
            ("--capture explicit --port http=9080", "http=9080@19080"),
            ("--capture explicit --port http=60000", "http=60000@50000"),
            ("--port http=9080@19080", "--capture explicit"),
            ("--bind-service a=127.0.0.1:1", "--capture explicit"),
            ("--capture explicit --bind-service a=127.0.0.1:1,b=127.0.0.1:1", "127.0.0.1:1 is given twice"),
        ] {
            let args = parse(&words.split(' ').collect::<Vec<_>>()).unwrap();
            let error = args.check().unwrap_err().to_string();
            assert!(error.contains(hint), "{words:?}: {error}");
        }
        let free = "--capture explicit --bind-service a:1=127.0.0.1:0,b:1=127.0.0.1:0 --port http=1@0";
        parse(&free.split(' ').collect::<Vec<_>>()).unwrap().check().unwrap();
    }
}
