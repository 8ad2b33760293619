//! `docs/fields.md`, made from the table.

use std::fmt::Write as _;

use super::{State, entries};
use crate::kind::Kind;

/// The page, whole.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Fields\n\n\
         What Fairway does with each field of each kind. A field that is accepted and not acted on is stored, comes \
         back as it was\nwritten, and is answered with a warning when it is written.\n\n\
         `[]` stands for the items of a list, `.*` for the values of a map, `=` for one value of a field. A line also \
         holds for\nwhat lies below the field, where no other line is closer. `metadata` and `status` are as in \
         Kubernetes.\n\n\
         This page is made from the table in `route-model/src/fields/table.rs`; change that and run\n\
         `UPDATE=1 cargo test -p route-model fields`.\n",
    );
    for kind in Kind::ALL {
        let info = kind.info();
        let versions = info.versions.join(", ");
        let group = if info.group.is_empty() { "core" } else { info.group };
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {}\n\n{group} ({versions})\n\n| field | state |\n|---|---|\n", info.name);
        for entry in entries(kind) {
            let state = match entry.state {
                State::Since(version) => format!("works since {version}"),
                State::NotYet => "not yet".to_owned(),
                State::Sidecars(version, reason) => format!("works since {version}, at sidecars: {reason}"),
                State::Never(reason) => format!("never: {reason}"),
            };
            let _ = writeln!(page, "| `{}` | {state} |", entry.path);
        }
    }
    page
}
