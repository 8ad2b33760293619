//! What a sidecar registers: the workload beside it, and what that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use prost::Message;
use route_model::kinds::protocol::Protocol;
use route_model::names::{DNS_LABEL, DNS_SUBDOMAIN, LABEL_VALUE, QUALIFIED};
use route_model::names::{is_dns_label, is_dns_subdomain, is_label_value, is_qualified};
use serde::{Deserialize, Serialize};

pub const MAX_PORTS: usize = 64;
pub const MAX_SERVICES: usize = 16;
pub const MAX_LABELS: usize = 64;
/// The largest weight.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// Bytes of [`Ready::reason`].
pub const MAX_REASON_BYTES: usize = 1024;

const MAX_LOCALITY_BYTES: usize = 253;
/// Labels under this name and below it are the control plane's to give.
const RESERVED: &str = "fairway.dev";

/// A workload as its sidecar describes it. What is left empty comes from the WorkloadGroup, if there is one.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workload {
    /// An IP address that its clients reach.
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(message, repeated, tag = "2")]
    pub ports: Vec<WorkloadPort>,
    #[prost(btree_map = "string, string", tag = "3")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// `region/zone/subzone`.
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Relative; 0: not said.
    #[prost(uint32, tag = "6")]
    pub weight: u32,
    /// What it is an endpoint of, beside the ServiceEntries that select it.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<DeclaredService>,
    /// The WorkloadGroup of its namespace that it belongs to; empty: none.
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Whether it can serve now; later changes come as [`Ready`].
    #[prost(bool, tag = "9")]
    #[serde(skip)]
    pub ready: bool,
}

/// A port of a workload.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadPort {
    #[prost(string, tag = "1")]
    pub name: String,
    /// As in `spec.ports[].protocol` of a ServiceEntry; empty: what the name begins with (`http-admin`), else TCP.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// The service's port.
    #[prost(uint32, tag = "3")]
    pub number: u32,
    /// Where the address takes it; 0: `number`.
    #[prost(uint32, tag = "4")]
    pub target: u32,
}

/// A service that a workload is an endpoint of.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeclaredService {
    /// A short name, which is one of the workload's namespace, or a whole host.
    #[prost(string, tag = "1")]
    pub host: String,
    /// The names of its ports; none: all ports of the workload.
    #[prost(string, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// "The workload can serve now", or not.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Ready {
    #[prost(bool, tag = "1")]
    pub ready: bool,
    /// Why not, for people.
    #[prost(string, tag = "2")]
    pub reason: String,
}

impl Workload {
    /// # Errors
    /// What is wrong and where, in words for the one who runs the sidecar.
    pub fn check(&self) -> Result<(), String> {
        self.check_address()?;
        self.check_but_address()
    }

    /// Looks at all but the address, which may not be known yet.
    ///
    /// # Errors
    /// As [`Workload::check`].
    pub fn check_but_address(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        at_most(self.ports.len(), MAX_PORTS, "ports")?;
        for port in &self.ports {
            port.check()?;
            if !names.insert(port.name.as_str()) || !numbers.insert(port.number) {
                return Err(format!(
                    "the port {}={} is named or numbered like another; each needs its own name and number",
                    port.name, port.number
                ));
            }
        }
        at_most(self.services.len(), MAX_SERVICES, "services")?;
        let mut hosts = BTreeSet::new();
        for service in &self.services {
            service.check(&names)?;
            if !hosts.insert(service.host.as_str()) {
                return Err(format!("the service {:?} is declared twice", service.host));
            }
        }
        self.check_place()
    }

    fn check_address(&self) -> Result<(), String> {
        let address: IpAddr = self
            .address
            .parse()
            .map_err(|_| format!("the workload's address {:?} is not an IP address", self.address))?;
        let canonical = address.to_canonical();
        let is_broadcast = matches!(canonical, IpAddr::V4(address) if address.is_broadcast());
        if canonical.is_unspecified() || canonical.is_multicast() || is_broadcast {
            return Err(format!("the workload's address {address} is not one that clients can connect to"));
        }
        Ok(())
    }

