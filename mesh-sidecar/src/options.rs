//! What a sidecar is started with, and how its flags' values are written.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use clap::ValueEnum;
use rustix::io::Errno;

/// The settings of one sidecar. None of it changes while it runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How it follows its control plane, and who it is: namespace, service account, labels.
    pub follower: follower::Options,
    /// The service that its application is part of, made if nobody has written it.
    pub service: Option<String>,
    /// Where its application listens.
    pub ports: Vec<ApplicationPort>,
    pub capture: CaptureMode,
    /// Listeners that stand for services, in place of transparent capture.
    pub bind_services: Vec<BindService>,
    /// Where redirected connections of the application arrive; with explicit capture a forward proxy for HTTP.
    pub outbound: ListenOn,
    /// Where redirected connections to the application arrive.
    pub inbound: ListenOn,
    /// Where others reach this host, if that was written. `None`: at its address on the way to the control plane.
    pub address: Option<IpAddr>,
    /// How to see whether the application can take traffic; without it, the probe of its WorkloadGroup.
    pub readiness: Option<Readiness>,
    /// Start the command only when there is a configuration.
    pub wait_ready: bool,
    /// The application to start: program and arguments. Empty: it runs already.
    pub command: Vec<OsString>,
}

/// How an application's traffic comes to its sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CaptureMode {
    /// The kernel redirects it: see `fairway-sidecar capture apply`
    #[default]
    Transparent,
    /// It is sent here: HTTP_PROXY, --bind-service, --port NAME=PORT@LISTEN
    Explicit,
}

/// A port of the application: `NAME=PORT` or `NAME=PORT@LISTEN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationPort {
    /// A DNS label; what it begins with (`http`, `http-web`, `grpc`, `tcp` …) is the protocol, by Istio's convention.
    pub name: String,
    /// Where the application listens.
    pub port: u16,
    /// Where the sidecar listens for it, with explicit capture. Others are told this port.
    pub listen: Option<ListenOn>,
}

/// A listener that stands for a service: `HOST[:PORT]=IP:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindService {
    /// As in a VirtualService: `reviews`, `reviews.shop`, `reviews.shop.svc.cluster.local`, `api.example.com`.
    pub host: String,
    /// The port of the service; the listener's unless written.
    pub port: u16,
    pub listen: SocketAddr,
}

/// An address whose IP may be left out: `:PORT`, `IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOn {
    pub ip: Option<IpAddr>,
    pub port: u16,
}

/// How to see whether the application can take traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A connection is accepted: `tcp:PORT`, `tcp:IP:PORT`.
    Tcp(SocketAddr),
    /// A GET answers 200 to 399: `http://[IP]:PORT/PATH`.
    Http { address: SocketAddr, path: String },
}

impl ListenOn {
    /// For connections that this host itself opens: loopback of the families that it has, unless an address was
    /// written. The kernel redirects what is sent from here to loopback, and nobody else is to use it.
    pub fn for_this_host(self) -> Vec<SocketAddr> {
        self.addresses([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], has_address)
    }

    /// For connections from everywhere, unless an address was written.
    pub fn for_everybody(self) -> Vec<SocketAddr> {
        self.addresses([Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()], has_address)
    }

    fn addresses(self, unless: [IpAddr; 2], has: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
        let ips = self.ip.map_or_else(|| unless.into_iter().filter(|ip| has(*ip)).collect(), |ip| vec![ip]);
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

/// Whether an address is one of this host's: those of IPv6 are not where it is switched off.
fn has_address(ip: IpAddr) -> bool {
    let error = TcpListener::bind((ip, 0)).err().and_then(|error| Errno::from_io_error(&error));
    !matches!(error, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

impl FromStr for ListenOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix(':') {
            Some(port) => port.parse().ok().map(|port| Self { ip: None, port }),
            None => text.parse().ok().map(|address: SocketAddr| Self { ip: Some(address.ip()), port: address.port() }),
        };
        parsed.ok_or_else(|| format!("{text:?} is not of the form :PORT or IP:PORT, as in :15001 or 127.0.0.1:15001"))
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

impl FromStr for ApplicationPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form NAME=PORT or NAME=PORT@LISTEN, as in http=9080@19080");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        if !is_dns_label(name) {
            return Err(format!("the port's name {name:?} is not of lower-case letters, digits and inner hyphens"));
        }
        let (port, listen) = match rest.split_once('@') {
            Some((port, listen)) => (port, Some(listen)),
            None => (rest, None),
        };
        let listen = match listen {
            None => None,
            Some(listen) => Some(match listen.parse::<u16>() {
                Ok(port) => ListenOn { ip: None, port },
                Err(_) => listen.parse().map_err(|_| wrong())?,
            }),
        };
        Ok(Self { name: name.to_owned(), port: port_number(port).ok_or_else(wrong)?, listen })
    }
}

impl FromStr for BindService {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not of the form HOST=IP:PORT or HOST:PORT=IP:PORT, as in reviews=127.0.0.1:9080");
        let (service, listen) = text.split_once('=').ok_or_else(wrong)?;
        let listen: SocketAddr = listen.parse().map_err(|_| wrong())?;
        let (host, port) = match service.rsplit_once(':') {
            Some((host, port)) => (host, port_number(port).ok_or_else(wrong)?),
            None => (service, listen.port()),
        };
        if !is_host(host) {
            return Err(format!("{host:?} is no host name"));
        }
        if port == 0 {
            return Err(format!(
                "{text:?} listens on a free port: say which port of {host} it stands for, {host}:80=…"
            ));
        }
        Ok(Self { host: host.to_owned(), port, listen })
    }
}

