//! What the kernel redirects after `capture apply`, seen from hosts that are network namespaces.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use proxy::original_destination;
use socket2::{Domain, Socket, Type};
use testkit::{Host, Lan};

/// Nobody has this address; only what is redirected gets an answer.
const NOBODY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 99, 0, 9)), IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 9))];

/// The user that the application runs as; the sidecar is 1337.
const APPLICATION: u32 = 1000;
const SIDECAR: u32 = 1337;

/// How long a connection that nobody answers is waited for.
const IN_VAIN: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// A host with a captured application, and another one.
struct World {
    backend: &'static str,
    captured: Host,
    other: Host,
    outbound: TcpListener,
    inbound: TcpListener,
    /// What the application listens on, for others.
    application: TcpListener,
    _lan: Lan,
}

impl World {
    /// The sidecar's two ports are listened on; nothing is redirected yet. The application is on port 9080.
    fn new(backend: &'static str) -> Option<Self> {
        let lan = Lan::new()?;
        let (captured, other) = (lan.host("captured"), lan.host("other"));
        let listen = |port: u16| captured.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        let (outbound, inbound, application) = (listen(15001), listen(15006), listen(9080));
        Some(Self { backend, captured, other, outbound, inbound, application, _lan: lan })
    }

    fn capture(&self, words: &str) -> Output {
        let mut command = self.captured.command(env!("CARGO_BIN_EXE_fairway-sidecar"));
        command.arg("capture").args(words.split_whitespace()).args(["--backend", self.backend]);
        command.output().unwrap()
    }

