//! Server-side apply: who owns which field, and how a declared configuration is merged into what is stored.
//!
//! The rules are those of Kubernetes' structured merge, of which this is the part that the resources here can meet:
//! objects are walked, lists are atomic unless the schema says `x-kubernetes-list-type: map` or `set`.

mod field_set;
mod managed;
mod merge;

pub(crate) use managed::{ManagedFields, Manager, Operation};
pub(crate) use merge::apply;
