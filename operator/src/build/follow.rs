//! A builder among replicas: which of them decides, and how the others carry it out.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Builder, Decides, Keeper, log_transition};
use crate::{
    checkpoint::News,
    intent::{Pauses, ServiceKey},
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
        self.keep_all_by(&keeper, now);
        keeper.keep_pauses(&self.pauses, now);
        self.keepers.push(keeper);
    }

    /// Carries out what the replica that decides has told.
    pub fn take_up(&mut self, news: News, pauses: Option<Pauses>, now: Timestamp) {
        let mut moved = BTreeSet::new();
        for (service, told) in news {
            // Gone there: it goes here, too, when the watch says so.
            let Some(told) = told else { continue };
            self.keepers.iter().for_each(|keeper| keeper.keep(&service, told.clone(), now));
            let mut built = self.built.get_mut(&service);
            let is_there =
                |one: &decide::Told| built.as_ref().is_some_and(|built| built.rules.has(&one.policy, &one.rule));
            let (told, unseen): (Vec<_>, Vec<_>) = told.into_iter().partition(is_there);
            self.kept.remove(&service);
            if !unseen.is_empty() {
                // The watch is behind the one that decides.
                self.kept.insert(service.clone(), (now, decide::states(&service, unseen)));
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
        if let Some(pauses) = pauses.filter(|pauses| *pauses != self.pauses) {
            self.set_pauses(pauses, now);
        }
    }
}
