//! Reading resource documents from files, folders and standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

/// One document and where it came from, for messages.
#[derive(Debug)]
pub(crate) struct Document {
    /// `routes.yaml`, or `routes.yaml#2` for the second document of a file with several.
    pub source: String,
    pub object: Value,
}

/// More than this is refused: nobody writes it by hand, and it protects against naming a wrong file.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Reads every document of the files; a folder stands for the `.yaml`, `.yml` and `.json` files in it, by name;
/// `-` for standard input. `List` documents are taken apart.
pub(crate) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
            parse("standard input", &text, &mut documents)?;
        } else if path.is_dir() {
            for file in files_in(path)? {
                read_file(&file, &mut documents)?;
            }
        } else {
            read_file(path, &mut documents)?;
        }
    }
    if documents.is_empty() {
        bail!("no documents in {}", paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    Ok(documents)
}

fn files_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json"));
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, documents: &mut Vec<Document>) -> anyhow::Result<()> {
    let length = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if length > MAX_FILE_BYTES {
        bail!("{} has {length} bytes; more than {MAX_FILE_BYTES} are not read", path.display());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&path.display().to_string(), &text, documents)
}

fn parse(source: &str, text: &str, documents: &mut Vec<Document>) -> anyhow::Result<()> {
    let parsed = admin_api::yaml::documents(text).with_context(|| format!("{source} is no valid YAML or JSON"))?;
    let several = parsed.len() > 1;
    for (index, object) in parsed.into_iter().enumerate() {
        let source = if several { format!("{source}#{}", index + 1) } else { source.to_owned() };
        match object {
            Value::Null => {}
            Value::Object(mut fields) if fields.get("kind").and_then(Value::as_str) == Some("List") => {
                let Some(Value::Array(items)) = fields.remove("items") else { bail!("{source}: a List without items") };
                let numbered = items.into_iter().enumerate();
                documents
                    .extend(numbered.map(|(i, object)| Document { source: format!("{source}.items[{i}]"), object }));
            }
            Value::Object(_) => documents.push(Document { source, object }),
            _ => bail!("{source}: a document is an object with apiVersion and kind, not plain text"),
        }
    }
    Ok(())
}
