//! The one internal policy that every front end becomes.
//!
//! Each kind of object has one file here that turns it into a [`Policy`] and the [`Problem`](crate::problem::Problem)s found on the way.
//! The command line, admission and the index all call that same function.

pub mod article;
mod conflicts;
pub(crate) mod problems;
pub mod tenants;
pub mod weir;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

pub use conflicts::{Conflict, conflicts};
use jiff::Timestamp;
pub use problems::is_dns_label;
use problems::{Problems, is_dns_name, key, label};
use serde::{Deserialize, Serialize};

use crate::{
    adapt,
    language::ast::{Adapt, Condition, Expression},
    metric::{Metric, Reduce, Word},
    quota::Rate,
};

/// Kinds of objects that become a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `SmartLimiter` of `weir.dev/v1alpha1`.
    SmartLimiter,
    /// `SmartLimiter` of `microservice.netease.com/v1alpha1`, the founding article's form.
    ArticleSmartLimiter,
}

/// Identity of the object that a policy came from. Displays as `smartlimiters.weir.dev/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = match self.kind {
            Kind::SmartLimiter => "smartlimiters.weir.dev",
            Kind::ArticleSmartLimiter => "smartlimiters.microservice.netease.com",
        };
        write!(f, "{resource}/{}/{}", self.namespace, self.name)
    }
}

/// A validated policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// The object it came from.
    pub key: PolicyKey,
    /// `metadata.generation` of the object (0 when the source has none).
    pub generation: i64,
    /// `metadata.creationTimestamp`; decides conflicts.
    pub created: Option<Timestamp>,
    /// What it applies to, in the object's namespace.
    pub targets: Targets,
    /// Whose proxies enforce it.
    pub enforce_at: EnforceAt,
    /// Its rules, in the object's order; names are unique.
    pub rules: Vec<Rule>,
    /// Words that the object defines for its own sentences, by name.
    pub metrics: BTreeMap<String, MetricDefinition>,
    /// What to do when a rule's metric is missing.
    pub on_missing: OnMissing,
}

impl Policy {
    /// Every metric that its rules and its limit for missing metrics read.
    #[must_use]
    pub fn metrics(&self) -> BTreeSet<Metric> {
        self.with_floor(self.rules.iter().flat_map(Rule::metrics).collect())
    }

    /// The metrics that its sentences name.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<Metric> {
        self.with_floor(self.rules.iter().flat_map(Rule::needs).collect())
    }

    fn with_floor(&self, mut metrics: BTreeSet<Metric>) -> BTreeSet<Metric> {
        if let MissingAction::Floor(limit) = &self.on_missing.action {
            limit.amount.collect_metrics(&mut metrics);
        }
        metrics
    }
}

impl Rule {
    /// Every metric that the rule reads: those it [`needs`](Self::needs), and those without which it only does less well.
    #[must_use]
    pub fn metrics(&self) -> BTreeSet<Metric> {
        let mut metrics = self.needs();
        if let Action::Adapt(_) = &self.action {
            metrics.extend(adapt::supporting_metrics());
        }
        metrics.extend(self.classes.iter().map(|class| self.demand(class)));
        if self.mode == Mode::Shadow {
            metrics.extend(self.excess().into_iter().chain([Self::offered()]));
        }
        metrics
    }

    /// What is offered to all pods.
    pub(crate) fn offered() -> Metric {
        Metric { word: Word::Requests, reduce: Reduce::Sum }
    }

    /// What a rule in shadow mode would refuse, as the proxies count it: by its own limit, then by each of its classes'.
    /// Empty for a rule that is enforced.
    pub(crate) fn excess(&self) -> Vec<Metric> {
        if self.mode != Mode::Shadow {
            return Vec::new();
        }
        let nameless = (!self.classes.is_empty()).then_some(NAMELESS);
        let classes = self.classes.iter().map(|class| class.name.as_str()).chain(nameless);
        let classes = classes.map(|class| format!("{}/{class}", self.name));
        let metric = |name| Metric { word: Word::Excess(name), reduce: Reduce::Sum };
        [self.name.clone()].into_iter().chain(classes).map(metric).collect()
    }

