//! Protocol state of one type on one stream: what the proxy asked for, what it was told, what it refused. No I/O, no clock.
//!
//! The difference between this and the table's view is what is sent next ([`Subscription::changes`], then
//! [`Subscription::removals`]); nothing is queued, so a proxy that lags gets the latest state and none of the ones between.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::xds::{ResourceType, table::Names, wire::DeltaDiscoveryRequest};

/// Names that a proxy may ask for, by type and stream: one that has everything asks for the endpoints of each cluster, so this bounds the
/// mesh that it may have, and what it can make us remember.
pub const MAX_NAMES: usize = 50_000;
/// Bytes of all those names together.
pub const MAX_NAME_BYTES: usize = 8 << 20;
/// Responses without an answer that are remembered. Envoy answers all in order; of a peer that does not, the oldest are
/// forgotten.
const MAX_IN_FLIGHT: usize = 64;

/// Name and version of a resource; no version: removed.
pub type Held = (Arc<str>, Option<Arc<str>>);

/// Name and version of a resource.
pub type Versioned = (Arc<str>, Arc<str>);

/// A request that breaks a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stream may subscribe to at most {MAX_NAMES} names ({MAX_NAME_BYTES} bytes) of type {}; unsubscribe some first",
    .0.type_url()
)]
pub struct TooManyNames(pub ResourceType);

/// What a request said about earlier responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the proxy is now known to hold.
    pub holds: Vec<Held>,
    /// A response was acknowledged as a whole.
    pub acknowledged: bool,
    /// A response was refused: names and versions concerned.
    pub refused: Option<Vec<Versioned>>,
}

/// See the module.
#[derive(Debug)]
pub struct Subscription {
    resource_type: ResourceType,
    /// A request has come.
    started: bool,
    /// Everything visible is subscribed.
    wildcard: bool,
    /// The subscription to everything waits for an answer, if only an empty one: Envoy holds its start until then.
    answer: bool,
    /// Boxed: a stream has few names, and the map makes room for eleven at once.
    names: BTreeMap<Arc<str>, Box<Name>>,
    /// Bytes of the keys of `names`.
    name_bytes: usize,
    /// Names to send once more although their version did not change; kept for names that are not subscribed yet.
    forced: BTreeSet<Arc<str>>,
    in_flight: VecDeque<(u64, Vec<Held>)>,
}

#[derive(Debug, Default)]
struct Name {
    /// Asked for by name.
    subscribed: bool,
    /// (Re-)subscribed: is answered even if nothing changed.
    answer: bool,
    told: Told,
    /// Version that the proxy refused; not sent again.
    refused: Option<Arc<str>>,
}

/// What the proxy was told last about a name.
#[derive(Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Version(Arc<str>),
    /// It refused what it was told; what it has instead is not known for certain.
    Uncertain,
    Absent,
}

