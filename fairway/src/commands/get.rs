//! `fairway get`.

use clap::ValueEnum;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::commands::target::{self, Target};
use crate::output;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fairway get vs -A\n  fairway get gateway -n shop -o yaml\n  fairway get proxies")]
pub(crate) struct Args {
    /// A kind by its plural, singular or short name (vs, gw, dr, se …), or `proxies`
    kind: String,
    /// Only this one
    name: Option<String>,
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only those with these labels: `app=shop,tier!=test`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::connect(&args.server)?;
    if matches!(args.kind.as_str(), "proxies" | "proxy") {
        return proxies(&client, &args).await;
    }
    let target = Target::find(&args.kind)?;
    let namespace = (!args.all_namespaces || args.name.is_some()).then_some(args.namespace.as_str());
    let mut path = target.path(namespace, args.name.as_deref());
    if let Some(selector) = &args.selector {
        path.push_str("?labelSelector=");
        path.push_str(&target::query_value(selector));
    }
    match args.output {
        Output::Table | Output::Wide => {
            let request =
                client.request(Method::GET, &path).header(ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io");
            let answer = client.send(request).await?;
            output::warn(&answer.warnings);
            if answer.body["rows"].as_array().is_none_or(Vec::is_empty) {
                let place =
                    if args.all_namespaces { String::new() } else { format!(" in namespace {}", args.namespace) };
                eprintln!("no {}{place}", target.info.plural);
                return Ok(());
            }
            let with_namespace = args.all_namespaces && target.info.namespaced;
            output::kubernetes_table(&answer.body, with_namespace, args.output == Output::Wide)?;
        }
        Output::Yaml | Output::Json | Output::Name => {
            let answer = client.get(&path).await?;
            output::warn(&answer.warnings);
            print_document(&answer.body, args.output, target)?;
        }
    }
    Ok(())
}

fn print_document(body: &Value, output: Output, target: Target) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(body)?),
        Output::Yaml => print!("{}", admin_api::yaml::to_string(body)?),
        _ => {
            let one = [body.clone()];
            let items = body["items"].as_array().map_or(&one[..], Vec::as_slice);
            for item in items {
                println!("{}/{}", target.qualified_name(), item["metadata"]["name"].as_str().unwrap_or_default());
            }
        }
    }
    Ok(())
}

async fn proxies(client: &Client, args: &Args) -> anyhow::Result<()> {
    let path = match &args.name {
        Some(name) => format!("/api/fairway/v1/proxies/{}", target::path_segment(name)),
        None => "/api/fairway/v1/proxies".to_owned(),
    };
    let answer = client.get(&path).await?;
    output::warn(&answer.warnings);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&answer.body)?),
        Output::Yaml => print!("{}", admin_api::yaml::to_string(&answer.body)?),
        Output::Table | Output::Wide | Output::Name => {
            let one = [answer.body.clone()];
            let items = answer.body["items"].as_array().map_or(&one[..], Vec::as_slice);
            if items.is_empty() {
                eprintln!("no proxy is connected");
                return Ok(());
            }
            let text = |item: &Value, key: &str| match &item[key] {
                Value::String(text) => text.clone(),
                Value::Null => "-".to_owned(),
                other => other.to_string(),
            };
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| {
                    let keys = ["id", "role", "namespace", "connected", "ackedRevision", "wantedRevision"];
                    let mut row: Vec<String> = keys.iter().map(|key| text(item, key)).collect();
                    row.push(item["lagMilliseconds"].as_u64().map_or("-".to_owned(), lag));
                    row.push(text(item, "build"));
                    row.push(item["uptimeSeconds"].as_u64().map_or("-".to_owned(), span));
                    row.push(text(item, "certificateExpires"));
                    row.push(text(item, "connections"));
                    row.push(item["issues"].as_array().map_or(0, Vec::len).to_string());
                    row.push(workload(item));
                    row.push(last_error(item));
                    row
                })
                .collect();
            output::warn(&held_back(items));
            output::warn(&problems(items));
            output::table(&PROXY_COLUMNS, &rows)?;
        }
    }
    Ok(())
}

const PROXY_COLUMNS: [&str; 14] = [
    "PROXY",
    "ROLE",
    "NAMESPACE",
    "CONNECTED",
    "REVISION",
    "WANTED",
    "LAG",
    "BUILD",
    "UPTIME",
    "CERTIFICATE EXPIRES",
    "CONNECTIONS",
    "ISSUES",
    "WORKLOAD",
    "LAST ERROR",
];

/// Less than a second is what a change takes to arrive.
fn lag(milliseconds: u64) -> String {
    if milliseconds < 1000 { format!("{milliseconds}ms") } else { span(milliseconds / 1000) }
}

