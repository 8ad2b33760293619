//! The rules for WorkloadEntries, for the endpoints of ServiceEntries, which are the same, and for WorkloadGroups.

use super::{Report, hosts, scope};
use crate::field::Place;
use crate::kinds::workload_group::Probe;
use crate::kinds::{WorkloadEntry, WorkloadGroup};
use crate::names;

pub(super) fn check_entry(entry: &WorkloadEntry, at: &Place<'_>, report: &mut Report) {
    let address = at.field("address");
    if !entry.address.is_empty() && !is_unix(&entry.address) && !hosts::is_host(&entry.address) {
        report.invalid(&address, &*entry.address, "must be an IP address, a DNS name or unix:// and a path");
    }
    scope::labels(&entry.labels, &at.field("labels"), report);
    let parts = entry.locality.split('/').count();
    if parts > 3 {
        report.invalid(&at.field("locality"), &*entry.locality, "must be region/zone/subzone");
    }
}

pub(super) fn is_unix(address: &str) -> bool {
    address.starts_with("unix://")
}

pub(super) fn check_group(group: &WorkloadGroup, at: &Place<'_>, report: &mut Report) {
    if let Some(probe) = &group.probe {
        check_probe(probe, &at.field("probe"), report);
    }
    if let Some(template) = &group.template {
        check_entry(template, &at.field("template"), report);
    }
    if let Some(metadata) = &group.metadata {
        let at = at.field("metadata");
        scope::labels(&metadata.labels, &at.field("labels"), report);
        let annotations = at.field("annotations");
        for key in metadata.annotations.keys().filter(|key| !names::is_qualified(&key.to_ascii_lowercase())) {
            report.invalid(&annotations.key(key), key, names::QUALIFIED);
        }
    }
}

/// What the schema leaves open.
fn check_probe(probe: &Probe, at: &Place<'_>, report: &mut Report) {
    let Probe { http_get, tcp_socket, exec, grpc, .. } = probe;
    if http_get.is_none() && tcp_socket.is_none() && exec.is_none() && grpc.is_none() {
        report.required(at, "one of httpGet, tcpSocket, exec and grpc must be set");
    }
    if exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
        report.required(&at.field("exec").field("command"), "the program, and its arguments");
    }
    if let Some(grpc) = grpc {
        scope::port(*grpc.port, &at.field("grpc").field("port"), report);
    }
}
