//! Whether the application can take traffic, as the control plane is told.
//!
//! It is not ready before its sidecar has a configuration and a certificate, and listens where its traffic comes in. Then
//! what the flag `--readiness` says is probed, else what the WorkloadGroup says; without either it is ready.

mod http;
mod probe;

use std::future::Future;
use std::sync::Arc;

use follower::{Follower, Missing};
use push::workload::Ready;
use route_model::kinds::WorkloadGroup;
use route_model::resource::Resource;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::info;

use self::probe::Probe;
use crate::options::Readiness;

type Group = watch::Receiver<Option<Arc<Resource>>>;

/// Probes, and says what changes, for as long as it is polled.
pub(crate) fn watch(flag: Option<Readiness>, follower: &Follower) -> impl Future<Output = ()> + Send + use<> {
    let (mut prerequisites, said) = (follower.prerequisites(), follower.readiness());
    let met = async move {
        while let Some(missing) = prerequisites.missing() {
            say(&said, unready(&of_sidecar(&missing)));
            if !prerequisites.changed().await {
                // It has ended.
                std::future::pending::<()>().await;
            }
        }
    };
    run(flag.map(Probe::from), follower.group(), met, follower.readiness())
}

/// Why an application is not ready whose sidecar lacks something.
fn of_sidecar(missing: &Missing) -> String {
    match missing {
        Missing::Given(what) => format!("its sidecar has not got {what} yet"),
        Missing::Listener(address) => format!("its sidecar cannot listen on {address}"),
    }
}

/// Nothing is probed before `met`.
async fn run(flag: Option<Probe>, mut group: Group, met: impl Future<Output = ()>, said: watch::Sender<Ready>) {
    met.await;
    let began = Instant::now();
    let mut judge = Judge::default();
    loop {
        let probe = flag.clone().or_else(|| of_group(&mut group));
        let Some(probe) = probe else {
            judge = Judge { ready: true, ..Judge::default() };
            say(&said, Ready { ready: true, reason: String::new() });
            if group.changed().await.is_err() {
                return;
            }
            continue;
        };
        if !judge.ready {
            say(&said, unready("it has not been probed yet"));
        }
        tokio::select! {
            () = keep_probing(&probe, began, &mut judge, &said) => {}
            () = until_another(&mut group, &probe), if flag.is_none() => {}
        }
    }
}

/// The probe of the WorkloadGroup as it is now.
fn of_group(group: &mut Group) -> Option<Probe> {
    Probe::of(group.borrow_and_update().as_ref()?.spec::<WorkloadGroup>()?.probe.as_ref()?)
}

/// Waits until the WorkloadGroup says something else.
async fn until_another(group: &mut Group, probe: &Probe) {
    while group.changed().await.is_ok() {
        if of_group(group).as_ref() != Some(probe) {
            return;
        }
    }
    // The follower is gone, and nothing will change any more.
    std::future::pending::<()>().await;
}

async fn keep_probing(probe: &Probe, began: Instant, judge: &mut Judge, said: &watch::Sender<Ready>) {
    tokio::time::sleep_until(began + probe.initial_delay).await;
    let mut ticks = tokio::time::interval(probe.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(ready) = judge.note(probe.run().await, probe) {
            say(said, ready);
        }
    }
}

fn say(said: &watch::Sender<Ready>, ready: Ready) {
    said.send_if_modified(|known| {
        let is_news = *known != ready;
        if is_news {
            info!(ready = ready.ready, reason = ready.reason, "the application's readiness changed");
            *known = ready;
        }
        is_news
    });
}

fn unready(reason: &str) -> Ready {
    Ready { ready: false, reason: reason.to_owned() }
}

/// Makes a state of outcomes that does not change with each of them.
#[derive(Debug, Default)]
struct Judge {
    ready: bool,
    /// How many outcomes in a row spoke against the state.
    against: u32,
}

