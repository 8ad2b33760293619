//! What the tests of several crates need.

pub mod issuer;
pub mod postgres;
pub mod wait;

pub use issuer::{Issuer, KeyServer};
pub use postgres::Postgres;
pub use wait::eventually;
