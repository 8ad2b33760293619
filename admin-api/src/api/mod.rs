//! The REST API: resources in Kubernetes' style, and Fairway's own calls beside them.

mod age;
mod apply;
mod error;
mod negotiate;
mod patch;
mod protobuf;
mod query;
mod selector;