impl Judge {
    /// What is to be said after this outcome.
    fn note(&mut self, outcome: Result<(), String>, probe: &Probe) -> Option<Ready> {
        if outcome.is_ok() == self.ready {
            self.against = 0;
            // Why not may be another reason than before.
            return outcome.err().map(|reason| Ready { ready: false, reason });
        }
        self.against += 1;
        let enough = if self.ready { probe.failure_threshold } else { probe.success_threshold };
        if self.against < enough {
            return None;
        }
        *self = Self { ready: outcome.is_ok(), against: 0 };
        Some(Ready { ready: self.ready, reason: outcome.err().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use route_model::kind::Kind;
    use serde_json::json;

    use super::*;

    fn probe(success_threshold: u32, failure_threshold: u32) -> Probe {
        let mut probe = Probe::from("tcp:9080".parse::<Readiness>().unwrap());
        (probe.success_threshold, probe.failure_threshold) = (success_threshold, failure_threshold);
        probe
    }

    /// Outcomes as a word: `+` and `-`. What is said after each: `r`, `u`, or `.` for nothing.
    fn said(outcomes: &str, probe: &Probe) -> String {
        let mut judge = Judge::default();
        let outcome = |c| if c == '+' { Ok(()) } else { Err("refused".to_owned()) };
        let said = |outcome| match judge.note(outcome, probe) {
            Some(Ready { ready: true, .. }) => 'r',
            Some(_) => 'u',
            None => '.',
        };
        outcomes.chars().map(outcome).map(said).collect()
    }

    #[test]
    fn thresholds_keep_a_state_from_flapping() {
        for (success, failure, outcomes, expected) in
            [(1, 3, "+", "r"), (1, 3, "-+--+---+", "ur.....ur"), (2, 1, "+-++-+", ".u.ru."), (1, 1, "+-+-", "ruru")]
        {
            assert_eq!(said(outcomes, &probe(success, failure)), expected, "{outcomes} {success} {failure}");
        }
    }

    proptest! {
        #[test]
        fn a_state_changes_after_its_threshold_only(outcomes in "[+-]{0,60}", success in 1u32..4, failure in 1u32..4) {
            let said = said(&outcomes, &probe(success, failure));
            let mut ready = false;
            for (index, word) in said.chars().enumerate() {
                let (next, run) = match word {
                    'r' => (true, success),
                    'u' if ready => (false, failure),
                    _ => continue,
                };
                let from = (index + 1).checked_sub(run as usize);
                let wanted = if next { '+' } else { '-' };
                prop_assert!(from.is_some_and(|from| outcomes[from..=index].chars().all(|c| c == wanted)));
                ready = next;
            }
        }
    }

    fn group(probe: serde_json::Value) -> Arc<Resource> {
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
            "metadata": {"name": "g", "namespace": "shop"}, "spec": {"probe": probe},
        });
        Arc::new(Resource::from_object(Kind::WorkloadGroup, &object).unwrap())
    }

    #[tokio::test]
    async fn a_group_may_come_change_and_go() {
        let (meet, is_met) = tokio::sync::oneshot::channel::<()>();
        let (groups, group_seen) = watch::channel(None);
        let said = watch::Sender::default();
        let mut heard = said.subscribe();
        let waiting = said.clone();
        let met = async move {
            say(&waiting, unready(&of_sidecar(&Missing::Given("a configuration"))));
            is_met.await.unwrap();
        };
        let task = tokio::spawn(run(None, group_seen, met, said));
        let mut until = async |wanted: Result<(), &str>| {
            let is_it = |ready: &Ready| match wanted {
                Ok(()) => ready.ready,
                Err(part) => !ready.ready && ready.reason.contains(part),
            };
            let waited = tokio::time::timeout(Duration::from_secs(20), heard.wait_for(is_it)).await;
            assert!(waited.is_ok(), "{wanted:?}");
        };
        until(Err("has not got a configuration yet")).await;
        meet.send(()).unwrap();
        until(Ok(())).await;
        groups.send_replace(Some(group(
            json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}),
        )));
        until(Err("false: exit status: 1")).await;
        groups.send_replace(Some(group(json!({"exec": {"command": ["true"]}, "periodSeconds": 1}))));
        until(Ok(())).await;
        groups.send_replace(Some(group(json!({"exec": {"command": ["false"]}, "failureThreshold": 1}))));
        until(Err("exit status")).await;
        groups.send_replace(None);
        until(Ok(())).await;
        task.abort();
    }
}
