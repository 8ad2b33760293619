//! The connection of the client commands to a control plane: where it is, how it is trusted, who is asking.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

/// How to reach the control plane. Without any of these a server on this machine is found by its data folder.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// The data folder of a server on this machine; its address and token are read from it
    #[arg(long, env = "FAIRWAY_DATA_DIR", default_value = "./fairway-data", value_name = "DIR", global = true)]
    pub data_dir: PathBuf,
    /// The control plane's address, https://host:7443 or http://127.0.0.1:7080
    #[arg(long, env = "FAIRWAY_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// A file with the bearer token (default: admin.token in the data folder, or FAIRWAY_ADMIN_TOKEN)
    #[arg(long, env = "FAIRWAY_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file with the CA certificate (PEM) that the server's certificate is verified against
    #[arg(long, env = "FAIRWAY_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// A control plane and the credential to use there.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

/// What a write or a read answered: the document and the warnings that came with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Client {
    pub(crate) fn connect(args: &ServerArgs) -> anyhow::Result<Self> {
        let base = match &args.server {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => local_server(&args.data_dir)?,
        };
        let token = read_token(args)?;
        let mut headers = reqwest::header::HeaderMap::new();
        let mut value = reqwest::header::HeaderValue::from_str(&format!("Bearer {token}"))
            .context("the token contains characters that a header cannot carry")?;
        value.set_sensitive(true);
        headers.insert(reqwest::header::AUTHORIZATION, value);
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("fairway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .no_proxy();
        if let Some(path) = &args.ca_file {
            let pem = std::fs::read(path).with_context(|| format!("cannot read the CA file {}", path.display()))?;
            let certificate = reqwest::Certificate::from_pem(&pem)
                .with_context(|| format!("{} holds no PEM certificate", path.display()))?;
            builder = builder.tls_certs_only([certificate]);
        } else if base.starts_with("http://") {
            // Without TLS nobody is to be trusted, and the system need not have certificate authorities.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().with_context(|| {
            format!(
                "cannot set up TLS to {base}: install the system's ca-certificates, or name the CA that the server's \
                 certificate is from by --ca-file"
            )
        })?;
        Ok(Self { http, base })
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).timeout(Duration::from_mins(1))
    }

    /// Sends and reads the whole answer; an error status becomes an error with the server's own words.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let answer = read_answer(response).await?;
        if answer.status.is_client_error() || answer.status.is_server_error() {
            bail!("{}", describe_error(&answer));
        }
        Ok(answer)
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let reason = innermost(&error);
        if error.is_connect() {
            anyhow::anyhow!(
                "no control plane answers at {}: {reason}\nstart one with `fairway serve`, or name one by --server",
                self.base
            )
        } else {
            anyhow::anyhow!("the request to {} failed: {reason}", self.base)
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}

async fn read_answer(response: Response) -> anyhow::Result<Answer> {
    let status = response.status();
    let warnings = response
        .headers()
        .get_all(reqwest::header::WARNING)
        .iter()
        .filter_map(|value| warning_text(value.to_str().ok()?))
        .collect();
    let bytes = response.bytes().await.context("the answer broke off")?;
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into()));
    Ok(Answer { status, body, warnings })
}

/// The text of `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 - \"")?.strip_suffix('"')?;
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// A Kubernetes Status or an RFC 9457 problem, as sentences.
fn describe_error(answer: &Answer) -> String {
    let body = &answer.body;
    let text = |key: &str| body.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let main = text("message").or_else(|| text("detail")).or_else(|| text("title")).or_else(|| body.as_str());
    let mut message = main.unwrap_or_default().trim().to_owned();
    if message.is_empty() {
        message = format!("the server answered {}", answer.status);
    }
    // The sentence tells of a single error all there is to tell.
    let errors = body.get("errors").and_then(Value::as_array).filter(|errors| errors.len() > 1);
    for error in errors.into_iter().flatten() {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        let _ = write!(message, "\n  {}: {}", text("field"), text("message"));
    }
    message
}

fn read_token(args: &ServerArgs) -> anyhow::Result<String> {
    if args.token_file.is_none()
        && let Ok(token) = std::env::var("FAIRWAY_ADMIN_TOKEN")
        && !token.is_empty()
    {
        return Ok(token);
    }
    let path = args.token_file.clone().unwrap_or_else(|| args.data_dir.join("admin.token"));
    let token = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read the token file {}; name one by --token-file, or the server's folder by --data-dir",
            path.display()
        )
    })?;
    Ok(token.trim().to_owned())
}

/// The plain loopback address of the server whose data folder this is.
fn local_server(data_dir: &Path) -> anyhow::Result<String> {
    let ports = read_ports(data_dir)?;
    let address = ports.get("admin").and_then(Value::as_str);
    let address = address.with_context(|| format!("{} names no admin port", data_dir.join("ports.json").display()))?;
    Ok(format!("http://{address}"))
}

/// What a server wrote about its ports when it started.
pub(crate) fn read_ports(data_dir: &Path) -> anyhow::Result<Value> {
    let path = data_dir.join("ports.json");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no server has written {}; start one with `fairway serve`, or name one by --server or --data-dir",
            path.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn warnings_are_read_without_their_quotes() {
        assert_eq!(warning_text(r#"299 - "field \"x\" is new""#).as_deref(), Some(r#"field "x" is new"#));
        assert_eq!(warning_text("199 - other"), None);
    }

    #[test]
    fn errors_are_told_in_the_servers_words() {
        let answer = |body| Answer { status: StatusCode::CONFLICT, body, warnings: Vec::new() };
        assert_eq!(describe_error(&answer(json!({"message": "it exists"}))), "it exists");
        let problem = json!({"title": "t", "detail": "d", "errors": [
            {"field": "spec.x", "message": "bad"}, {"field": "spec.y", "message": "worse"}]});
        assert_eq!(describe_error(&answer(problem)), "d\n  spec.x: bad\n  spec.y: worse");
        assert_eq!(describe_error(&answer(json!(""))), "the server answered 409 Conflict");
    }
}
