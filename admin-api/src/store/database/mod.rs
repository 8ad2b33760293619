//! What both backends do alike, in the words of a [`Dialect`].

mod read;
mod schema;
mod side;
mod workloads;

use jiff::Timestamp;
use sqlx::Pool;

use super::StoreError;
use super::dialect::Dialect;
use super::seal::MasterKey;

/// An open database.
#[derive(Debug)]
pub(super) struct Database<D: Dialect> {
    /// How messages call it.
    pub(super) location: String,
    pub(super) master: MasterKey,
    pub(super) readers: Pool<D>,
    /// May be the same as the readers.
    pub(super) writer: Pool<D>,
}

impl<D: Dialect> Database<D> {
    /// Tells what an error of the database means.
    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError + use<'_, D> {
        move |error| D::classify(&self.location, action, error)
    }
}

/// A time as both databases take it: in UTC, with milliseconds and always of the same length, so that the order of
/// texts is that of times.
fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
