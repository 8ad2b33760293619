pub(crate) mod beside;
pub(crate) mod by_hand;
pub(crate) mod full_disk;
pub(crate) mod objects;
pub(crate) mod order;
pub(crate) mod outages;
pub(crate) mod replicas;
pub(crate) mod workloads;
