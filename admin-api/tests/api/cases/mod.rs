mod changes;
mod documents;
mod metadata;
mod reads;
mod server_side_apply;
mod status;
mod watches;
mod writes;