    /// What is offered in `class`, which is one of the rule's.
    pub(crate) fn demand(&self, class: &Class) -> Metric {
        Metric { word: Word::Demand(format!("{}/{}", self.name, class.name)), reduce: Reduce::Sum }
    }

    /// The metrics that the rule's sentences name: the condition's, the release's, the amount's and the goals'.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<Metric> {
        let mut metrics = BTreeSet::new();
        if let Some(when) = &self.when {
            when.condition.collect_metrics(&mut metrics);
            when.until.collect_metrics(&mut metrics);
        }
        match &self.action {
            Action::Limit(limit) => limit.amount.collect_metrics(&mut metrics),
            Action::Adapt(adapt) => metrics.extend(adapt.goals.iter().map(|goal| goal.metric.clone())),
        }
        metrics
    }
}

/// Whose proxies enforce a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EnforceAt {
    /// The target's own.
    #[default]
    Server,
    /// Those of its callers, on the way out: of the policy's namespace, or of all, as [`tenants`] says.
    Client,
    /// Those of the gateways whose routes lead to it.
    Gateway,
}

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Targets {
    /// Services by name.
    Services(Vec<String>),
    /// Services by their labels (all must match).
    Selector(BTreeMap<String, String>),
}

/// One rule: when it holds, and what it then does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Name, unique in the policy.
    pub name: String,
    /// Whether the limit is enforced or only reported.
    pub mode: Mode,
    /// When the rule holds. Absent: always.
    pub when: Option<When>,
    /// What it does.
    pub action: Action,
    /// Which requests it concerns; any of them. Empty: all.
    pub matches: Vec<RequestMatch>,
    /// Requests that may pass at once. With a limit across all pods this is the total that is divided too.
    /// Absent: the default of [`default_burst`] for each proxy's share.
    pub burst: Option<u32>,
    /// Priority classes, the one that is shed last first. A request belongs to the first class that fits it; what fits none
    /// belongs to a last, nameless class. Empty: all requests are equal.
    pub classes: Vec<Class>,
}

/// How the last class of a rule is called, which has no name: what fits no other.
pub const NAMELESS: &str = "*";

/// Requests of one priority.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    /// Name, unique in the rule.
    pub name: String,
    /// Which requests; any of them. Never empty.
    pub matches: Vec<RequestMatch>,
}

/// How a limit that steers itself moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LawKind {
    /// Cuts to what the application was measured to complete, in proportion to how far the worst goal is missed.
    #[default]
    CompletionRate,
    /// Additive increase, multiplicative decrease of the limit itself.
    Aimd,
}

/// Enforced or only reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Mode {
    /// Requests over the limit are answered 429.
    Enforce,
    /// Decide, count and report; never reject.
    Shadow,
}

/// The condition of a rule with its release.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct When {
    /// Begins to hold when this is true.
    pub condition: Condition,
    /// Ends when this is true; derived from `condition` when the sentence has no `until`.
    pub until: Condition,
    /// Whether `until` was written by the author.
    pub explicit_until: bool,
    /// The sentence as written.
    pub text: String,
}

/// What a rule does while it holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Action {
    /// A rate limit.
    Limit(Limit),
    /// A limit that steers itself towards a goal.
    Adapt(Adapt),
}

/// A rate limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// Requests per `interval`: a number, or an expression over metrics (the article's quota).
    pub amount: Expression,
    /// Unit of time.
    pub interval: Duration,
    /// Whose requests share the number.
    pub scope: Scope,
    /// Separate counter for each value of this.
    pub per: Option<Key>,
    /// The sentence as written.
    pub text: String,
}

