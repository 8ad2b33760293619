//! The places that rules send requests to, numbered.
//!
//! A target is what a rule says, not what is there: rules compile without a look at services and endpoints, and a
//! changed endpoint changes no route.

use std::collections::HashMap;
use std::sync::Arc;

use crate::table::ClusterId;

/// A destination as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Fully qualified, in lower case.
    pub(crate) host: Arc<str>,
    /// The host was written as a short name of `namespace`.
    pub(crate) short: bool,
    pub(crate) port: TargetPort,
    pub(crate) subset: Option<Arc<str>>,
    /// The namespace of the rule. A service of the same namespace is preferred.
    pub(crate) namespace: Arc<str>,
}

impl Target {
    /// A cluster of a sidecar's own, by the host that stands for it.
    pub(super) fn own(host: Arc<str>) -> Self {
        Self { host, short: false, port: TargetPort::Number(0), subset: None, namespace: Arc::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TargetPort {
    Number(u16),
    /// Not written: the service's only port, else the listener's, which is this.
    Listener(u16),
}

/// Gives targets their [`ClusterId`]s. A number stays with its target for as long as a rule names it.
#[derive(Debug, Default)]
pub(super) struct Targets {
    ids: HashMap<Target, ClusterId, foldhash::fast::RandomState>,
    slots: Vec<Slot>,
    free: Vec<ClusterId>,
    /// Numbers that were given to another target since [`Targets::take_renewed`].
    renewed: Vec<ClusterId>,
}

#[derive(Debug)]
struct Slot {
    target: Option<Target>,
    /// How many rules name it.
    uses: usize,
}

impl Targets {
    /// The number of a target, which counts as one more use of it.
    pub(super) fn intern(&mut self, target: Target) -> ClusterId {
        if let Some(&id) = self.ids.get(&target) {
            self.retain(id);
            return id;
        }
        let slot = Slot { target: Some(target.clone()), uses: 1 };
        let id = if let Some(id) = self.free.pop() {
            self.slots[id.index()] = slot;
            id
        } else {
            self.slots.push(slot);
            ClusterId(self.slots.len() as u32 - 1)
        };
        self.ids.insert(target, id);
        self.renewed.push(id);
        id
    }

    pub(super) fn retain(&mut self, id: ClusterId) {
        self.slots[id.index()].uses += 1;
    }

    /// Ends one use.
    pub(super) fn release(&mut self, id: ClusterId) {
        let slot = &mut self.slots[id.index()];
        slot.uses -= 1;
        if slot.uses == 0
            && let Some(target) = slot.target.take()
        {
            self.ids.remove(&target);
            self.free.push(id);
            self.renewed.push(id);
        }
    }

    pub(super) fn get(&self, id: ClusterId) -> Option<&Target> {
        self.slots.get(id.index())?.target.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClusterId, &Target)> {
        (0..).zip(&self.slots).filter_map(|(i, slot)| Some((ClusterId(i), slot.target.as_ref()?)))
    }

    /// How many numbers there are, unused ones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The numbers whose meaning changed since the last call.
    pub(super) fn take_renewed(&mut self) -> Vec<ClusterId> {
        std::mem::take(&mut self.renewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_while_it_is_used() {
        let target = |host: &str| Target {
            host: host.into(),
            short: false,
            port: TargetPort::Number(80),
            subset: None,
            namespace: "default".into(),
        };
        let mut targets = Targets::default();
        let a = targets.intern(target("a"));
        let b = targets.intern(target("b"));
        assert_eq!(targets.intern(target("a")), a);
        assert_eq!(targets.take_renewed(), [a, b]);
        targets.release(a);
        assert_eq!(targets.get(a), Some(&target("a")));
        targets.release(a);
        assert_eq!(targets.get(a), None);
        // A number that is free again may be given away.
        assert_eq!(targets.intern(target("c")), a);
        assert_eq!(targets.take_renewed(), [a, a]);
        assert_eq!(targets.iter().map(|(id, target)| (id, &*target.host)).collect::<Vec<_>>(), [(a, "c"), (b, "b")]);
        assert_eq!(targets.len(), 2);
    }
}
