//! What the tests of several crates need.

pub mod postgres;
pub mod wait;

pub use postgres::Postgres;
pub use wait::eventually;
