//! Which Sidecar resource a workload is under, and what of the services and VirtualServices it brings in.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::compile::finding::{Finding, Severity};
use crate::compile::mesh::Mesh;
use crate::compile::names::{Seniority, is_visible};
use crate::compile::services::{ServedPort, Service, Services};
use crate::compile::virtual_service::Context;
use crate::field::FieldPath;
use crate::kinds::Protocol;
use crate::kinds::sidecar::{CaptureMode, EgressListener, OutboundMode, Sidecar};
use crate::kinds::virtual_service::Destination;
use crate::meta::ResourceKey;
use crate::table::HostPattern;
use crate::table::stream::Subnet;

const UNIX: &str = "unix://";

/// What a workload may call.
pub(super) struct Egress<'a> {
    resource: Option<(&'a ResourceKey, &'a Sidecar)>,
    own: &'a Arc<str>,
    /// Of redirected traffic.
    listeners: Vec<Opening>,
    /// Those with addresses of their own.
    pub(super) places: Vec<Place>,
    pub(super) findings: Vec<Finding>,
}

/// The hosts of an egress listener.
struct Opening {
    /// `None`: every port that no other listener has.
    port: Option<u16>,
    hosts: Vec<Entry>,
}

/// An egress listener with an address.
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// Nothing is redirected there: the sidecar listens itself (`captureMode: NONE`).
    pub(super) listens: bool,
    /// As written; `None`: as its services declare.
    pub(super) protocol: Option<Protocol>,
    opening: Opening,
}

/// An entry of `egress[].hosts`.
struct Entry {
    /// It takes out what others bring in.
    except: bool,
    /// `None`: any.
    namespace: Option<Arc<str>>,
    host: HostPattern,
}

/// A service that the workload may call.
pub(super) struct Visible<'a> {
    pub(super) host: Arc<str>,
    pub(super) pattern: HostPattern,
    pub(super) service: Service<'a>,
    /// Those that are brought in, each number once.
    pub(super) ports: Vec<ServedPort<'a>>,
}

impl<'a> Egress<'a> {
    pub(super) fn of(context: &Context<'a>) -> Self {
        let resource = in_force(context);
        let own = &context.proxy.namespace;
        let mut egress = Self { resource, own, listeners: Vec::new(), places: Vec::new(), findings: Vec::new() };
        if let Some((key, sidecar)) = resource {
            for (index, listener) in sidecar.egress.iter().enumerate() {
                match egress.open(listener) {
                    Ok(()) => {}
                    Err(message) => egress.findings.push(Finding {
                        resource: key.clone(),
                        path: FieldPath::new("spec").field("egress").index(index),
                        severity: Severity::Warning,
                        reason: "NotSupported",
                        message: message.to_owned(),
                    }),
                }
            }
        }
        if egress.listeners.is_empty() && egress.places.is_empty() {
            let everything = Entry { except: false, namespace: None, host: HostPattern::new("*") };
            egress.listeners.push(Opening { port: None, hosts: vec![everything] });
        }
        egress
    }

