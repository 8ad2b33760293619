//! `fairway validate -f`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use route_model::compile::{ProxyRole, ProxyScope, Severity, compile};
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet};
use route_model::validate::validate;

use crate::commands::target::{Target, default_namespace};
use crate::documents::{self, Document};

#[derive(clap::Args)]
#[command(
    after_help = "Field errors make the exit code 1. References that lead out of the files are warnings, since the\n\
                        other side may be on the server; with --strict they count as errors."
)]
pub(crate) struct Args {
    /// A file, a folder of .yaml/.yml/.json files, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The namespace of documents that name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// Warnings are errors too
    #[arg(long)]
    strict: bool,
}

/// The files as the compiler takes them, and what was wrong on the way.
#[derive(Debug, Default)]
struct Checked {
    set: ResourceSet,
    errors: Vec<String>,
    warnings: Vec<String>,
    sources: BTreeMap<ResourceKey, String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let documents = documents::read_all(&args.files)?;
    let count = documents.len();
    let mut checked = check(documents, &args.namespace);
    let (_, findings) = compile(&checked.set, &default_scope());
    for finding in findings {
        let source = checked.sources.get(&finding.resource).map_or("", String::as_str);
        let line = format!("{source}: {}: {}: {}", finding.resource, finding.path, finding.message);
        match finding.severity {
            Severity::Rejected => checked.errors.push(line),
            Severity::Unresolved | Severity::Warning => checked.warnings.push(line),
        }
    }
    for warning in &checked.warnings {
        println!("warning: {warning}");
    }
    for error in &checked.errors {
        println!("error: {error}");
    }
    let wrong = checked.errors.len() + if args.strict { checked.warnings.len() } else { 0 };
    if wrong > 0 {
        bail!("{wrong} problems in {count} documents");
    }
    println!("{count} documents are valid");
    Ok(())
}

/// The gateway that Istio's samples are written for.
pub(crate) fn default_scope() -> ProxyScope {
    let labels = [("istio", "ingressgateway"), ("app", "istio-ingressgateway")];
    ProxyScope {
        role: ProxyRole::Gateway,
        namespace: "istio-system".into(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

/// The resources of files that must all be valid.
pub(crate) fn read_valid(files: &[PathBuf], namespace: &str) -> anyhow::Result<ResourceSet> {
    let checked = check(documents::read_all(files)?, namespace);
    if !checked.errors.is_empty() {
        bail!("the files are not valid:\n  {}", checked.errors.join("\n  "));
    }
    Ok(checked.set)
}

/// Checks every document for itself and collects the valid ones.
fn check(documents: Vec<Document>, namespace: &str) -> Checked {
    let mut checked = Checked::default();
    for mut document in documents {
        let target = match Target::of_document(&document) {
            Ok(target) => target,
            Err(error) => {
                checked.errors.push(error.to_string());
                continue;
            }
        };
        if target.info.namespaced {
            default_namespace(&mut document.object, namespace);
        }
        let version = document.object["apiVersion"].as_str().unwrap_or_default();
        let version = version.rsplit_once('/').map_or(version, |(_, version)| version).to_owned();
        let source = &document.source;
        let name = document.object["metadata"]["name"].as_str().unwrap_or_default();
        let title = format!("{source}: {} {name}", target.info.kind.name());
        let verdict = validate(target.info.kind, &version, &document.object);
        checked.errors.extend(verdict.errors.iter().chain(&verdict.unknown).map(|error| format!("{title}: {error}")));
        checked.warnings.extend(verdict.warnings.iter().map(|warning| format!("{title}: {warning}")));
        if !verdict.is_valid() {
            continue;
        }
        match Resource::from_object(target.info.kind, &document.object) {
            Ok(resource) => {
                checked.sources.insert(resource.key.clone(), document.source);
                checked.set.insert(Arc::new(resource));
            }
            Err(errors) => checked.errors.extend(errors.iter().map(|error| format!("{title}: {error}"))),
        }
    }
    checked
}