impl FromStr for Readiness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not of the form tcp:PORT or http://:PORT/PATH, as in tcp:9080 or http://:9080/healthz")
        };
        if let Some(address) = text.strip_prefix("tcp:") {
            return Ok(Self::Tcp(on_this_host(address).ok_or_else(wrong)?));
        }
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains('#') {
            return Err(wrong());
        }
        Ok(Self::Http { address: on_this_host(address).ok_or_else(wrong)?, path: path.to_owned() })
    }
}

/// `PORT`, `:PORT`, `localhost:PORT` or `IP:PORT`.
fn on_this_host(text: &str) -> Option<SocketAddr> {
    let port = text.strip_prefix("localhost").unwrap_or(text);
    let address = match port_number(port.strip_prefix(':').unwrap_or(port)) {
        Some(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        None => text.parse().ok()?,
    };
    (address.port() != 0).then_some(address)
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

/// RFC 1123, in lower case.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// One or more labels with dots between; no wildcard.
pub(crate) fn is_host(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listen(text: &str) -> ListenOn {
        text.parse().unwrap()
    }

    #[test]
    fn ports_of_the_application() {
        for (text, name, port, expected) in [
            ("http=9080", "http", 9080, None),
            ("http=9080@19080", "http", 9080, Some(listen(":19080"))),
            ("http-web=80@10.0.0.1:8080", "http-web", 80, Some(listen("10.0.0.1:8080"))),
            ("tcp=5432@[fd00::1]:5433", "tcp", 5432, Some(listen("[fd00::1]:5433"))),
            ("grpc=1@:0", "grpc", 1, Some(listen(":0"))),
        ] {
            let parsed: ApplicationPort = text.parse().unwrap();
            assert_eq!(parsed, ApplicationPort { name: name.to_owned(), port, listen: expected }, "{text}");
        }
        for wrong in
            ["", "9080", "http=", "http=0", "http=70000", "http=1@", "http=1@x", "=1", "Http=1", "a_b=1", "-a=1"]
        {
            assert!(wrong.parse::<ApplicationPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn services_that_listeners_stand_for() {
        for (text, host, port, listen) in [
            ("reviews=127.0.0.1:9080", "reviews", 9080, "127.0.0.1:9080"),
            ("reviews.shop:80=127.0.0.1:9080", "reviews.shop", 80, "127.0.0.1:9080"),
            ("api.example.com:443=[::1]:0", "api.example.com", 443, "[::1]:0"),
        ] {
            let expected = BindService { host: host.to_owned(), port, listen: listen.parse().unwrap() };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in ["reviews", "reviews=9080", "=127.0.0.1:1", "*.x=127.0.0.1:1", "a:0=127.0.0.1:1", "a=127.0.0.1:0"]
        {
            assert!(wrong.parse::<BindService>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn where_to_listen() {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let addresses = |text: &str, has: fn(IpAddr) -> bool| {
            let addresses = listen(text).addresses(loopback, has);
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(addresses(":15001", |_| true), "127.0.0.1:15001 [::1]:15001");
        assert_eq!(addresses(":15001", |ip| ip.is_ipv4()), "127.0.0.1:15001");
        assert_eq!(addresses("10.0.0.1:1", |_| true), "10.0.0.1:1");
        assert_eq!(addresses("[fd00::1]:1", |ip| ip.is_ipv4()), "[fd00::1]:1", "what was written is not left out");
        assert_eq!(listen(":1").for_everybody()[0].to_string(), "0.0.0.0:1");
        assert!(has_address(Ipv4Addr::LOCALHOST.into()) && !has_address(Ipv4Addr::new(192, 0, 2, 1).into()));
        for wrong in ["15001", ":", ":70000", "host:1", "::1:1:", "10.0.0.1"] {
            assert!(wrong.parse::<ListenOn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn checks_of_the_application() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let http = |text: &str, path: &str| Readiness::Http { address: address(text), path: path.to_owned() };
        for (text, expected) in [
            ("tcp:9080", Readiness::Tcp(address("127.0.0.1:9080"))),
            ("tcp:localhost:9080", Readiness::Tcp(address("127.0.0.1:9080"))),
            ("tcp:[::1]:9080", Readiness::Tcp(address("[::1]:9080"))),
            ("http://:9080", http("127.0.0.1:9080", "/")),
            ("http://localhost:9080/healthz?full", http("127.0.0.1:9080", "/healthz?full")),
            ("http://10.0.0.1:80/a/b", http("10.0.0.1:80", "/a/b")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in
            ["", "9080", "tcp:", "tcp:0", "tcp:host:1", "https://:1/", "http:///", "http://:1/a b", "http://:0/"]
        {
            assert!(wrong.parse::<Readiness>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(ip in any::<Option<IpAddr>>(), port in any::<u16>()) {
            let listen = ListenOn { ip, port };
            prop_assert_eq!(listen.to_string().parse(), Ok(listen));
        }

        #[test]
        fn no_text_is_fatal(text in "\\PC*") {
            let _ = (text.parse::<ApplicationPort>(), text.parse::<BindService>());
            let _ = (text.parse::<ListenOn>(), text.parse::<Readiness>());
        }
    }
}