/// As Kubernetes shows ages, by the two largest units: `3d4h`, `12m`, `40s`.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let with = |first: u64, unit: char, rest: u64, next: char| match rest {
        0 => format!("{first}{unit}"),
        rest => format!("{first}{unit}{rest}{next}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => with(minutes, 'm', seconds % 60, 's'),
        (0, hours, minutes) => with(hours, 'h', minutes, 'm'),
        (days, hours, _) => with(days, 'd', hours, 'h'),
    }
}

/// The last error, and when it was; cut, for it is the last column.
fn last_error(proxy: &Value) -> String {
    const MAX: usize = 80;
    let error = &proxy["lastError"];
    let (Some(at), Some(message)) = (error["at"].as_str(), error["message"].as_str()) else { return "-".to_owned() };
    let line: String = message.lines().next().unwrap_or_default().chars().take(MAX).collect();
    let more = if line.len() < message.len() { " …" } else { "" };
    format!("{at} {line}{more}")
}

/// The workload that a sidecar registered, and whether it takes part.
fn workload(proxy: &Value) -> String {
    let workload = &proxy["workload"];
    let Some(address) = workload["address"].as_str() else { return "-".to_owned() };
    let services = workload["services"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let services: Vec<&str> = services.map(|host| host.split('.').next().unwrap_or(host)).collect();
    let state = if workload["ready"] == true { "ready" } else { "not ready" };
    match &*services {
        [] => format!("{address} ({state})"),
        services => format!("{} at {address} ({state})", services.join(",")),
    }
}

/// Why workloads are not shown as they registered.
fn problems(proxies: &[Value]) -> Vec<String> {
    let of = |proxy: &Value| {
        let id = proxy["id"].as_str().unwrap_or_default().to_owned();
        let problems = proxy["workload"]["problems"].as_array().cloned().unwrap_or_default();
        problems.into_iter().filter_map(move |problem| Some(format!("{id}: {}", problem.as_str()?)))
    };
    proxies.iter().flat_map(of).collect()
}

/// Which proxies are too old for what they would be sent.
fn held_back(proxies: &[Value]) -> Vec<String> {
    let of = |proxy: &Value| {
        let kinds: Vec<&str> = proxy["heldBack"].as_array()?.iter().filter_map(Value::as_str).collect();
        let (id, build) = (proxy["id"].as_str()?, proxy["build"].as_str()?);
        Some(format!("{id} ({build}) is too old for these kinds and is not sent them: {}", kinds.join(", ")))
    };
    proxies.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_told_as_kubernetes_tells_ages() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m1s"), (7_200, "2h"), (183_600, "2d3h")] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!((lag(0), lag(999), lag(61_500)), ("0ms".to_owned(), "999ms".to_owned(), "1m1s".to_owned()));
    }

    #[test]
    fn a_long_error_is_cut() {
        let error =
            |message: &str| last_error(&json!({"lastError": {"at": "2026-01-01T00:00:00Z", "message": message}}));
        assert_eq!(error("refused"), "2026-01-01T00:00:00Z refused");
        assert_eq!(error("two\nlines"), "2026-01-01T00:00:00Z two …");
        assert_eq!(error(&"ü".repeat(100)), format!("2026-01-01T00:00:00Z {} …", "ü".repeat(80)));
        assert_eq!(last_error(&json!({})), "-");
    }

    #[test]
    fn a_sidecars_workload_is_told_in_a_word() {
        let workload_of = |fields: Value| workload(&json!({"id": "reviews-1", "workload": fields}));
        assert_eq!(workload(&json!({"id": "edge-1"})), "-");
        assert_eq!(workload_of(json!({"address": "10.0.0.1", "ready": false})), "10.0.0.1 (not ready)");
        let hosts = ["reviews.shop.svc.cluster.local", "books.example.com"];
        let fields = json!({"address": "10.0.0.1", "ready": true, "services": hosts, "problems": ["a name is taken"]});
        assert_eq!(workload_of(fields.clone()), "reviews,books at 10.0.0.1 (ready)");
        let proxies = [json!({"id": "reviews-1", "workload": fields}), json!({"id": "edge-1"})];
        assert_eq!(problems(&proxies), ["reviews-1: a name is taken"]);
    }

    #[test]
    fn proxies_that_are_too_old_are_named() {
        let proxies = [
            json!({"id": "edge-1", "build": "0.2.0"}),
            json!({"id": "edge-2", "build": "0.1.0", "heldBack": ["TrafficWeaver", "Loom"]}),
        ];
        let text = "edge-2 (0.1.0) is too old for these kinds and is not sent them: TrafficWeaver, Loom";
        assert_eq!(held_back(&proxies), [text]);
    }
}
