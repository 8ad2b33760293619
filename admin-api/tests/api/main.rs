//! The REST API over a real store, through its router.

mod cases;
mod harness;
