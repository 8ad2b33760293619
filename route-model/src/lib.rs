//! What a route is and what it decides.
//!
//! Three layers of one thing: a [`resource::Resource`] is what a person wrote, a [`resource::ResourceSet`] is a
//! consistent set of them at one revision, a [`table::RouteTable`] is the compiled, immutable form that requests
//! run on. [`compile`] leads from the second to the third; it is the only definition of what the resources mean.
//!
//! Everything here is pure: no I/O, no async, no clock.

mod analyze;
pub mod compile;
pub mod effective;
pub mod explain;
pub mod field;
pub mod fields;
pub mod identity;
pub mod kind;
pub mod kinds;
pub mod matching;
pub mod meta;
pub mod names;
pub mod request;
pub mod resource;
pub mod schema;
pub mod table;
pub mod validate;
pub mod verdict;
