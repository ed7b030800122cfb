//! A builder among replicas: which of them decides, and how the others carry it out.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use super::{Builder, Decides, Keeper, log_transition};
use crate::{
    checkpoint::News,
    intent::ServiceKey,
    translate::decide::{self, Stepped},
};

impl Builder {
    /// How far this replica decides by itself.
    #[must_use]
    pub fn decides(&self) -> Decides {
        self.decides
    }

    /// From now on this replica decides so far by itself. One that takes over goes on from what it was told.
    pub fn set_decides(&mut self, decides: Decides, now: Timestamp) {
        if std::mem::replace(&mut self.decides, decides) == decides {
            return;
        }
        if decides == Decides::All {
            self.built.values_mut().for_each(|built| built.rules.take_over(now));
        }
        let services = self.built.keys().cloned().collect();
        self.build(&services, now, false);
    }

    /// Another replica is told everything, and whatever is decided from now on.
    pub fn tell(&mut self, keeper: Keeper, now: Timestamp) {
        self.keep_all_by(std::slice::from_ref(&keeper), now);
        keeper.keep_pauses(&self.pauses, now);
        self.keepers.push(keeper);
    }

    /// Carries out what the replica that decides has told.
    pub fn take_up(&mut self, News { decisions, memories, splits, pauses }: News, now: Timestamp) {
        let mut moved = BTreeSet::new();
        for (service, memory) in memories {
            self.keepers.iter().for_each(|keeper| keeper.remember(&service, memory.clone(), now));
            let memory = memory.as_deref().map_or(&[][..], Vec::as_slice);
            moved.extend(self.index.recall(&service, memory).services);
        }
        moved.extend(self.index.let_go(now).services);
        for (service, told) in decisions {
            // Gone there: it goes here, too, when the watch says so.
            let Some(told) = told else { continue };
            self.keepers.iter().for_each(|keeper| keeper.keep(&service, Arc::clone(&told), now));
            let mut built = self.built.get_mut(&service);
            let is_there =
                |one: &decide::Told| built.as_ref().is_some_and(|built| built.rules.has(&one.policy, &one.rule));
            let (told, unseen): (Vec<_>, Vec<_>) = Arc::unwrap_or_clone(told).into_iter().partition(is_there);
            self.kept.remove(&service);
            if !unseen.is_empty() {
                // The watch is behind the one that decides.
                self.kept.insert(service.clone(), (now, decide::states(&service, &unseen)));
            }
            let Some(built) = &mut built else { continue };
            let Stepped { numbers, turned, moves, .. } = built.rules.take_up(told);
            moves.iter().for_each(|one| log_transition(&service, one, &built.rules));
            if let Some(news) = self.news.as_mut().filter(|_| numbers || turned) {
                news.services.insert(service.clone());
            }
            if numbers {
                moved.insert(service);
            }
        }
        let elsewhere: BTreeSet<ServiceKey> = moved.iter().flat_map(|service| self.enforcing(service)).collect();
        for service in elsewhere.union(&moved) {
            self.publish(service, None);
        }
        self.take_up_splits(splits, now);
        if let Some(pauses) = pauses.filter(|pauses| *pauses != self.pauses) {
            self.set_pauses(pauses, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use limiter::{engine::Phase, metric::Word};

    use super::*;
    use crate::{
        checkpoint::{Detail, Wants},
        intent::Pauses,
        metrics::{Measure, PodSample, Source},
        tests::{CART, cart, changes},
        xds::table::Table,
    };

    const POLICY: &str = "apiVersion: weir.dev/v1alpha1
kind: SmartLimiter
metadata: {name: cart, namespace: a}
spec:
  targetRefs: [{kind: Service, name: cart}]
  rules:
  - {name: hot, when: cpu > 80% until cpu < 30%, limit: 10 requests per second per pod}
  - {name: all, limit: 1000 requests per second across all pods}
";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + second).expect("a time")
    }

    fn cpu(value: f64, at: Timestamp) -> Vec<PodSample> {
        vec![PodSample {
            service: cart().into(),
            pod: Some("cart-0".to_owned()),
            measure: Measure::Number(Word::Cpu, value),
            at,
            fresh_for_ms: 750,
            source: Source::Scrape,
        }]
    }

    /// Builders of the same objects: one decides, one follows.
    fn two(of_follower: &str) -> (Builder, Builder) {
        let (mut leader, mut follower) = (Builder::new(Table::new()), Builder::new(Table::new()));
        leader.apply(changes(&format!("{CART}{POLICY}")), at(0));
        follower.set_decides(Decides::Unmeasured, at(0));
        follower.apply(changes(of_follower), at(0));
        (leader, follower)
    }

    /// Brings everything that was decided from one to the other.
    fn carry(from: &mut Builder, to: &mut Builder) {
        let (keeper, mut waiting) = Keeper::new(Wants { decisions: Some(Detail::Numbers), memories: true });
        from.tell(keeper, at(0));
        let taken = futures::FutureExt::now_or_never(waiting.next());
        to.take_up(taken.flatten().expect("all of it waits"), at(0));
    }

    fn phase(builder: &Builder, rule: &str) -> Option<Phase> {
        let rules = builder.built(&cart())?.rules.iter();
        rules.filter(|ruling| ruling.rule.name == rule).map(|ruling| ruling.decision.phase).next()
    }

    fn intent(builder: &Builder) -> crate::intent::ServiceIntent {
        (*builder.built(&cart()).expect("built").intent).clone()
    }

    #[test]
    fn who_follows_publishes_what_the_leader_does() {
        let (mut leader, mut follower) = two(&format!("{CART}{POLICY}"));
        assert_eq!(phase(&follower, "all"), Some(Phase::Limiting), "static limits need no leader");
        leader.observe(cpu(0.9, at(1)), at(1));
        assert_ne!(intent(&leader), intent(&follower));
        carry(&mut leader, &mut follower);
        assert_eq!(phase(&follower, "hot"), Some(Phase::Limiting));
        assert_eq!(intent(&leader), intent(&follower));
        let why = follower.built(&cart()).and_then(|built| built.rules.iter().next().map(|ruling| ruling.explain()));
        let said = "a limit is in force: Limiting since 2001-09-09T01:46:41Z, as the leading replica has decided";
        assert_eq!(why.as_deref(), Some(said));
    }

    #[test]
    fn time_and_edits_decide_nothing_that_is_measured() {
        let (mut leader, mut follower) = two(&format!("{CART}{POLICY}"));
        leader.observe(cpu(0.9, at(1)), at(1));
        carry(&mut leader, &mut follower);
        follower.tick(at(3600));
        assert_eq!(intent(&leader), intent(&follower), "an hour without the leader");
        let edited = POLICY.replace("1000 requests", "500 requests").replace("cpu > 80% until", "cpu > 95% until");
        follower.apply(changes(&edited), at(3601));
        assert_eq!(phase(&follower, "hot"), Some(Phase::Limiting));
        leader.apply(changes(&edited), at(2));
        assert_eq!(intent(&leader), intent(&follower), "the static limit is the new one at both");
    }

    #[test]
    fn what_comes_before_its_object_waits_for_it() {
        let (mut leader, mut follower) = two(CART);
        leader.observe(cpu(0.9, at(1)), at(1));
        carry(&mut leader, &mut follower);
        assert_eq!(phase(&follower, "hot"), None);
        follower.apply(changes(POLICY), at(2));
        assert_eq!(phase(&follower, "hot"), Some(Phase::Limiting));
        assert_eq!(intent(&leader), intent(&follower));
    }

    #[test]
    fn who_takes_over_goes_on_from_there() {
        let (mut leader, mut follower) = two(&format!("{CART}{POLICY}"));
        leader.observe(cpu(0.9, at(1)), at(1));
        carry(&mut leader, &mut follower);
        let before = intent(&follower);
        follower.set_decides(Decides::All, at(8));
        assert_eq!(intent(&follower), before, "without a metric nothing changes");
        follower.observe(cpu(0.9, at(9)), at(9));
        assert_eq!(intent(&follower), before);
        follower.observe(cpu(0.1, at(10)), at(10));
        assert_eq!(phase(&follower, "hot"), Some(Phase::Releasing));
    }

    #[test]
    fn what_is_paused_is_told_too() {
        let (mut leader, mut follower) = two(&format!("{CART}{POLICY}"));
        leader.set_pauses(Pauses { all: true, ..Pauses::default() }, at(1));
        carry(&mut leader, &mut follower);
        assert!(follower.pauses().all);
        assert_eq!(intent(&leader), intent(&follower));
    }
}