    fn apply(&self, words: &str) -> String {
        let output = self.capture(&format!("apply {words}"));
        assert!(output.status.success(), "{}: {}", self.backend, String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// All that is in the kernel of the captured host.
    fn ruleset(&self) -> String {
        let output = self.captured.command("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where a connection from the captured host itself arrives.
    fn outgoing(&self, uid: u32, to: SocketAddr) -> Arrival {
        self.arrival(self.captured.run_as(uid, || TcpStream::connect_timeout(&to, IN_VAIN).ok()))
    }

    /// Where a connection from another host to this one arrives.
    fn incoming(&self, to: SocketAddr) -> Arrival {
        self.arrival(self.other.run(|| TcpStream::connect_timeout(&to, IN_VAIN).ok()))
    }

    fn arrival(&self, client: Option<TcpStream>) -> Arrival {
        let Some(client) = client else { return Arrival::Nowhere };
        let from = client.local_addr().unwrap();
        // The connection is made, so it waits at one of the listeners.
        let deadline = std::time::Instant::now() + PATIENCE;
        let listeners = [&self.outbound, &self.inbound, &self.application];
        while std::time::Instant::now() < deadline {
            for (index, listener) in listeners.into_iter().enumerate() {
                listener.set_nonblocking(true).unwrap();
                let Ok((stream, peer)) = listener.accept() else { continue };
                assert_eq!(peer.port(), from.port(), "the connection is another one");
                let meant_for = original_destination(&stream).unwrap();
                return match index {
                    0 => Arrival::Outbound(meant_for),
                    1 => Arrival::Inbound(meant_for),
                    _ => Arrival::Application,
                };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the connection was made with nobody");
    }
}

/// Where a connection came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Nowhere,
    /// At the sidecar, with the original destination.
    Outbound(Option<SocketAddr>),
    Inbound(Option<SocketAddr>),
    Application,
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// Runs a test with both tools.
fn with_both(test: impl Fn(&World)) {
    for backend in ["nft", "iptables"] {
        let Some(world) = World::new(backend) else { return };
        test(&world);
    }
}

#[test]
fn what_the_application_opens_arrives_at_the_sidecar_with_its_destination() {
    with_both(|world| {
        world.apply("");
        for to in NOBODY.into_iter().chain(world.other.addresses()).map(|ip| at(ip, 80)) {
            assert_eq!(world.outgoing(APPLICATION, to), Arrival::Outbound(Some(to)), "{}", world.backend);
        }
        for own in [at(Ipv4Addr::LOCALHOST, 9080), at(Ipv6Addr::LOCALHOST, 9080), at(world.captured.v4, 9080)] {
            assert_eq!(world.outgoing(APPLICATION, own), Arrival::Application, "{}: to itself", world.backend);
        }
    });
}

#[test]
fn what_others_open_arrives_at_the_sidecar_with_its_destination() {
    with_both(|world| {
        world.apply("");
        for to in world.captured.addresses().into_iter().flat_map(|ip| [at(ip, 9080), at(ip, 1), at(ip, 15001)]) {
            assert_eq!(world.incoming(to), Arrival::Inbound(Some(to)), "{}", world.backend);
        }
    });
}

#[test]
fn what_must_stay_reachable_is_not_captured() {
    with_both(|world| {
        let ports = [22, 15000, 15012, 15020];
        let free = world.captured.run(|| ports.map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()));
        world.apply("");
        for (listener, port) in free.iter().zip(ports) {
            for ip in world.captured.addresses() {
                let client = world.other.run(|| TcpStream::connect((ip, port)).unwrap());
                assert_eq!(listener.accept().unwrap().1.port(), client.local_addr().unwrap().port());
            }
        }
    });
}

#[test]
fn the_sidecars_own_connections_are_left_alone() {
    with_both(|world| {
        world.apply("");
        let server = world.other.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap());
        for ip in world.other.addresses() {
            let client = world.captured.run_as(SIDECAR, || TcpStream::connect((ip, 80)).unwrap());
            assert_eq!(server.accept().unwrap().1, client.local_addr().map(mapped).unwrap(), "{}", world.backend);
            // The same by its mark, as root.
            let marked = world.captured.run(|| {
                let socket = Socket::new(Domain::for_address(at(ip, 80)), Type::STREAM, None).unwrap();
                socket.set_mark(1337).unwrap();
                socket.connect(&at(ip, 80).into()).unwrap();
                TcpStream::from(socket)
            });
            assert_eq!(server.accept().unwrap().1, marked.local_addr().map(mapped).unwrap(), "{}", world.backend);
        }
        for own in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(world.outgoing(SIDECAR, at(own, 9080)), Arrival::Application, "{}", world.backend);
        }
    });
}

/// As a listener of both families sees an address.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => at(v4.ip().to_ipv6_mapped(), v4.port()),
        v6 @ SocketAddr::V6(_) => v6,
    }
}

#[test]
fn a_sidecar_reaches_its_own_host_as_others_do_and_its_application_from_loopback() {
    with_both(|world| {
        world.apply("");
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        for (ip, from) in world.captured.addresses().into_iter().zip(loopback) {
            let to = at(ip, 9080);
            assert_eq!(world.outgoing(SIDECAR, to), Arrival::Inbound(Some(to)), "{}", world.backend);
            let bound = world.captured.run_as(SIDECAR, || {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                socket.bind(&at(from, 0).into()).unwrap();
                socket.connect_timeout(&to.into(), PATIENCE).unwrap();
                TcpStream::from(socket)
            });
            assert_eq!(world.arrival(Some(bound)), Arrival::Application, "{} {ip}", world.backend);
        }
    });
}

#[test]
fn ports_and_networks_are_included_and_excluded() {
    with_both(|world| {
        world.apply(
            "--include-inbound-ports 9080,9081 --exclude-inbound-ports 9081 --include-cidrs 10.99.0.0/16,fd99::/16 \
             --exclude-cidrs 10.99.9.0/24 --include-outbound-ports 443 --exclude-outbound-ports 25",
        );
        let captured =
            |to| assert_eq!(world.outgoing(APPLICATION, to), Arrival::Outbound(Some(to)), "{}", world.backend);
        let free = |to| assert_eq!(world.outgoing(APPLICATION, to), Arrival::Nowhere, "{}: {to}", world.backend);
        for ip in NOBODY {
            captured(at(ip, 80));
            free(at(ip, 25));
        }
        captured(at([10, 98, 0, 1], 443));
        free(at([10, 98, 0, 1], 80));
        free(at([10, 99, 9, 1], 80));
        free(at([10, 99, 9, 1], 443));
        for ip in world.captured.addresses() {
            assert_eq!(world.incoming(at(ip, 9080)), Arrival::Inbound(Some(at(ip, 9080))), "{}", world.backend);
            assert_eq!(world.incoming(at(ip, 9081)), Arrival::Nowhere, "{}", world.backend);
        }
    });
}

#[test]
fn applying_again_replaces_and_removing_leaves_nothing() {
    with_both(|world| {
        let before = world.ruleset();
        world.apply("--exclude-outbound-ports 80");
        let said = world.apply("");
        assert!(said.contains(world.backend) && said.contains("15001") && said.contains("15006"), "{said}");
        let to = at(NOBODY[0], 80);
        assert_eq!(world.outgoing(APPLICATION, to), Arrival::Outbound(Some(to)), "{}", world.backend);
        let once = without_counters(&world.ruleset());
        world.apply("");
        assert_eq!(without_counters(&world.ruleset()), once, "{}: applying twice is applying once", world.backend);

        let output = world.capture("remove");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "removed\n");
        let after = world.ruleset();
        assert!(!after.to_lowercase().contains("fairway"), "{after}");
        assert_eq!(rules(&after), rules(&before), "{}", world.backend);
        assert_eq!(world.outgoing(APPLICATION, to), Arrival::Nowhere, "{}", world.backend);
        let to = at(world.captured.v4, 9080);
        assert_eq!(world.incoming(to), Arrival::Application, "{}", world.backend);
        let again = world.capture("remove");
        assert_eq!(String::from_utf8(again.stdout).unwrap(), "there was nothing to remove\n");
    });
}

