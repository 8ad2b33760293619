//! The one compiler of the control plane: what the resources mean now, and what they would mean after a change.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use route_model::compile::{Changed, Compiled, Compiler, Finding, ProxyScope, Severity};
use route_model::meta::ResourceKey;
use route_model::resource::Resource;

use crate::store::{Snapshot, View};

/// Compiles for one proxy scope. Calls are CPU work of milliseconds: run them off the async threads.
#[derive(Debug)]
pub(crate) struct Compilation {
    snapshot: Snapshot,
    scope: ProxyScope,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    compiler: Compiler,
    /// The resourceVersion that the compiler last saw; none before the first time.
    at: Option<u64>,
    /// What previews changed in the compiler's eyes and is to be looked at again.
    previewed: BTreeSet<ResourceKey>,
    current: Option<Compiled>,
}

/// Findings before and after a change that is not made yet.
#[derive(Debug)]
pub(crate) struct Preview {
    pub(crate) before: Vec<Finding>,
    pub(crate) after: Vec<Finding>,
}

impl Preview {
    /// What the change brings up: every finding about what it writes, and elsewhere those that were not there.
    pub(crate) fn raised(&self, written: &[ResourceKey]) -> Vec<&Finding> {
        let known = self.known();
        let raised = |f: &&Finding| written.contains(&f.resource) || !known.contains(&identity(f));
        self.after.iter().filter(raised).collect()
    }

    /// References that lead nowhere after the change and led somewhere, or were not there, before it.
    pub(crate) fn dangling(&self) -> Vec<&Finding> {
        let known = self.known();
        let dangling = |f: &&Finding| f.severity == Severity::Unresolved && !known.contains(&identity(f));
        self.after.iter().filter(dangling).collect()
    }

    fn known(&self) -> BTreeSet<(&ResourceKey, &str, &str)> {
        self.before.iter().map(identity).collect()
    }
}

/// A finding without its path: positions move when something is put in front of them.
fn identity(finding: &Finding) -> (&ResourceKey, &str, &str) {
    (&finding.resource, finding.reason, &finding.message)
}

impl Compilation {
    pub(crate) fn new(snapshot: Snapshot, scope: ProxyScope) -> Self {
        let compiler = Compiler::new(scope.clone());
        let state = State { compiler, at: None, previewed: BTreeSet::new(), current: None };
        Self { snapshot, scope, state: Mutex::new(state) }
    }

    /// The proxies that it compiles for.
    pub(crate) fn scope(&self) -> &ProxyScope {
        &self.scope
    }

    /// What is compiled from `view`.
    pub(crate) fn of(&self, view: &View) -> Compiled {
        // A panic inside the compiler leaves a state that the next full compilation replaces.
        let mut state = self.state.lock().unwrap_or_else(|poisoned| {
            self.state.clear_poison();
            let mut state = PoisonError::into_inner(poisoned);
            state.at = None;
            state.current = None;
            state
        });
        self.bring_up_to(&mut state, view)
    }

    /// What `edits` (nothing is a deletion) would change in `view`.
    pub(crate) fn preview(&self, view: &View, edits: &[(ResourceKey, Option<Arc<Resource>>)]) -> Preview {
        let before = self.of(view).findings;
        let mut set = view.resources().as_ref().clone();
        for (key, resource) in edits {
            match resource {
                Some(resource) => drop(set.insert(resource.clone())),
                None => drop(set.remove(key)),
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Between the two locks the compiler may have moved on with the store; what it saw since differs from `set`.
        let mut keys = match state.at {
            Some(at) => self.snapshot.changed_between(at.min(view.resource_version()), at.max(view.resource_version())),
            None => Changed::Everything,
        };
        if let Changed::Keys(keys) = &mut keys {
            keys.extend(edits.iter().map(|(key, _)| key.clone()));
            keys.extend(state.previewed.iter().cloned());
        }
        state.previewed.extend(edits.iter().map(|(key, _)| key.clone()));
        let after = state.compiler.update(&set, &keys).findings;
        state.current = None;
        Preview { before, after }
    }

    fn bring_up_to(&self, state: &mut State, view: &View) -> Compiled {
        let to = view.resource_version();
        if let (Some(at), Some(current)) = (state.at, &state.current)
            && at == to
            && state.previewed.is_empty()
        {
            return current.clone();
        }
        let mut changed = match state.at {
            Some(at) => self.snapshot.changed_between(at.min(to), at.max(to)),
            None => Changed::Everything,
        };
        if let Changed::Keys(keys) = &mut changed {
            keys.extend(std::mem::take(&mut state.previewed));
        }
        state.previewed.clear();
        let compiled = state.compiler.update(view.resources(), &changed);
        state.at = Some(to);
        state.current = Some(compiled.clone());
        compiled
    }
}