impl Subscription {
    /// State of a stream on which this type was not asked for yet.
    #[must_use]
    pub fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            started: false,
            wildcard: false,
            answer: false,
            names: BTreeMap::new(),
            name_bytes: 0,
            forced: BTreeSet::new(),
            in_flight: VecDeque::new(),
        }
    }

    /// Takes a request of this type.
    ///
    /// # Errors
    ///
    /// The request would make us remember too much; the stream should end.
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Outcome, TooManyNames> {
        let mut outcome = Outcome::default();
        if !request.response_nonce.is_empty() {
            self.answered(request, &mut outcome);
        }
        if !self.started {
            self.started = true;
            for (name, version) in &request.initial_resource_versions {
                let name = self.remember(name)?;
                let version: Arc<str> = version.as_str().into();
                outcome.holds.push((name.clone(), Some(version.clone())));
                self.names.entry(name).or_default().told = Told::Version(version);
            }
            if self.resource_type.has_wildcard() && request.resource_names_subscribe.is_empty() {
                self.subscribe_all(request);
            }
        }
        for name in &request.resource_names_subscribe {
            if name == "*" {
                self.subscribe_all(request);
                continue;
            }
            let key = self.remember(name)?;
            let state = self.names.entry(key).or_default();
            state.subscribed = true;
            // A name with an initial version is a reconnect: only a difference is sent.
            state.answer |= !request.initial_resource_versions.contains_key(name);
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
                self.answer = false;
                continue;
            }
            if let Some(state) = self.names.get_mut(name.as_str()) {
                state.subscribed = false;
                // The proxy cannot know whether "everything" still holds the name: the protocol wants an answer.
                state.answer = self.wildcard;
            }
        }
        if !self.wildcard {
            self.forget_where(|state| !state.subscribed);
        }
        Ok(outcome)
    }

    /// Names to send now: subscribed, visible, and not what the proxy was told last; never a version that it refused.
    #[must_use]
    pub fn changes(&self, view: &Names) -> Vec<Arc<str>> {
        if !self.started {
            return Vec::new();
        }
        let due = |name: &Arc<str>, version: &Arc<str>| match self.names.get(name) {
            None => self.wildcard,
            Some(state) if !self.wildcard && !state.subscribed => false,
            Some(state) if state.refused.as_ref() == Some(version) => false,
            Some(state) => {
                let told = matches!(&state.told, Told::Version(told) if told == version);
                !told || state.answer || self.forced.contains(name)
            }
        };
        if self.wildcard {
            view.iter().filter(|(name, entry)| due(name, &entry.version)).map(|(name, _)| name.clone()).collect()
        } else {
            let known = self.names.keys().filter_map(|name| view.get_key_value(name));
            known.filter(|(name, entry)| due(name, &entry.version)).map(|(name, _)| name.clone()).collect()
        }
    }

    /// Names to report as gone now: not visible, and the proxy has them or asked for them.
    #[must_use]
    pub fn removals(&self, view: &Names) -> Vec<Arc<str>> {
        let has = |state: &Name| matches!(state.told, Told::Version(_) | Told::Uncertain);
        let gone = self.names.iter().filter(|(name, state)| !view.contains_key(*name) && (state.answer || has(state)));
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// Whether `name` was asked for and nothing was told yet, so that its absence is news rather than a removal.
    #[must_use]
    pub fn is_waiting_for(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|state| state.answer || state.told == Told::Nothing)
    }

    /// Whether the proxy has some version of `name` and waits for nothing.
    #[must_use]
    pub fn is_settled(&self, name: &str) -> bool {
        let state = self.names.get(name).filter(|state| !state.answer && !self.forced.contains(name));
        state.is_some_and(|state| matches!(state.told, Told::Version(_)))
    }

    /// Whether `name` was asked for by name.
    #[must_use]
    pub fn is_subscribed(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|state| state.subscribed)
    }

    /// Names that were asked for by name.
    pub fn subscribed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().filter(|(_, state)| state.subscribed).map(|(name, _)| name)
    }

    /// Whether a request has come.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Whether everything visible is subscribed.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether the proxy was told this version of `name` last, or has refused it.
    #[must_use]
    pub fn has_been_told(&self, name: &str, version: &str) -> bool {
        self.names.get(name).is_some_and(|state| {
            let told = matches!(&state.told, Told::Version(told) if **told == *version);
            told || state.refused.as_deref() == Some(version)
        })
    }

    /// Whether the proxy has answered for what it was told of `name`: it has taken it, or refused it, which it will not be sent again.
    #[must_use]
    pub fn is_answered(&self, name: &str, version: &str) -> bool {
        self.has_been_told(name, version)
            && !self.in_flight.iter().flat_map(|(_, names)| names).any(|(of, _)| **of == *name)
    }

    /// What the newest response said.
    #[must_use]
    pub fn last_sent(&self) -> &[Held] {
        self.in_flight.back().map_or(&[], |(_, resources)| resources)
    }

    /// Whether "everything" still waits for its first answer.
    #[must_use]
    pub fn wants_any_answer(&self) -> bool {
        self.answer
    }

    /// Sends `name` once more although its version did not change, at once or when it is subscribed.
    pub fn force(&mut self, name: &Arc<str>) {
        if self.forced.len() < MAX_NAMES {
            self.forced.insert(name.clone());
        }
    }

    /// A response is on its way; remembers what it says until it is answered.
    pub fn sent(&mut self, nonce: u64, resources: Vec<Held>) {
        self.answer = false;
        for (name, version) in &resources {
            self.forced.remove(name);
            let told = version.clone().map_or(Told::Absent, Told::Version);
            if told == Told::Absent && !self.names.get(name).is_some_and(|state| state.subscribed) {
                self.forget(name);
                continue;
            }
            if !self.names.contains_key(name) {
                self.name_bytes += name.len();
            }
            let state = self.names.entry(name.clone()).or_default();
            state.answer = false;
            state.told = told;
        }
        self.in_flight.push_back((nonce, resources));
        if self.in_flight.len() > MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
    }

    /// Drops what was told about `name` without telling the proxy, which will unsubscribe by itself.
    pub fn retire(&mut self, name: &Arc<str>) {
        self.forced.remove(name);
        if let Some(state) = self.names.get_mut(name) {
            state.told = Told::Absent;
            state.answer = false;
        }
    }

    fn answered(&mut self, request: &DeltaDiscoveryRequest, outcome: &mut Outcome) {
        let nonce = request.response_nonce.parse::<u64>().ok();
        let Some(position) = self.in_flight.iter().position(|(sent, _)| Some(*sent) == nonce) else {
            return; // not ours, or forgotten: says nothing
        };
        let Some((_, resources)) = self.in_flight.remove(position) else { return };
        let (accepted, refused) = match &request.error_detail {
            None => (resources, Vec::new()),
            Some(error) => self.split(resources, &error.message),
        };
        for (name, version) in accepted {
            if let Some(state) = self.names.get_mut(&name)
                && state.refused != version
            {
                state.refused = None;
            }
            outcome.holds.push((name, version));
        }
        if request.error_detail.is_none() {
            outcome.acknowledged = true;
            return;
        }
        for (name, version) in &refused {
            let Some(state) = self.names.get_mut(name) else { continue };
            if matches!(&state.told, Told::Version(told) if told == version) {
                state.told = Told::Uncertain;
            }
            state.refused = Some(version.clone());
        }
        outcome.refused = Some(refused);
    }

    /// Which resources of a refused response were refused. Envoy applies the good clusters and listeners of a response and
    /// names the bad ones; when it names none, or for other types, all count as refused.
    fn split(&self, resources: Vec<Held>, message: &str) -> (Vec<Held>, Vec<Versioned>) {
        let partial = self.resource_type.has_wildcard() && resources.iter().any(|(name, _)| mentions(message, name));
        let mut accepted = Vec::new();
        let mut refused = Vec::new();
        for (name, version) in resources {
            match version {
                Some(version) if !partial || mentions(message, &name) => refused.push((name, version)),
                version => accepted.push((name, version)),
            }
        }
        (accepted, refused)
    }

    fn subscribe_all(&mut self, request: &DeltaDiscoveryRequest) {
        self.wildcard = true;
        // On a reconnect with something in hand, silence means "nothing new".
        self.answer |= request.initial_resource_versions.is_empty();
    }

    fn remember(&mut self, name: &str) -> Result<Arc<str>, TooManyNames> {
        if let Some((known, _)) = self.names.get_key_value(name) {
            return Ok(known.clone());
        }
        self.name_bytes += name.len();
        if self.names.len() >= MAX_NAMES || self.name_bytes > MAX_NAME_BYTES {
            return Err(TooManyNames(self.resource_type));
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone(), Box::default());
        Ok(name)
    }

    fn forget(&mut self, name: &Arc<str>) {
        if self.names.remove(name).is_some() {
            self.name_bytes -= name.len();
        }
    }

    fn forget_where(&mut self, unneeded: impl Fn(&Name) -> bool) {
        let bytes = &mut self.name_bytes;
        self.names.retain(|name, state| {
            let keep = !unneeded(state);
            if !keep {
                *bytes -= name.len();
            }
            keep
        });
    }
}

/// Whether `message` holds `name` as a whole word: `in/a/b/c/80` is not in `in/a/b/c/8080`.
fn mentions(message: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    !name.is_empty()
        && message.match_indices(name).any(|(at, _)| {
            !message[..at].ends_with(part_of_name) && !message[at + name.len()..].starts_with(part_of_name)
        })
}

#[cfg(test)]
mod tests;
