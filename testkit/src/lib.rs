//! What the tests of several crates need.

pub mod issuer;
pub mod netns;
pub mod postgres;
pub mod wait;

pub use issuer::{Issuer, KeyServer};
pub use netns::{Host, Lan};
pub use postgres::Postgres;
pub use wait::eventually;
