//! Resources as typed values, and consistent sets of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kind::Kind;
use crate::meta::{ObjectMeta, ResourceKey, Revision};

/// A resource as a person wrote it, typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub key: ResourceKey,
    pub meta: ObjectMeta,
}

/// A consistent set of resources at one revision. Cloning shares the resources.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    pub revision: Revision,
    resources: BTreeMap<ResourceKey, Arc<Resource>>,
}

impl ResourceSet {
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// Adds or replaces; answers what was there before.
    pub fn insert(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        self.resources.insert(resource.key.clone(), resource)
    }

    pub fn remove(&mut self, key: &ResourceKey) -> Option<Arc<Resource>> {
        self.resources.remove(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The resources of one kind, by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.range(ResourceKey::new(kind, "", "")..).map(|(_, r)| r).take_while(move |r| r.key.kind == kind)
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}
