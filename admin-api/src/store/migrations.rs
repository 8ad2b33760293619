//! The steps of the schema, and which of them a database still needs.
//!
//! Files are numbered from 1 without gaps. An **additive** step leaves the build before it working on the new schema,
//! so that replicas can be upgraded one at a time.

/// One file of `migrations/`.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) version: i64,
    pub(super) name: &'static str,
    /// The build that knows the version before also runs on this one.
    pub(super) additive: bool,
    pub(super) sql: &'static str,
}

/// A row of the table `fairway_schema`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    pub(super) version: i64,
    pub(super) additive: bool,
}

/// The schema is newer than this build can run on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooNew {
    pub(super) found: i64,
    pub(super) known: i64,
}

/// The migrations that `applied` (in any order) does not hold, in their order.
pub(super) fn missing<'a>(known: &'a [Migration], applied: &[Applied]) -> Result<&'a [Migration], TooNew> {
    let newest_known = known.last().map_or(0, |migration| migration.version);
    let newest = applied.iter().max_by_key(|step| step.version);
    match newest {
        Some(step) if step.version > newest_known => {
            let one_additive_step = step.version == newest_known + 1 && step.additive;
            if one_additive_step { Ok(&[]) } else { Err(TooNew { found: step.version, known: newest_known }) }
        }
        newest => {
            let done = newest.map_or(0, |step| step.version);
            let first = known.iter().position(|migration| migration.version > done).unwrap_or(known.len());
            Ok(&known[first..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Migration] = &[
        Migration { version: 1, name: "one", additive: false, sql: "" },
        Migration { version: 2, name: "two", additive: true, sql: "" },
    ];

    #[test]
    fn a_database_gets_what_it_misses_and_a_newer_one_is_refused() {
        let step = |version, additive| Applied { version, additive };
        type Case<'a> = (&'a [Applied], Result<&'a [i64], TooNew>);
        let cases: [Case<'_>; 6] = [
            (&[], Ok(&[1, 2])),
            (&[step(1, false)], Ok(&[2])),
            (&[step(2, true), step(1, false)], Ok(&[])),
            (&[step(1, false), step(2, true), step(3, true)], Ok(&[])),
            (&[step(3, false)], Err(TooNew { found: 3, known: 2 })),
            (&[step(3, true), step(4, true)], Err(TooNew { found: 4, known: 2 })),
        ];
        for (applied, expected) in cases {
            let found = missing(KNOWN, applied).map(|steps| steps.iter().map(|m| m.version).collect::<Vec<_>>());
            assert_eq!(found, expected.map(<[i64]>::to_vec), "{applied:?}");
        }
    }
}
