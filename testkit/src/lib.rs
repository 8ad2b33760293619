//! What the tests of several crates need.

pub mod postgres;

pub use postgres::Postgres;
