//! Builds rules by hand and steps them through made-up time.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    engine::{
        Phase, RuleState,
        tests::{Told, told as step},
    },
    language::ast::{Comparison, Condition, Expression},
    metric::{Metric, Observations, Reduce, Sample, Word},
    policy::{Action, Limit, MissingAction, Mode, OnMissing, Rule, Scope, When},
    quota::Rate,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn metric(word: Word) -> Metric {
    Metric { word, reduce: Reduce::Mean }
}

pub(super) fn compare(word: Word, comparison: Comparison, threshold: f64) -> Condition {
    let (left, right) = (Expression::Metric(metric(word)), Expression::Number(threshold));
    Condition::Compare { comparison, left, right, relax: 1.0 }
}

pub(super) fn above(word: Word, threshold: f64) -> Condition {
    compare(word, Comparison::Greater, threshold)
}

pub(super) fn below(word: Word, threshold: f64) -> Condition {
    compare(word, Comparison::Less, threshold)
}

pub(super) fn held(id: usize, seconds: u64, condition: Condition) -> Condition {
    Condition::Held { id, condition: Box::new(condition), duration: Duration::from_secs(seconds) }
}

pub(super) fn when(condition: Condition, until: Condition) -> When {
    When { condition, until, explicit_until: true, text: String::new() }
}

pub(super) fn limit(amount: Expression) -> Limit {
    Limit { amount, interval: SECOND, scope: Scope::AcrossAllPods, per: None, text: String::new() }
}

pub(super) fn rule(when: Option<When>, amount: Expression) -> Rule {
    Rule {
        name: "shed".to_owned(),
        mode: Mode::Enforce,
        when,
        action: Action::Limit(limit(amount)),
        matches: Vec::new(),
        burst: None,
        classes: Vec::new(),
    }
}

/// `when: cpu > 80% for 3s until cpu < 70% for 2s`, `limit: 30 requests per second across all pods`.
pub(super) fn shed() -> Rule {
    let when = when(held(0, 3, above(Word::Cpu, 0.8)), held(0, 2, below(Word::Cpu, 0.7)));
    rule(Some(when), Expression::Number(30.0))
}

pub(super) fn on_missing(action: MissingAction) -> OnMissing {
    OnMissing { action, after: Duration::from_secs(5) }
}

pub(super) fn per_second(requests: f64) -> Rate {
    Rate::from_requests(requests, SECOND).unwrap()
}

/// 2026-01-02 10:00:00 UTC and so many milliseconds.
pub(super) fn at_ms(milliseconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-02T10:00:00Z".parse().unwrap();
    start + jiff::SignedDuration::from_millis(milliseconds)
}

pub(super) fn at(seconds: f64) -> Timestamp {
    at_ms((seconds * 1000.0) as i64)
}

pub(super) fn put(observations: &mut Observations, word: Word, value: f64, at: Timestamp) {
    let sample = Sample { value, at, fresh_for_ms: 1500, source: "scrape".into() };
    observations.samples.insert(metric(word), sample);
}

/// A rule on its way through time. Samples are fresh for 1.5 s.
pub(super) struct Walk {
    pub(super) rule: Rule,
    pub(super) on_missing: OnMissing,
    pub(super) state: RuleState,
    pub(super) observations: Observations,
}

impl Walk {
    pub(super) fn new(rule: Rule, action: MissingAction) -> Self {
        let observations = Observations { pods: 3, ..Observations::default() };
        Self { rule, on_missing: on_missing(action), state: RuleState::default(), observations }
    }

    /// Steps at `seconds`, with a new sample of each word given; each step must change nothing when it is repeated.
    pub(super) fn step(&mut self, seconds: f64, samples: &[(Word, f64)]) -> Told {
        let now = at(seconds);
        for (word, value) in samples {
            put(&mut self.observations, word.clone(), *value, now);
        }
        let (state, decision) = step(&self.rule, &self.on_missing, &self.state, &self.observations, now);
        let again = step(&self.rule, &self.on_missing, &state, &self.observations, now);
        assert_eq!(again, (state.clone(), decision.clone()), "repeated at {seconds}");
        self.state = state;
        decision
    }

    /// Steps through (seconds, cpu or no sample, expected phase, expected limit per second).
    pub(super) fn run(&mut self, table: &[(f64, Option<f64>, Phase, Option<f64>)]) {
        for (seconds, cpu, phase, limit) in table {
            let samples: Vec<_> = cpu.map(|cpu| (Word::Cpu, cpu)).into_iter().collect();
            let decision = self.step(*seconds, &samples);
            let found = (decision.phase, decision.limit.map(|rate| rate.per_second()));
            assert_eq!(found, (*phase, *limit), "at {seconds}: {}", decision.explanation);
        }
    }
}