    fn check_place(&self) -> Result<(), String> {
        at_most(self.labels.len(), MAX_LABELS, "labels")?;
        for (key, value) in &self.labels {
            if !is_qualified(key) {
                return Err(format!("the label {key:?} {QUALIFIED}"));
            }
            if !is_label_value(value) {
                return Err(format!("the value {value:?} of the label {key} {LABEL_VALUE}"));
            }
            let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
            if prefix == RESERVED || prefix.strip_suffix(RESERVED).is_some_and(|below| below.ends_with('.')) {
                return Err(format!("the label {key} is the control plane's: leave it out"));
            }
        }
        if !is_label_value(&self.network) {
            return Err(format!("the network {:?} {LABEL_VALUE}", self.network));
        }
        let parts = self.locality.split('/').count();
        let is_plain = self.locality.bytes().all(|byte| byte.is_ascii_graphic());
        if parts > 3 || !is_plain || self.locality.len() > MAX_LOCALITY_BYTES {
            return Err(format!("the locality {:?} is not region/zone/subzone", self.locality));
        }
        if self.weight > MAX_WEIGHT {
            return Err(format!("the weight {} is larger than {MAX_WEIGHT}", self.weight));
        }
        if !self.group.is_empty() && !is_dns_subdomain(&self.group) {
            return Err(format!("the WorkloadGroup's name {:?} {DNS_SUBDOMAIN}", self.group));
        }
        Ok(())
    }

    /// The ports of a declared service.
    pub fn ports_of<'a>(&'a self, service: &'a DeclaredService) -> impl Iterator<Item = &'a WorkloadPort> {
        self.ports.iter().filter(|port| service.ports.is_empty() || service.ports.contains(&port.name))
    }
}

impl WorkloadPort {
    fn check(&self) -> Result<(), String> {
        if !is_dns_label(&self.name) {
            return Err(format!("the port's name {:?} {DNS_LABEL}", self.name));
        }
        if !(1..=u32::from(u16::MAX)).contains(&self.number) || self.target > u32::from(u16::MAX) {
            return Err(format!("the port {} is not between 1 and 65535", self.name));
        }
        if !self.protocol.is_empty() && Protocol::parse(&self.protocol).is_none() {
            return Err(format!("the protocol {:?} of the port {} is not known", self.protocol, self.name));
        }
        Ok(())
    }

    /// In upper case: what is said, else what the name begins with, else `TCP`.
    pub fn protocol(&self) -> String {
        let stated = Some(self.protocol.as_str()).filter(|protocol| !protocol.is_empty());
        let named = || {
            let whole = Some(self.name.as_str());
            let web = self.name.starts_with("grpc-web").then_some("grpc-web");
            let first = self.name.split('-').next();
            [whole, web, first].into_iter().flatten().find(|name| Protocol::parse(name).is_some())
        };
        stated.or_else(named).unwrap_or("tcp").to_ascii_uppercase()
    }

    /// Where the address takes it.
    pub fn target(&self) -> u32 {
        if self.target == 0 { self.number } else { self.target }
    }
}

impl DeclaredService {
    fn check(&self, ports: &BTreeSet<&str>) -> Result<(), String> {
        let is_host = if self.host.contains('.') {
            is_dns_subdomain(&self.host) && self.host.parse::<IpAddr>().is_err()
        } else {
            is_dns_label(&self.host)
        };
        if !is_host {
            return Err(format!("the service {:?} is neither a short name nor a host, in lower case", self.host));
        }
        if let Some(unknown) = self.ports.iter().find(|name| !ports.contains(name.as_str())) {
            return Err(format!("the service {} names the port {unknown:?}, which the workload has not", self.host));
        }
        if ports.is_empty() {
            return Err(format!("the service {} needs a port", self.host));
        }
        at_most(self.ports.len(), MAX_PORTS, "ports of a service")
    }
}

impl Ready {
    /// The reason is cut to [`MAX_REASON_BYTES`]; who is ready needs none.
    pub(crate) fn new(ready: bool, reason: &str) -> Self {
        let reason = if ready { "" } else { reason };
        Self { ready, reason: reason[..reason.floor_char_boundary(MAX_REASON_BYTES)].to_owned() }
    }
}

