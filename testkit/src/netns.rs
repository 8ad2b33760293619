//! Hosts on one machine: network namespaces on a bridge, each with an address of both families.
//!
//! A [`Lan`] and its [`Host`]s are gone when they are dropped; what a crashed test left is removed by the next one.
//! Every LAN is a world of its own, so tests use the same addresses at the same time.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Uid, geteuid, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_uid};

/// What the names of all namespaces begin with; then the number of the process that made them.
const PREFIX: &str = "fairway-test-";

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";

/// Where something may be called by their names: `ip netns`'s files for them, and what `tests/mesh-lab` keeps.
const FOLDERS: [&str; 2] = ["/etc/netns", "/run/fairway"];

/// A bridge, and the hosts on it.
#[derive(Debug)]
pub struct Lan {
    bridge: Namespace,
    hosts: AtomicU32,
}

/// One host of a [`Lan`]: its own interfaces, routes, firewall and ports. Everything goes out by `eth0`, so that
/// connecting to an address that nobody has fails late, as on the Internet.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Lan {
    /// `None`, with a message, where the system lets nobody make namespaces. Root gets one, or a panic.
    pub fn new() -> Option<Self> {
        let bridge = first("lan")?;
        bridge.ip("link add br0 type bridge");
        bridge.ip("link set br0 up");
        Some(Self { bridge, hosts: AtomicU32::new(0) })
    }

    /// A further host, with the addresses 10.77.0.N and fd77::N; N is 1 for the first.
    pub fn host(&self, name: &str) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let number = u8::try_from(number).expect("a LAN has less than 256 hosts");
        let namespace = Namespace::new(name).expect("a namespace: there was one for the LAN");
        let (v4, v6) = (Ipv4Addr::new(10, 77, 0, number), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()));
        self.bridge.ip(&format!("link add port{number} type veth peer name eth0 netns {}", namespace.name));
        self.bridge.ip(&format!("link set port{number} master br0 up"));
        namespace.ip(&format!("addr add {v4}/24 dev eth0"));
        // Without duplicate address detection, which would keep it from being used for a second.
        namespace.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
        namespace.ip("link set lo up");
        namespace.ip("link set eth0 up");
        namespace.ip("route add default dev eth0");
        namespace.ip("-6 route add default dev eth0");
        Host { namespace, v4, v6 }
    }
}

impl Host {
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Does something on this host: a socket that is made there stays there, whoever uses it.
    ///
    /// # Panics
    /// As the work does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.run_as(None, work)
    }

    /// The same as an ordinary user.
    pub fn run_as<T: Send>(&self, uid: impl Into<Option<u32>>, work: impl FnOnce() -> T + Send) -> T {
        let uid = uid.into();
        within(&self.namespace.name, || {
            if let Some(uid) = uid {
                set_thread_uid(Uid::from_raw(uid)).expect("setuid");
            }
            work()
        })
    }

    /// A program that is to run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace.name]).arg(program);
        command
    }
}

/// What the names of somebody else's namespaces may begin with, so that they are removed as those of a [`Lan`] are when this
/// process has crashed. `None`, with a message, where the system lets nobody make namespaces.
pub fn names() -> Option<String> {
    first("probe").map(|_| unique())
}

/// A first namespace.
fn first(label: &str) -> Option<Namespace> {
    sweep();
    if !geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return None;
    }
    match Namespace::new(label) {
        Ok(namespace) => Some(namespace),
        // A container without CAP_SYS_ADMIN, or a kernel without namespaces.
        Err(error) if ["Operation not permitted", "Invalid argument"].iter().any(|no| error.contains(no)) => {
            eprintln!("SKIPPED: the system lets nobody make network namespaces: {error}");
            None
        }
        Err(error) => panic!("cannot make a network namespace: {error}"),
    }
}

fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Does something in the network namespace that `ip netns` knows by this name, whoever made it, in a thread of its own: a
/// socket that is made there stays there.
///
/// # Panics
/// As the work does, and if there is no such namespace.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let place = File::open(format!("{FOLDER}/{namespace}")).expect("the namespace");
    // Only this one thread moves.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gone when dropped, with the interfaces in it.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(label: &str) -> Result<Self, String> {
        let name = format!("{}-{label}", unique());
        ip(&["netns", "add", &name]).map(|()| Self { name })
    }

    fn ip(&self, arguments: &str) {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(arguments.split(' ')).collect();
        ip(&words).unwrap_or_else(|error| panic!("ip {arguments}: {error}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("cannot remove the network namespace {}: {error}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().expect("ip runs: scripts/setup installs it");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Removes the namespaces of processes that are gone, and what is called by their names, once.
fn sweep() {
    static SWEPT: OnceLock<()> = OnceLock::new();
    SWEPT.get_or_init(|| {
        // Another test may have been faster.
        for name in abandoned(FOLDER) {
            let _ = ip(&["netns", "delete", &name]);
        }
        for folder in FOLDERS {
            for name in abandoned(folder) {
                let _ = fs::remove_dir_all(format!("{folder}/{name}"));
            }
        }
    });
}

/// What is in a folder and called by the name of a process that is gone.
fn abandoned(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        owner.and_then(Pid::from_raw).is_some_and(|owner| test_kill_process(owner).is_err())
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn hosts_reach_each_other_and_are_gone_afterwards() {
        let Some(lan) = Lan::new() else { return };
        let (server, client) = (lan.host("server"), lan.host("client"));
        for address in server.addresses() {
            let listener = server.run(|| TcpListener::bind((address, 80)).unwrap());
            let mut stream = client.run(|| TcpStream::connect((address, 80)).unwrap());
            let (mut accepted, from) = listener.accept().unwrap();
            assert!(client.addresses().contains(&from.ip()), "{from}");
            stream.write_all(b"x").unwrap();
            drop(stream);
            let mut text = String::new();
            accepted.read_to_string(&mut text).unwrap();
            assert_eq!(text, "x");
        }
        let names = [&server, &client].map(|host| format!("{FOLDER}/{}", host.namespace.name));
        assert!(names.iter().all(|name| fs::exists(name).unwrap()));
        drop((server, client, lan));
        assert!(names.iter().all(|name| !fs::exists(name).unwrap()));
    }

    #[test]
    fn what_a_crashed_test_left_is_removed() {
        let Some(_lan) = Lan::new() else { return };
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let name = format!("{PREFIX}{}-0-left", gone.id());
        ip(&["netns", "add", &name]).unwrap();
        // In a process of its own, as sweeping is done once.
        let again = ["--exact", "netns::tests::hosts_reach_each_other_and_are_gone_afterwards"];
        let output = Command::new(std::env::current_exe().unwrap()).args(again).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!fs::exists(format!("{FOLDER}/{name}")).unwrap());
    }
}
