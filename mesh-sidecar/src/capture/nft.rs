//! The rules in nftables' language: one table for both families, loaded in one transaction.

use std::fmt::{Display, Write};

use super::rules::{Cidr, Included, List, Port, Rules};
use super::tools::{Error, Tool};

/// A table that is there, or not, and is gone afterwards.
const GONE: &str = "table inet fairway\ndelete table inet fairway\n";

/// The first packet of a connection. Without asking for it, a connection that was there before the kernel followed
/// connections would be taken for a new one in its midst, and torn away from its peer.
const FIRST: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// Whether nftables is installed and the kernel speaks it. Without the privilege to ask, being installed counts.
pub(super) fn works() -> bool {
    Tool::find("nft").is_ok_and(|nft| match nft.run(&["list", "tables"], "") {
        Ok(_) => true,
        Err(error) => error.to_string().contains("not permitted"),
    })
}

pub(super) fn apply(rules: &Rules) -> Result<(), Error> {
    Tool::find("nft")?.run(&["-f", "-"], &script(rules)).map(drop)
}

/// Whether the table was there.
pub(super) fn remove() -> Result<bool, Error> {
    let Ok(nft) = Tool::find("nft") else { return Ok(false) };
    // A kernel that cannot list tables has none.
    let is_there =
        nft.run(&["list", "tables"], "").is_ok_and(|tables| tables.lines().any(|line| line == "table inet fairway"));
    if is_there {
        nft.run(&["-f", "-"], GONE)?;
    }
    Ok(is_there)
}

/// What `nft -f -` is fed.
pub(super) fn script(rules: &Rules) -> String {
    let mut script = format!("#!/usr/sbin/nft -f\n{GONE}table inet fairway {{\n");
    let mut chain = |name: &str, lines: Vec<String>| {
        let _ = writeln!(script, "\tchain {name} {{");
        for line in lines {
            let _ = writeln!(script, "\t\t{line}");
        }
        script += "\t}\n";
    };
    chain("to_inbound", to_inbound(rules));
    chain("own", own());
    chain("to_outbound", to_outbound(rules));
    chain(
        "inbound",
        vec![
            "type nat hook prerouting priority dstnat; policy accept;".to_owned(),
            "# What this host only passes on, for containers for instance, is none of the sidecar's business."
                .to_owned(),
            format!("{FIRST} fib daddr type local goto to_inbound"),
        ],
    );
    chain("outbound", outbound(rules));
    script + "}\n"
}

fn to_inbound(rules: &Rules) -> Vec<String> {
    let redirect = format!("redirect to :{}", rules.inbound_port);
    let mut lines = vec![format!("{} accept", ports(&rules.spared_inbound_ports()))];
    match &rules.include_inbound_ports {
        Included::All => lines.push(format!("meta l4proto tcp {redirect}")),
        Included::Only(List(only)) if only.is_empty() => {}
        Included::Only(List(only)) => lines.push(format!("{} {redirect}", ports(only))),
    }
    lines
}