    fn open(&mut self, listener: &EgressListener) -> Result<(), &'static str> {
        if listener.bind.starts_with(UNIX) {
            return Err("listening on a Unix socket is not supported; the listener is left out");
        }
        let opening = Opening::new(listener, self.own);
        let listens = *listener.capture_mode == CaptureMode::None;
        let bind = if listener.bind.is_empty() {
            listens.then_some(Ipv4Addr::LOCALHOST.into())
        } else {
            listener.bind.parse::<IpAddr>().ok()
        };
        match (bind, opening.port) {
            (Some(ip), Some(port)) => {
                let address = SocketAddr::new(ip.to_canonical(), port);
                let protocol = listener.port.as_ref().and_then(|port| Protocol::parse(&port.protocol));
                self.places.push(Place { address, listens, protocol, opening });
            }
            (Some(_), None) if listens => {
                return Err("without a port there is nothing to listen on with captureMode NONE; write one");
            }
            _ => self.listeners.push(opening),
        }
        Ok(())
    }

    /// The Sidecar in force.
    pub(super) fn resource(&self) -> Option<&'a Sidecar> {
        self.resource.map(|(_, sidecar)| sidecar)
    }

    /// Whether hosts that are not brought in can be reached, and the resource that says so.
    pub(super) fn unknown_hosts(&self, mesh: &Mesh) -> (bool, ResourceKey) {
        match self.resource.and_then(|(key, sidecar)| Some((key, sidecar.outbound_traffic_policy.as_ref()?))) {
            Some((key, policy)) => (*policy.mode == OutboundMode::AllowAny, key.clone()),
            None => (mesh.allows_unknown_hosts(), Mesh::key()),
        }
    }

    /// Where requests to unknown hosts go instead of to these.
    pub(super) fn egress_proxy(&self) -> Option<&'a Destination> {
        self.resource?.1.outbound_traffic_policy.as_ref()?.egress_proxy.as_ref()
    }

    /// The services of a set that redirected traffic may go to, oldest first.
    pub(super) fn services(&self, services: &'a Services, context: &Context<'_>) -> Vec<Visible<'a>> {
        let brings = |home: &str, host: &HostPattern| self.listeners.iter().any(|listener| listener.brings(home, host));
        self.visible(services, context, brings, |service, pattern| {
            service.ports().filter(|port| self.brings_port(service.namespace, pattern, port.number)).collect()
        })
    }

    /// Those of a listener with an address: their port of the same number, or the only one.
    pub(super) fn services_of(&self, place: &Place, services: &'a Services, context: &Context<'_>) -> Vec<Visible<'a>> {
        let brings = |home: &str, host: &HostPattern| place.opening.brings(home, host);
        self.visible(services, context, brings, |service, _| {
            service.port(place.address.port()).or_else(|| service.only_port()).into_iter().collect()
        })
    }

    fn visible(
        &self,
        services: &'a Services,
        context: &Context<'_>,
        brings: impl Fn(&str, &HostPattern) -> bool,
        ports: impl Fn(&Service<'a>, &HostPattern) -> Vec<ServedPort<'a>>,
    ) -> Vec<Visible<'a>> {
        let default = context.mesh.service_export_to();
        let visible = services.hosts().filter_map(|host| {
            let pattern = HostPattern::new(host);
            let service = services.pick(host, self.own, |key, spec| {
                is_visible(&spec.export_to, default, &key.namespace, self.own) && brings(&key.namespace, &pattern)
            })?;
            let mut seen = BTreeSet::new();
            let mut ports = ports(&service, &pattern);
            ports.retain(|port| seen.insert(port.number));
            (!ports.is_empty()).then(|| Visible { host: host.clone(), pattern, service, ports })
        });
        let mut found: Vec<_> = visible.collect();
        found.sort_by(|a, b| (a.service.seniority, &a.host).cmp(&(b.service.seniority, &b.host)));
        found
    }

    /// Of several listeners the one with the very port says what is there.
    fn brings_port(&self, home: &str, host: &HostPattern, port: u16) -> bool {
        let of_port = |wanted: Option<u16>| self.listeners.iter().filter(move |listener| listener.port == wanted);
        let port = Some(port).filter(|port| of_port(Some(*port)).next().is_some());
        of_port(port).any(|listener| listener.brings(home, host))
    }

    /// Whether a VirtualService in `home` has a say in a host.
    pub(super) fn brings_rules_for(&self, home: &str, host: &HostPattern) -> bool {
        let mut openings = self.listeners.iter().chain(self.places.iter().map(|place| &place.opening));
        openings.any(|listener| {
            let of_home = || listener.hosts.iter().filter(|entry| entry.is_of(home));
            of_home().any(|entry| !entry.except && entry.host.narrower(host).is_some())
                && !of_home().any(|entry| entry.except && host.is_subset_of(&entry.host))
        })
    }
}

impl Opening {
    fn new(listener: &EgressListener, own: &Arc<str>) -> Self {
        let port = listener.port.as_ref().and_then(|port| u16::try_from(*port.number).ok()).filter(|port| *port > 0);
        let hosts = listener.hosts.iter().filter_map(|text| Entry::parse(text, own)).collect();
        Self { port, hosts }
    }

    fn brings(&self, home: &str, host: &HostPattern) -> bool {
        let fits = |entry: &&Entry| entry.is_of(home) && host.is_subset_of(&entry.host);
        self.hosts.iter().any(|entry| !entry.except && fits(&entry))
            && !self.hosts.iter().any(|entry| entry.except && fits(&entry))
    }
}

impl Entry {
    /// `namespace/host` with `.`, `*` and `~` as special namespaces; `None` for what brings in nothing.
    fn parse(text: &str, own: &Arc<str>) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let (except, namespace) = match namespace.strip_prefix('~') {
            Some("") => return None,
            Some(namespace) => (true, namespace),
            None => (false, namespace),
        };
        let namespace = match namespace {
            "*" => None,
            "." => Some(own.clone()),
            namespace => Some(namespace.into()),
        };
        Some(Self { except, namespace, host: HostPattern::new(host) })
    }

    fn is_of(&self, home: &str) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == home)
    }
}

/// The oldest Sidecar that selects the workload, else of its namespace, else of the root namespace.
fn in_force<'a>(context: &Context<'a>) -> Option<(&'a ResourceKey, &'a Sidecar)> {
    let (own, root) = (&*context.proxy.namespace, context.mesh.root_namespace());
    let ranked = context.set.specs::<Sidecar>().filter_map(|(resource, sidecar)| {
        let home = &*resource.key.namespace;
        let selector = sidecar.workload_selector.as_ref().filter(|selector| !selector.labels.is_empty());
        let rank = match selector {
            Some(selector) => {
                let fits = selector.labels.iter().all(|(key, value)| context.proxy.labels.get(key) == Some(value));
                (home == own && fits).then_some(0)?
            }
            None if home == own => 1,
            None if home == root => 2,
            None => return None,
        };
        Some((rank, Seniority::of(resource), (&resource.key, sidecar)))
    });
    ranked.min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1))).map(|(.., found)| found)
}

/// The addresses of a port's service, single ones and networks.
pub(super) fn addresses(port: &ServedPort<'_>) -> (Vec<IpAddr>, Vec<Subnet>) {
    let (mut single, mut networks) = (Vec::new(), Vec::new());
    for text in &port.entry.addresses {
        if let Ok(address) = text.parse::<IpAddr>() {
            single.push(address.to_canonical());
        } else if let Some(network) = Subnet::parse(text) {
            networks.push(network);
        }
    }
    (single, networks)
}
