//! One file a command.

pub(crate) mod admin;
pub(crate) mod apply;
pub(crate) mod ca;
pub(crate) mod completions;
pub(crate) mod control_plane;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod explain;
pub(crate) mod gateway;
pub(crate) mod get;
pub(crate) mod identity;
pub(crate) mod join_token;
pub(crate) mod kubeconfig;
pub(crate) mod serve;
pub(crate) mod target;
pub(crate) mod validate;
pub(crate) mod version;
