//! What a sidecar registers of the application beside it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{anyhow, bail};
use push::workload::{DeclaredService, Workload, WorkloadPort};

use crate::args::RunArgs;

/// The workload that the flags describe, and that a control plane would take. Without an address it has the one of
/// this host on the way to the control plane.
pub(crate) fn workload(args: &RunArgs) -> anyhow::Result<Workload> {
    let ports = args.ports.iter().map(|port| WorkloadPort {
        name: port.name.clone(),
        number: port.port.into(),
        // What others connect to: the sidecar itself, where nobody redirects what is meant for the application.
        target: port.listen.map_or(port.port, |listen| listen.port).into(),
        ..WorkloadPort::default()
    });
    let services = args.service.iter().map(|host| DeclaredService { host: host.clone(), ports: Vec::new() });
    let workload = Workload {
        address: address(args)?.map(|address| address.to_string()).unwrap_or_default(),
        ports: ports.collect(),
        labels: args.labels.iter().cloned().collect(),
        network: args.network.clone().unwrap_or_default(),
        locality: args.locality.clone().unwrap_or_default(),
        services: services.collect(),
        group: args.workload_group.clone().unwrap_or_default(),
        ..Workload::default()
    };
    let checked = if workload.address.is_empty() { workload.check_but_address() } else { workload.check() };
    checked.map_err(|why| anyhow!(why))?;
    Ok(workload)
}

/// The address that was written, for itself or with the listeners that others connect to.
pub(crate) fn address(args: &RunArgs) -> anyhow::Result<Option<IpAddr>> {
    if args.address.is_some() {
        return Ok(args.address);
    }
    let written = args.ports.iter().filter_map(|port| port.listen?.ip).filter(|ip| !ip.is_unspecified());
    let written: BTreeSet<IpAddr> = written.collect();
    if written.len() > 1 {
        bail!("--port: the sidecar listens on several addresses; say by --address which one others are to connect to");
    }
    Ok(written.first().copied())
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

    fn registered(words: &str) -> anyhow::Result<Workload> {
        let required = ["sidecar", "--control-plane-ca", "ca.pem", "--join-token-file", "token"];
        workload(&Cli::try_parse_from(required.into_iter().chain(words.split_whitespace())).unwrap().args)
    }

    #[test]
    fn the_flags_describe_the_workload() {
        let all = registered(
            "--service reviews --port http=9080,tcp=5432 --labels app=reviews,version=v2 --locality eu/a --network vms \
             --address 10.0.0.7 --workload-group books",
        );
        let port =
            |name: &str, number| WorkloadPort { name: name.into(), number, target: number, ..Default::default() };
        let expected = Workload {
            address: "10.0.0.7".into(),
            ports: vec![port("http", 9080), port("tcp", 5432)],
            labels: [("app", "reviews"), ("version", "v2")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            network: "vms".into(),
            locality: "eu/a".into(),
            services: vec![DeclaredService { host: "reviews".into(), ports: Vec::new() }],
            group: "books".into(),
            ..Workload::default()
        };
        assert_eq!(all.unwrap(), expected);
        assert_eq!(registered("").unwrap(), Workload::default(), "a mere client is found by its labels alone");
    }

    #[test]
    fn with_explicit_capture_others_connect_to_the_sidecar() {
        for (words, address, targets) in [
            ("--port http=9080@19080", "", vec![(9080, 19080)]),
            ("--port http=9080@0.0.0.0:19080", "", vec![(9080, 19080)]),
            ("--port http=80@10.0.0.1:81,tcp=82@:83", "10.0.0.1", vec![(80, 81), (82, 83)]),
            ("--port http=80@10.0.0.1:81 --address 10.0.0.2", "10.0.0.2", vec![(80, 81)]),
        ] {
            let workload = registered(&format!("--capture explicit {words}")).unwrap();
            let ports: Vec<_> = workload.ports.iter().map(|port| (port.number, port.target)).collect();
            assert_eq!((workload.address.as_str(), ports), (address, targets), "{words}");
        }
    }

    #[test]
    fn what_no_control_plane_would_take_is_refused_at_the_start() {
        for (words, reason) in [
            ("--labels fairway.dev/generated=true", "the control plane's"),
            ("--labels app=two/words", "the value \"two/words\" of the label app"),
            ("--address 0.0.0.0", "not one that clients can connect to"),
            ("--capture explicit --port http=80@10.0.0.1:81,tcp=82@10.0.0.2:83", "--address"),
        ] {
            let refused = registered(words).unwrap_err().to_string();
            assert!(refused.contains(reason), "{words}: {refused}");
        }
    }
}
