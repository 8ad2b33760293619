//! Turns Istio's generated CustomResourceDefinitions into the data files in `route-model/schemas`.
//!
//! Usage: `cargo run -p route-model --example import_schemas -- path/to/crd-all.gen.yaml`
//!
//! One file a kind, named by its plural: the printer columns and the schema that all served versions share, with
//! descriptions (`kubectl explain` shows them) and `x-kubernetes-*` extensions. The files of kinds that Istio does not
//! have are written by hand and not touched.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde::Serialize as _;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Serializer, Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let source = std::env::args().nth(1).ok_or("usage: import_schemas CRD-FILE")?;
    let text = fs::read_to_string(&source)?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 2_000_000, max_events: 4_000_000, max_total_scalar_bytes: 64 << 20 },
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for document in documents.iter().filter(|document| document["kind"] == "CustomResourceDefinition") {
        let spec = &document["spec"];
        let plural = spec["names"]["plural"].as_str().ok_or("a definition without a plural")?;
        let mut file = Vec::new();
        schema_file(spec)?.serialize(&mut Serializer::with_formatter(&mut file, PrettyFormatter::with_indent(b" ")))?;
        file.push(b'\n');
        fs::write(folder.join(format!("{plural}.json")), file)?;
    }
    Ok(())
}

fn schema_file(spec: &Value) -> Result<Value, Box<dyn Error>> {
    let versions = spec["versions"].as_array().ok_or("a definition without versions")?;
    let served: Vec<&Value> = versions.iter().filter(|version| version["served"] == true).collect();
    let first = served.first().ok_or("a definition without a served version")?;
    for version in &served {
        if version["schema"] != first["schema"]
            || version["additionalPrinterColumns"] != first["additionalPrinterColumns"]
        {
            return Err(format!("the versions of {} differ", spec["names"]["kind"]).into());
        }
    }
    let columns = first["additionalPrinterColumns"].as_array().cloned().unwrap_or_default();
    Ok(json!({ "printerColumns": columns, "schema": tidy(&first["schema"]["openAPIV3Schema"]) }))
}

/// Trims descriptions; everything else stays.
fn tidy(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut tidied = Map::new();
            for (name, field) in fields {
                let field = match field {
                    Value::String(text) if name == "description" => Value::String(text.trim_end().to_owned()),
                    field => tidy(field),
                };
                tidied.insert(name.clone(), field);
            }
            Value::Object(tidied)
        }
        Value::Array(items) => Value::Array(items.iter().map(tidy).collect()),
        value => value.clone(),
    }
}
