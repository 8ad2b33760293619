//! The REST API over a real store, through its router.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod cases;
mod damage;
mod harness;