impl Action {
    /// Whose requests share the number.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Limit(limit) => limit.scope,
            Self::Adapt(adapt) => adapt.scope,
        }
    }

    /// What separate counters are kept for.
    #[must_use]
    pub fn per(&self) -> Option<&Key> {
        match self {
            Self::Limit(limit) => limit.per.as_ref(),
            Self::Adapt(_) => None,
        }
    }

    /// `rate` with whom it is for: `30 requests per second across all pods`.
    #[must_use]
    pub fn describe(&self, rate: Rate) -> String {
        match self {
            Self::Limit(limit) => limit.describe(rate),
            Self::Adapt(adapt) => format!("{rate} {}", adapt.scope),
        }
    }
}

impl Limit {
    /// `rate` with whom it is for: `30 requests per second across all pods`.
    #[must_use]
    pub fn describe(&self, rate: Rate) -> String {
        let per = match &self.per {
            None => String::new(),
            Some(Key::ClientIp) => " per client ip".to_owned(),
            Some(Key::Header(name)) => format!(" per header {name}"),
        };
        let scope = match (self.scope, &self.per) {
            (Scope::AcrossAllPods, _) => " across all pods",
            (Scope::PerPod, None) => " per pod",
            (Scope::PerPod, Some(_)) => " at each pod",
        };
        format!("{rate}{per}{scope}")
    }
}

/// Whose requests share a limit's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// Every pod has the whole number.
    PerPod,
    /// All ready pods together have the number; Weir divides it.
    AcrossAllPods,
}

/// What separate counters are kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Key {
    /// The address of the client, as the proxy sees it.
    ClientIp,
    /// The value of this request header (lower case); requests without it are not limited.
    Header(String),
}

/// Gateway API's `HTTPRouteMatch`: all that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RequestMatch {
    /// The path, without query.
    pub path: Option<PathMatch>,
    /// The method, upper case.
    pub method: Option<String>,
    /// Header name (lower case) to value.
    pub headers: BTreeMap<String, ValueMatch>,
    /// Query parameter to value.
    pub query_params: BTreeMap<String, ValueMatch>,
}

/// Gateway API's `HTTPPathMatch`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Path elements from the start: `/a` matches `/a` and `/a/b`, not `/ab`. No trailing slash, except `/` itself.
    Prefix(String),
    /// RE2 over the whole path.
    Regex(String),
}

/// How a header or query parameter is matched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ValueMatch {
    /// The whole value.
    Exact(String),
    /// RE2 over the whole value.
    Regex(String),
}

/// A word that an object defines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MetricDefinition {
    /// What its numbers mean.
    pub dimension: crate::language::ast::Dimension,
    /// How pods are combined.
    pub reduce: Reduce,
    /// Where it comes from.
    pub source: MetricSource,
}

/// Where an object's own metric comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum MetricSource {
    /// A series of the targets' own metrics page; with `rate`, its increase per second (for counters).
    Scrape {
        /// Series name; samples of the same name and pod are added up.
        series: String,
        /// Labels that a sample must have.
        labels: BTreeMap<String, String>,
        /// Take the increase per second.
        rate: bool,
    },
    /// A PromQL query.
    Prometheus {
        /// The query with its variables, which [`crate::promql::Template`] reads.
        query: String,
        /// Where it stands in the object's list, from 0, for messages.
        position: usize,
    },
}

/// What to do with a rule whose metric has been missing for `after`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnMissing {
    /// What then.
    pub action: MissingAction,
    /// How long it must be missing.
    pub after: Duration,
}

/// See [`OnMissing`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum MissingAction {
    /// Keep what was last decided.
    Hold,
    /// Apply this limit.
    Floor(Limit),
    /// Let go, with the usual ramp.
    Release,
}

/// The default burst in requests for a proxy's share: the larger of 5 requests and 0.1 s of the limit from one request a
/// minute up, 1 below that (source: measured admission of Poisson traffic, docs/reference/limits.md).
#[must_use]
pub fn default_burst(share: Rate) -> u32 {
    let per_second = share.per_second();
    if per_second < 1.0 / 60.0 {
        return 1;
    }
    (per_second * 0.1).ceil().clamp(5.0, f64::from(u32::MAX)) as u32
}
