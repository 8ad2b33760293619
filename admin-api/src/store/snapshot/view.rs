//! One consistent state of everything.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use route_model::field::{FieldCause, FieldError, FieldPath};
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use route_model::resource::{Resource, ResourceSet};
use route_model::validate::validate;

use super::super::{Head, StoredObject, Token, TokenHash};
use super::registry::Registry;

/// Everything that is live at one revision. Cheap to clone: what did not change is shared.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) head: Head,
    pub(super) objects: BTreeMap<Kind, Arc<BTreeMap<ResourceKey, Arc<StoredObject>>>>,
    pub(super) resources: Arc<ResourceSet>,
    pub(super) quarantine: Arc<BTreeMap<ResourceKey, Arc<Quarantined>>>,
    pub(super) registry: Arc<Registry>,
    pub(super) tokens: Arc<HashMap<TokenHash, Arc<Token>, foldhash::fast::RandomState>>,
}

/// Why an object does not count as written: only a hand in the database can store what the API refuses.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub errors: Vec<FieldError>,
    /// The generation of the last valid form, which stays live; nothing where there never was one.
    pub live_generation: Option<i64>,
}

impl View {
    /// What a list's `metadata.resourceVersion` is: a watch from here misses nothing.
    pub fn resource_version(&self) -> u64 {
        self.head.resource_version
    }

    pub fn revision(&self) -> Revision {
        self.head.revision
    }

    /// The object as its row has it, valid or not, or as it is generated.
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<StoredObject>> {
        self.objects.get(&key.kind)?.get(key)
    }

    /// The objects of a kind, by namespace and name; of one namespace if given.
    pub fn list<'a>(&'a self, kind: Kind, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<StoredObject>> {
        let first = ResourceKey::new(kind, namespace.unwrap_or_default(), "");
        let objects = self.objects.get(&kind).into_iter().flat_map(move |objects| objects.range(first.clone()..));
        objects
            .map(|(_, object)| object)
            .take_while(move |object| namespace.is_none_or(|namespace| *object.key.namespace == *namespace))
    }

    /// The typed resources that routing is made of: of an invalid row the last valid form.
    pub fn resources(&self) -> &Arc<ResourceSet> {
        &self.resources
    }

    pub fn quarantined(&self, key: &ResourceKey) -> Option<&Arc<Quarantined>> {
        self.quarantine.get(key)
    }

    /// Every object in quarantine.
    pub fn quarantine(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<Quarantined>)> {
        self.quarantine.iter()
    }

    /// The token with this hash, whether or not it is still valid.
    pub fn token(&self, hash: &TokenHash) -> Option<&Arc<Token>> {
        self.tokens.get(hash)
    }

    /// Another number means that tokens were written.
    pub fn token_writes(&self) -> u64 {
        self.head.tokens
    }

    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    pub(super) fn empty(head: Head) -> Self {
        Self {
            head,
            objects: BTreeMap::new(),
            resources: Arc::default(),
            quarantine: Arc::default(),
            registry: Arc::default(),
            tokens: Arc::default(),
        }
    }

    /// Puts the row's state in place. An invalid one goes to quarantine, and what was live stays so.
    pub(super) fn put(&mut self, object: Arc<StoredObject>) -> Result<(), Vec<FieldError>> {
        let key = object.key.clone();
        let typed = typed(&object);
        Arc::make_mut(self.objects.entry(key.kind).or_default()).insert(key.clone(), object);
        match typed {
            Ok(resource) => {
                if let Some(resource) = resource {
                    Arc::make_mut(&mut self.resources).insert(Arc::new(resource));
                }
                if self.quarantine.contains_key(&key) {
                    Arc::make_mut(&mut self.quarantine).remove(&key);
                }
                Ok(())
            }
            Err(errors) => {
                let live_generation = self.resources.get(&key).map(|resource| resource.meta.generation);
                let quarantined = Quarantined { errors: errors.clone(), live_generation };
                Arc::make_mut(&mut self.quarantine).insert(key, Arc::new(quarantined));
                Err(errors)
            }
        }
    }

    /// Whether nobody wrote this object.
    pub fn is_generated(&self, key: &ResourceKey) -> bool {
        self.get(key).is_some_and(|object| object.generated)
    }

    /// Puts an object in place that is known to be valid.
    pub(super) fn put_generated(&mut self, object: Arc<StoredObject>) {
        if let Ok(Some(resource)) = typed(&object) {
            Arc::make_mut(&mut self.resources).insert(Arc::new(resource));
        }
        Arc::make_mut(self.objects.entry(object.key.kind).or_default()).insert(object.key.clone(), object);
    }

    /// Brings back the last valid form of an object in quarantine. Answers whether `form` is one.
    pub(super) fn keep_live(&mut self, form: &StoredObject) -> bool {
        let Ok(Some(resource)) = typed(form) else { return false };
        if let Some(quarantined) = Arc::make_mut(&mut self.quarantine).get_mut(&form.key) {
            Arc::make_mut(quarantined).live_generation = Some(resource.meta.generation);
        }
        Arc::make_mut(&mut self.resources).insert(Arc::new(resource));
        true
    }

    pub(super) fn remove(&mut self, key: &ResourceKey) {
        if let Some(objects) = self.objects.get_mut(&key.kind) {
            Arc::make_mut(objects).remove(key);
        }
        if self.resources.get(key).is_some() {
            Arc::make_mut(&mut self.resources).remove(key);
        }
        if self.quarantine.contains_key(key) {
            Arc::make_mut(&mut self.quarantine).remove(key);
        }
    }

    pub(super) fn set_tokens(&mut self, tokens: Vec<Token>) {
        self.tokens = Arc::new(tokens.into_iter().map(|token| (token.hash, Arc::new(token))).collect());
    }

    pub(super) fn advance(&mut self, resource_version: u64, revision: Revision) {
        self.head.resource_version = resource_version;
        self.head.revision = revision;
        if self.resources.revision != revision {
            Arc::make_mut(&mut self.resources).revision = revision;
        }
    }
}

/// The typed form; none for kinds that routing does not read.
pub(super) fn typed(object: &StoredObject) -> Result<Option<Resource>, Vec<FieldError>> {
    if let Some(fault) = &object.fault {
        return Err(vec![FieldError::new(FieldPath::default(), FieldCause::Invalid, &**fault)]);
    }
    if object.key.kind == Kind::Event {
        return Ok(None);
    }
    let verdict = validate(object.key.kind, object.key.kind.info().preferred_version(), &object.object);
    if !verdict.is_valid() {
        return Err(verdict.errors);
    }
    let resource = Resource::from_object(object.key.kind, &object.object)?;
    if resource.key != object.key {
        let path = FieldPath::new("metadata.namespace");
        return Err(vec![FieldError::new(path, FieldCause::Required, "the row has no namespace")]);
    }
    Ok(Some(resource))
}
