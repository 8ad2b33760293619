//! What a layer holds of the resources, and what leads to the next set.

use std::sync::Arc;

use push::message::Key;
use push::server::Entry;
use route_model::resource::Resource;

use super::bodies::Bodies;
use crate::api::Keys;

/// What a layer holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By key.
    resources: Vec<Arc<Resource>>,
    /// What of it proxies of this generation of the model are sent.
    keys: Arc<Keys>,
}

/// What is to be published.
pub(super) struct Step {
    pub(super) upserts: Vec<(Arc<Key>, Entry)>,
    pub(super) removed: Vec<Key>,
}

impl Held {
    pub(super) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Holds these from now on, which are in the order of their keys.
    pub(super) fn turn(&mut self, next: Vec<Arc<Resource>>, model_version: u32, bodies: &mut Bodies) -> Step {
        let (mut upserts, mut removed) = (Vec::new(), Vec::new());
        let mut before = self.resources.iter().peekable();
        let mut same_keys = next.len() == self.resources.len();
        for resource in &next {
            if before.next_if(|old| Arc::ptr_eq(old, resource)).is_some() {
                continue;
            }
            while let Some(gone) = before.next_if(|old| old.key < resource.key) {
                removed.push(Key::from(&gone.key));
                same_keys = false;
            }
            let old = before.next_if(|old| old.key == resource.key);
            same_keys &= old.is_some();
            if old.is_some_and(|old| Arc::ptr_eq(old, resource)) {
                continue;
            }
            match bodies.entry(resource) {
                Some(entry) => upserts.push(entry),
                None => removed.push(Key::from(&resource.key)),
            }
        }
        removed.extend(before.map(|gone| Key::from(&gone.key)));
        if !same_keys {
            let known = next.iter().filter(|resource| resource.key.kind.info().since <= model_version);
            self.keys = Arc::new(known.map(|resource| resource.key.clone()).collect());
        }
        self.resources = next;
        Step { upserts, removed }
    }
}