/// A ruleset without how often its rules were met.
fn without_counters(ruleset: &str) -> String {
    let words = ruleset.split(' ');
    let counted = |word: &&str| !word.trim_end().bytes().all(|byte| byte.is_ascii_digit());
    words.filter(counted).collect::<Vec<_>>().join(" ")
}

/// The rules among the lines of a ruleset. Tables and chains of iptables stay once they were used, empty.
fn rules(ruleset: &str) -> Vec<&str> {
    let lines = ruleset.lines().map(str::trim);
    lines.filter(|line| ["tcp", "meta", "ip"].iter().any(|word| line.starts_with(word))).collect()
}

#[test]
fn connections_that_exist_go_on() {
    with_both(|world| {
        let to = at(world.captured.v4, 9080);
        let mut client = world.other.run(|| TcpStream::connect(to).unwrap());
        let (mut served, _) = world.application.accept().unwrap();
        world.apply("");
        assert_eq!(world.incoming(to), Arrival::Inbound(Some(to)));
        std::io::Write::write_all(&mut client, b"x").unwrap();
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Read::read_exact(&mut served, &mut [0]).unwrap();
    });
}

#[test]
fn rules_of_others_stay() {
    with_both(|world| {
        let theirs = "table ip theirs {\nchain c {\ntype filter hook output priority 0\ntcp dport 4711 drop\n}\n}\n";
        assert!(world.captured.command("nft").arg(theirs).status().unwrap().success());
        world.apply("");
        assert!(world.capture("remove").status.success());
        assert!(world.ruleset().contains("tcp dport 4711 drop"), "{}", world.ruleset());
    });
}

#[test]
fn changing_the_tool_leaves_no_rules_of_the_other() {
    let Some(mut world) = World::new("iptables") else { return };
    world.apply("");
    world.backend = "nft";
    world.apply("");
    let ruleset = world.ruleset();
    assert!(ruleset.contains("table inet fairway") && !ruleset.contains("FAIRWAY_"), "{ruleset}");
    world.backend = "iptables";
    world.apply("");
    let ruleset = world.ruleset();
    assert!(!ruleset.contains("table inet fairway") && ruleset.contains("FAIRWAY_"), "{ruleset}");
}

#[test]
fn what_is_printed_is_what_is_loaded() {
    let Some(world) = World::new("nft") else { return };
    let words = "--exclude-cidrs 10.9.0.0/16,fd09::/16 --exclude-outbound-ports 25 --include-inbound-ports 9080";
    let printed = String::from_utf8(world.capture(&format!("print {words}")).stdout).unwrap();
    assert!(!world.ruleset().contains("fairway"), "printing loads nothing");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), printed).unwrap();
    assert!(world.captured.command("nft").arg("-f").arg(file.path()).status().unwrap().success());
    let by_hand = world.ruleset();
    world.apply(words);
    assert_eq!(world.ruleset(), by_hand);
}

#[test]
fn without_the_privilege_it_says_what_is_needed() {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(env!("CARGO_BIN_EXE_fairway-sidecar")).args(["capture", "apply"]);
    let Some(_lan) = Lan::new() else { return };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["NET_ADMIN", "--cap-add", "--capture explicit"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn without_the_tools_it_says_what_to_install() {
    // In a namespace of its own: it would change this host otherwise, should it find the tools after all.
    let Some(world) = World::new("nft") else { return };
    for (backend, tool) in [("nft", "nft"), ("iptables", "iptables-save")] {
        let mut command = world.captured.command("unshare");
        let hide =
            "for folder in /usr/sbin /sbin /usr/local/sbin; do mount -t tmpfs none $folder; done; PATH= exec \"$@\"";
        command.args(["--mount", "sh", "-c", hide, "sh", env!("CARGO_BIN_EXE_fairway-sidecar")]);
        let output = command.args(["capture", "apply", "--backend", backend]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{tool} is not installed: install nftables")), "{said}");
    }
}
