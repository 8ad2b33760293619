//! The rules in iptables' language: chains in the table `nat`, once for each family, each loaded in one transaction.

use std::fmt::Write;
use std::path::Path;

use super::rules::{Included, List, Rules};
use super::tools::{Error, Tool};

/// What all our chains' names begin with.
const PREFIX: &str = "FAIRWAY_";
const CHAINS: [&str; 4] = ["FAIRWAY_INBOUND", "FAIRWAY_TO_INBOUND", "FAIRWAY_OUTBOUND", "FAIRWAY_OWN"];

/// `--noflush`: the rules of others stay. `--wait`: somebody else may be loading rules just now.
const RESTORE: [&str; 3] = ["--noflush", "--wait", "10"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Those that this host has.
    fn present() -> Vec<Self> {
        if Path::new("/proc/net/if_inet6").exists() { vec![Self::V4, Self::V6] } else { vec![Self::V4] }
    }

    fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    fn save(self) -> &'static str {
        match self {
            Self::V4 => "iptables-save",
            Self::V6 => "ip6tables-save",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }

    /// What is in the kernel now.
    fn saved(self) -> Result<String, Error> {
        Tool::find(self.save())?.run(&["-t", "nat"], "")
    }

    fn load(self, script: &str, check: bool) -> Result<(), Error> {
        let mut arguments = RESTORE.to_vec();
        if check {
            arguments.push("--test");
        }
        Tool::find(self.restore())?.run(&arguments, script).map(drop)
    }
}

pub(super) fn apply(rules: &Rules) -> Result<(), Error> {
    let mut scripts = Vec::new();
    for family in Family::present() {
        scripts.push((family, script(rules, family, &jumps(&family.saved()?))));
    }
    // All are looked at before the first is loaded: half a capture is worse than none.
    for (family, script) in &scripts {
        family.load(script, true)?;
    }
    for (family, script) in &scripts {
        if let Err(error) = family.load(script, false) {
            // The error that is reported is the first one.
            let _ = remove();
            return Err(error);
        }
    }
    Ok(())
}

/// Whether there was anything.
pub(super) fn remove() -> Result<bool, Error> {
    let mut removed = false;
    for family in Family::present() {
        // Where the tool is not installed, or the kernel has no such table, there are no such rules.
        let Ok(saved) = family.saved() else { continue };
        let chains = chains(&saved);
        if chains.is_empty() {
            continue;
        }
        let mut script = "*nat\n".to_owned();
        for jump in jumps(&saved) {
            script += &jump;
        }
        for verb in ["-F", "-X"] {
            for chain in &chains {
                let _ = writeln!(script, "{verb} {chain}");
            }
        }
        family.load(&(script + "COMMIT\n"), false)?;
        removed = true;
    }
    Ok(removed)
}

/// The scripts of both families, as they are loaded where nothing was applied before.
pub(super) fn print(rules: &Rules) -> String {
    let mut text = String::new();
    for family in Family::present() {
        let _ = writeln!(text, "# {} {}", family.restore(), RESTORE.join(" "));
        // Without the privilege to look, nothing is known to be there.
        let jumps = family.saved().map(|saved| jumps(&saved)).unwrap_or_default();
        text += &script(rules, family, &jumps);
    }
    text
}