fn at_most(count: usize, max: usize, what: &str) -> Result<(), String> {
    if count > max { Err(format!("{count} {what} are more than the {max} that a workload may have")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, number: u32) -> WorkloadPort {
        WorkloadPort { name: name.into(), number, ..WorkloadPort::default() }
    }

    fn workload() -> Workload {
        Workload {
            address: "10.0.0.7".into(),
            ports: vec![port("http", 9080), port("grpc-admin", 9090)],
            labels: [("app".to_owned(), "reviews".to_owned())].into(),
            services: vec![DeclaredService { host: "reviews".into(), ports: vec!["http".into()] }],
            ..Workload::default()
        }
    }

    #[test]
    fn what_makes_sense_passes() {
        let cases: [fn(&mut Workload); 8] = [
            |_| {},
            |w| w.address = "::1".into(),
            |w| w.address = "127.0.0.1".into(),
            |w| w.services[0].host = "reviews.example.com".into(),
            |w| w.services.clear(),
            |w| w.locality = "eu/eu-1/rack-7".into(),
            |w| w.ports[0].protocol = "HTTP2".into(),
            |w| (w.ports, w.services) = (Vec::new(), Vec::new()),
        ];
        for (index, edit) in cases.into_iter().enumerate() {
            let mut workload = workload();
            edit(&mut workload);
            assert_eq!(workload.check(), Ok(()), "case {index}");
        }
    }

    #[test]
    fn what_makes_none_is_named() {
        let label = |w: &mut Workload, key: &str, value: &str| drop(w.labels.insert(key.into(), value.into()));
        type Case<'a> = (&'a dyn Fn(&mut Workload), &'a str);
        let cases: [Case<'_>; 22] = [
            (&|w| w.address.clear(), "is not an IP address"),
            (&|w| w.address = "reviews".into(), "is not an IP address"),
            (&|w| w.address = "0.0.0.0".into(), "not one that clients can connect to"),
            (&|w| w.address = "::ffff:0.0.0.0".into(), "not one that clients can connect to"),
            (&|w| w.address = "ff02::1".into(), "not one that clients can connect to"),
            (&|w| w.address = "255.255.255.255".into(), "not one that clients can connect to"),
            (&|w| w.ports[0].number = 0, "is not between 1 and 65535"),
            (&|w| w.ports[0].target = 65_536, "is not between 1 and 65535"),
            (&|w| w.ports[0].name = "HTTP".into(), "the port's name \"HTTP\""),
            (&|w| w.ports[0].protocol = "gopher".into(), "the protocol \"gopher\""),
            (&|w| w.ports[1].number = 9080, "named or numbered like another"),
            (&|w| w.ports[1].name = "http".into(), "named or numbered like another"),
            (&|w| w.ports = (1..=65).map(|n| port(&format!("p{n}"), n)).collect(), "65 ports are more than the 64"),
            (&|w| w.services[0].host = "*.example.com".into(), "neither a short name nor a host"),
            (&|w| w.services[0].host = "10.0.0.1".into(), "neither a short name nor a host"),
            (&|w| w.services[0].ports = vec!["tcp".into()], "names the port \"tcp\""),
            (&|w| w.services.push(w.services[0].clone()), "declared twice"),
            (&|w| label(w, "fairway.dev/generated", "true"), "the control plane's"),
            (&|w| label(w, "service.fairway.dev/payments", "true"), "the control plane's"),
            (&|w| label(w, "app", "two words"), "the value \"two words\""),
            (&|w| w.locality = "a/b/c/d".into(), "is not region/zone/subzone"),
            (&|w| w.group = "Not A Name".into(), "the WorkloadGroup's name"),
        ];
        for (edit, reason) in cases {
            let mut workload = workload();
            edit(&mut workload);
            let refused = workload.check().expect_err(reason);
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn a_ports_protocol_is_what_is_said_or_what_it_is_called() {
        for (name, stated, protocol) in [
            ("http", "", "HTTP"),
            ("http-admin", "", "HTTP"),
            ("grpc-web-ui", "", "GRPC-WEB"),
            ("web", "", "TCP"),
            ("web", "http2", "HTTP2"),
            ("http", "tcp", "TCP"),
        ] {
            let port = WorkloadPort { protocol: stated.into(), ..port(name, 80) };
            assert_eq!(port.protocol(), protocol, "{name} {stated}");
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let ready = Ready::new(false, &"ü".repeat(MAX_REASON_BYTES));
        assert_eq!(ready.reason.len(), MAX_REASON_BYTES);
        assert_eq!(Ready::new(false, &format!("x{}", "ü".repeat(MAX_REASON_BYTES))).reason.len(), MAX_REASON_BYTES - 1);
    }
}
