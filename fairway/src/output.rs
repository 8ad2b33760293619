//! Printing: tables, warnings.

use std::io::{IsTerminal, Write};

use serde_json::Value;

/// Prints warnings to standard error, as kubectl does.
pub(crate) fn warn(warnings: &[String]) {
    let colour = std::io::stderr().is_terminal();
    for warning in warnings {
        if colour {
            eprintln!("\x1b[33mWarning:\x1b[0m {warning}");
        } else {
            eprintln!("Warning: {warning}");
        }
    }
}

/// Prints rows under headings, in columns three spaces apart.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::stdout().lock();
    let mut line = |cells: &[&str]| -> std::io::Result<()> {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(headings)?;
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Prints a Kubernetes `Table`: with the namespace in front where it may differ, and the wide columns if asked.
pub(crate) fn kubernetes_table(answer: &Value, with_namespace: bool, wide: bool) -> std::io::Result<()> {
    let list = |key: &str| answer.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let columns = list("columnDefinitions");
    let shown: Vec<usize> = (0..columns.len())
        .filter(|&i| wide || columns[i].get("priority").and_then(Value::as_i64).unwrap_or(0) == 0)
        .collect();
    let mut headings: Vec<String> =
        shown.iter().map(|&i| columns[i]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
    if with_namespace {
        headings.insert(0, "NAMESPACE".to_owned());
    }
    let rows: Vec<Vec<String>> = list("rows")
        .iter()
        .map(|row| {
            let mut cells: Vec<String> = shown.iter().map(|&i| cell_text(&row["cells"][i])).collect();
            if with_namespace {
                cells.insert(0, cell_text(&row["object"]["metadata"]["namespace"]));
            }
            cells
        })
        .collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    table(&headings, &rows)
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