/// What `iptables-restore` is fed. Naming a chain empties it, or makes it; jumps that lead to it are taken out first.
fn script(rules: &Rules, family: Family, jumps: &[String]) -> String {
    let mut script = "*nat\n".to_owned();
    for chain in CHAINS {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    for jump in jumps {
        script += jump;
    }
    let mut rule = |text: &str| {
        let _ = writeln!(script, "-A {text}");
    };
    let redirect = |port| format!("-p tcp -j REDIRECT --to-ports {port}");

    // The first packet of a connection. Without asking for it, a connection that was there before the kernel followed
    // connections would be taken for a new one in its midst, and torn away from its peer.
    rule("PREROUTING -p tcp --syn -j FAIRWAY_INBOUND");
    rule("OUTPUT -p tcp --syn -j FAIRWAY_OUTBOUND");

    // What this host only passes on, for containers for instance, is none of the sidecar's business.
    rule("FAIRWAY_INBOUND -m addrtype --dst-type LOCAL -g FAIRWAY_TO_INBOUND");

    for port in rules.spared_inbound_ports() {
        rule(&format!("FAIRWAY_TO_INBOUND -p tcp --dport {port} -j RETURN"));
    }
    match &rules.include_inbound_ports {
        Included::All => rule(&format!("FAIRWAY_TO_INBOUND {}", redirect(rules.inbound_port))),
        Included::Only(List(only)) => {
            for port in only {
                rule(&format!(
                    "FAIRWAY_TO_INBOUND -p tcp --dport {port} -j REDIRECT --to-ports {}",
                    rules.inbound_port
                ));
            }
        }
    }

    if rules.mark != 0 {
        rule(&format!("FAIRWAY_OUTBOUND -m mark --mark {:#x} -g FAIRWAY_OWN", rules.mark));
    }
    for uid in &rules.uids {
        rule(&format!("FAIRWAY_OUTBOUND -m owner --uid-owner {uid} -g FAIRWAY_OWN"));
    }
    rule("FAIRWAY_OUTBOUND -o lo -j RETURN");
    for port in &rules.exclude_outbound_ports.0 {
        rule(&format!("FAIRWAY_OUTBOUND -p tcp --dport {port} -j RETURN"));
    }
    let of_family = |List(cidrs): &List<_>| {
        let mine = cidrs.iter().copied().filter(move |cidr: &super::Cidr| cidr.is_ipv4() == (family == Family::V4));
        mine.collect::<Vec<_>>()
    };
    for cidr in of_family(&rules.exclude_cidrs) {
        rule(&format!("FAIRWAY_OUTBOUND -d {cidr} -j RETURN"));
    }
    for port in &rules.include_outbound_ports.0 {
        rule(&format!("FAIRWAY_OUTBOUND -p tcp --dport {port} -j REDIRECT --to-ports {}", rules.outbound_port));
    }
    match &rules.include_cidrs {
        Included::All => rule(&format!("FAIRWAY_OUTBOUND {}", redirect(rules.outbound_port))),
        Included::Only(only) => {
            for cidr in of_family(only) {
                rule(&format!("FAIRWAY_OUTBOUND -d {cidr} {}", redirect(rules.outbound_port)));
            }
        }
    }

    rule("FAIRWAY_OWN ! -o lo -j RETURN");
    // From loopback it speaks to its application, to loopback to what listens there alone.
    rule(&format!("FAIRWAY_OWN -s {} -j RETURN", family.loopback()));
    rule(&format!("FAIRWAY_OWN -d {} -j RETURN", family.loopback()));
    // An endpoint that is this host itself is reached as others reach it.
    rule("FAIRWAY_OWN -g FAIRWAY_TO_INBOUND");

    script + "COMMIT\n"
}

/// Our chains among what `iptables-save` printed.
fn chains(saved: &str) -> Vec<&str> {
    let declared = saved.lines().filter_map(|line| line.strip_prefix(':'));
    declared.filter_map(|line| line.split(' ').next()).filter(|chain| chain.starts_with(PREFIX)).collect()
}

/// Lines that take out the jumps from others' chains into ours.
fn jumps(saved: &str) -> Vec<String> {
    let rules = saved.lines().filter_map(|line| line.strip_prefix("-A "));
    let foreign = rules.filter(|rule| !rule.starts_with(PREFIX));
    let to_ours = foreign.filter(|rule| rule.split(' ').any(|word| word.starts_with(PREFIX)));
    to_ours.map(|rule| format!("-D {rule}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::rules;
    use super::*;

    const SAVED: &str = "# Generated\n*nat\n:PREROUTING ACCEPT [1:60]\n:DOCKER - [0:0]\n:FAIRWAY_INBOUND - [0:0]\n\
        :FAIRWAY_OLD - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A PREROUTING -p tcp -j FAIRWAY_INBOUND\n-A FAIRWAY_INBOUND -p tcp -j FAIRWAY_OLD\nCOMMIT\n";

    #[test]
    fn what_is_ours_is_known_by_its_name() {
        assert_eq!(chains(SAVED), ["FAIRWAY_INBOUND", "FAIRWAY_OLD"]);
        assert_eq!(jumps(SAVED), ["-D PREROUTING -p tcp -j FAIRWAY_INBOUND\n"]);
    }

    #[test]
    fn jumps_are_taken_out_before_they_are_made_again() {
        let script = script(&rules(&[]), Family::V4, &jumps(SAVED));
        let lines: Vec<&str> = script.lines().collect();
        let at = |line: &str| lines.iter().position(|candidate| *candidate == line).unwrap();
        assert!(at(":FAIRWAY_INBOUND - [0:0]") < at("-D PREROUTING -p tcp -j FAIRWAY_INBOUND"));
        assert!(at("-D PREROUTING -p tcp -j FAIRWAY_INBOUND") < at("-A PREROUTING -p tcp --syn -j FAIRWAY_INBOUND"));
        assert_eq!((lines[0], lines.last()), ("*nat", Some(&"COMMIT")));
    }

    #[test]
    fn a_family_has_its_own_addresses_only() {
        let words = ["--include-cidrs", "10.0.0.0/8,fd00::/8", "--exclude-cidrs", "10.9.0.0/16,fd09::/16"];
        let rules = rules(&words);
        let (v4, v6) = (script(&rules, Family::V4, &[]), script(&rules, Family::V6, &[]));
        for (text, mine, others) in [
            (&v4, ["10.0.0.0/8", "10.9.0.0/16", "127.0.0.0/8"], "::"),
            (&v6, ["fd00::/8", "fd09::/16", "::1/128"], "10."),
        ] {
            assert!(mine.iter().all(|cidr| text.contains(cidr)) && !text.contains(others), "{text}");
        }
        assert!(!v4.contains("-A FAIRWAY_OUTBOUND -p tcp -j REDIRECT"), "only what was asked for: {v4}");
    }

    #[test]
    fn nothing_may_be_captured() {
        let script = script(&rules(&["--include-inbound-ports", "", "--include-cidrs", ""]), Family::V6, &[]);
        assert!(!script.contains("REDIRECT"), "{script}");
    }
}
