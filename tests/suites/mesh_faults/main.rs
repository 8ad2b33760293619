//! Faults of the mesh, on real processes: each leaves traffic or a clear refusal, a line in the log that says why, and
//! nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod certificates;
mod control_plane;
mod identities;
mod links;
mod refusals;
mod replicas;
mod sidecars;
mod support;