fn own() -> Vec<String> {
    [
        "oifname != \"lo\" accept",
        "# From loopback it speaks to its application, to loopback to what listens there alone.",
        "ip saddr 127.0.0.0/8 accept",
        "ip6 saddr ::1 accept",
        "ip daddr 127.0.0.0/8 accept",
        "ip6 daddr ::1 accept",
        "# An endpoint that is this host itself is reached as others reach it.",
        "goto to_inbound",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn to_outbound(rules: &Rules) -> Vec<String> {
    let redirect = format!("redirect to :{}", rules.outbound_port);
    let mut lines = Vec::new();
    if !rules.exclude_outbound_ports.0.is_empty() {
        lines.push(format!("{} accept", ports(&rules.exclude_outbound_ports.0)));
    }
    lines.extend(rules.exclude_cidrs.0.iter().map(|cidr| format!("{} accept", destination(*cidr))));
    if !rules.include_outbound_ports.0.is_empty() {
        lines.push(format!("{} {redirect}", ports(&rules.include_outbound_ports.0)));
    }
    match &rules.include_cidrs {
        Included::All => lines.push(format!("meta l4proto tcp {redirect}")),
        Included::Only(List(only)) => {
            lines.extend(only.iter().map(|cidr| format!("meta l4proto tcp {} {redirect}", destination(*cidr))));
        }
    }
    lines
}

fn outbound(rules: &Rules) -> Vec<String> {
    let mut lines = vec!["type nat hook output priority -100; policy accept;".to_owned()];
    if rules.mark != 0 {
        lines.push(format!("{FIRST} meta mark {:#x} goto own", rules.mark));
    }
    lines.push(format!("{FIRST} meta skuid {} goto own", set(&rules.uids)));
    lines.push(format!("{FIRST} oifname != \"lo\" goto to_outbound"));
    lines
}

fn ports<'a>(ports: impl IntoIterator<Item = &'a Port>) -> String {
    format!("tcp dport {}", set(ports))
}

fn destination(cidr: Cidr) -> String {
    format!("{} daddr {cidr}", if cidr.is_ipv4() { "ip" } else { "ip6" })
}

fn set<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("{{ {} }}", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::rules;
    use super::*;

    /// The lines of one chain.
    fn chain(script: &str, name: &str) -> Vec<String> {
        let begin = format!("\tchain {name} {{");
        let lines = script.lines().skip_while(|line| **line != begin).skip(1);
        lines.take_while(|line| *line != "\t}").map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn everything_is_captured_unless_said_otherwise() {
        let script = script(&rules(&[]));
        assert!(
            script.starts_with(
                "#!/usr/sbin/nft -f\ntable inet fairway\ndelete table inet fairway\ntable inet fairway {\n"
            )
        );
        assert_eq!(
            chain(&script, "to_inbound"),
            ["tcp dport { 22, 15000, 15012, 15020 } accept", "meta l4proto tcp redirect to :15006"]
        );
        assert_eq!(chain(&script, "to_outbound"), ["meta l4proto tcp redirect to :15001"]);
        let outbound = chain(&script, "outbound");
        assert!(outbound.iter().any(|line| line.ends_with("meta mark 0x539 goto own")), "{outbound:?}");
        assert!(outbound.iter().any(|line| line.ends_with("meta skuid { 1337 } goto own")), "{outbound:?}");
    }

    #[test]
    fn lists_narrow_and_widen() {
        let words = "--include-inbound-ports 9080,9081 --exclude-inbound-ports 9 --include-cidrs 10.0.0.0/8,fd00::/8 \
                     --include-outbound-ports 80 --exclude-outbound-ports 25 --exclude-cidrs 10.9.0.0/16 --uid 5,6 --mark 0 \
                     --outbound-port 1 --inbound-port 2";
        let script = script(&rules(&words.split_whitespace().collect::<Vec<_>>()));
        assert_eq!(
            chain(&script, "to_inbound"),
            ["tcp dport { 9, 15000, 15012, 15020 } accept", "tcp dport { 9080, 9081 } redirect to :2"]
        );
        assert_eq!(
            chain(&script, "to_outbound"),
            [
                "tcp dport { 25 } accept",
                "ip daddr 10.9.0.0/16 accept",
                "tcp dport { 80 } redirect to :1",
                "meta l4proto tcp ip daddr 10.0.0.0/8 redirect to :1",
                "meta l4proto tcp ip6 daddr fd00::/8 redirect to :1",
            ]
        );
        assert!(!script.contains("meta mark") && script.contains("meta skuid { 5, 6 } goto own"), "{script}");
    }

    #[test]
    fn nothing_may_be_captured() {
        let script = script(&rules(&["--include-inbound-ports", "", "--include-cidrs", ""]));
        assert!(!script.contains("redirect"), "{script}");
    }
}
