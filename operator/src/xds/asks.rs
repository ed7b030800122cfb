//! What proxies ask for that is not there yet: hosts that their applications call, by the names of virtual hosts.
//!
//! A stream puts an [`Ask`] to the builder and is told under which name the answer is among what it sees. Pure but for the channel.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    intent::Called,
    xds::{NodeKey, ResourceType, names},
};

/// Hosts that one proxy may ask for at once, and how many more in each second. An application that calls everything there is waits;
/// its neighbours do not.
const AT_ONCE: f64 = 500.0;
const PER_SECOND: f64 = 200.0;
/// Hosts that wait for their turn; of a proxy with more no request is read until there are fewer.
pub const MOST_WAITING: usize = 2_000;

/// A question to the builder. It answers each question once, after what it says has been published.
#[derive(Debug)]
pub struct Ask {
    /// Who asks.
    pub node: NodeKey,
    /// What.
    pub wish: Wish,
    /// Where the answer goes.
    pub reply_tx: mpsc::UnboundedSender<Answer>,
}

/// What a proxy wants, or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The host of this name, which is one of a virtual host; as [`names::asked`] reads it.
    Host(Arc<str>),
    /// Where connections go that are not HTTP and for this.
    Stream(Called),
    /// It has this from another stream, and keeps it if it may.
    Has(Vec<Called>, Option<u32>),
    /// It has just started, and has nothing.
    Nothing,
}

/// What the builder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was asked for is seen under the name `host`.
    Host {
        /// What was asked for.
        asked: Arc<str>,
        /// Name of the virtual host.
        host: Arc<str>,
    },
    /// What the proxy has was looked at.
    Looked,
}

/// What one stream has asked for and was not told yet.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Not put to the builder yet.
    waiting: VecDeque<Wish>,
    /// By the name asked for.
    open: BTreeMap<Arc<str>, Open>,
    /// Since when what was sent had been asked for, and whether it is nothing.
    sent: Vec<(Instant, bool)>,
    /// What the proxy has is being looked at; nothing is sent meanwhile, since it might be taken away.
    looking: usize,
}

/// A name that was asked for.
#[derive(Debug, Default)]
struct Open {
    /// Where the answer is, once the builder has said it.
    host: Option<Arc<str>>,
    /// It was asked for on another stream and may have been answered there: the proxy needs to hear only what it has not.
    again: bool,
    /// When it was put to the builder.
    put: Option<Instant>,
}

impl Wishes {
    /// The proxy asks for a name, as it has done on another stream if it asks `again`.
    pub fn ask(&mut self, name: &str, again: bool) {
        if !self.open.contains_key(name) {
            let name: Arc<str> = name.into();
            self.open.insert(name.clone(), Open { host: None, again, put: None });
            self.waiting.push_back(Wish::Host(name));
        }
    }

    /// The proxy asks for a cluster by its name, where connections go. It waits for that; nothing else answers it.
    pub fn ask_stream(&mut self, called: Called) {
        let wish = Wish::Stream(called);
        if !self.waiting.contains(&wish) {
            self.waiting.push_back(wish);
        }
    }

    /// The proxy has this, and we do not know why.
    pub fn has(&mut self, called: Vec<Called>, round: Option<u32>) {
        self.looking += 1;
        self.waiting.push_front(Wish::Has(called, round));
    }

    /// The proxy has just started.
    pub fn starts(&mut self) {
        self.looking += 1;
        self.waiting.push_front(Wish::Nothing);
    }

    /// The next question that may be put now.
    pub fn next(&mut self, pace: &mut Pace, now: Instant) -> Option<Wish> {
        match self.waiting.front()? {
            Wish::Has(..) | Wish::Nothing => {}
            Wish::Host(_) | Wish::Stream(_) if pace.take(now) => {}
            Wish::Host(_) | Wish::Stream(_) => return None,
        }
        let next = self.waiting.pop_front()?;
        if let Wish::Host(name) = &next
            && let Some(open) = self.open.get_mut(name)
        {
            open.put.get_or_insert(now);
        }
        Some(next)
    }

    /// Since when requests were held for what has been sent since this was last asked, and whether it was a host that is nothing.
    pub fn take_sent(&mut self) -> Vec<(Instant, bool)> {
        std::mem::take(&mut self.sent)
    }

    /// Whether questions wait for their turn.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no more should be asked for now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MOST_WAITING
    }

    /// Whether something that the proxy has is being looked at.
    #[must_use]
    pub fn is_looking(&self) -> bool {
        self.looking > 0
    }

    /// The builder has answered.
    pub fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Looked => self.looking = self.looking.saturating_sub(1),
            Answer::Host { asked, host } => {
                if let Some(open) = self.open.get_mut(&asked) {
                    open.host = Some(host);
                }
            }
        }
    }

    /// Virtual hosts that answer something, but for what was asked `again` and is answered by one that `is_there` at the proxy already.
    pub fn answers(&mut self, is_there: impl Fn(&str) -> bool) -> impl Iterator<Item = &Arc<str>> {
        self.open.retain(|_, open| !open.again || !open.host.as_deref().is_some_and(&is_there));
        self.open.values().filter_map(|open| open.host.as_ref())
    }

    /// Takes out the names that `host`, which is sent now, answers.
    pub fn take_answered_by(&mut self, host: &str) -> Vec<Arc<str>> {
        let answered = self.open.iter().filter(|(_, open)| open.host.as_deref() == Some(host));
        let answered: Vec<Arc<str>> = answered.map(|(name, _)| name.clone()).collect();
        let opens = answered.iter().filter_map(|name| self.open.remove(name));
        self.sent.extend(opens.filter_map(|open| Some((open.put?, names::is_unknown(host)))));
        answered
    }

    /// Puts to the builder again what was answered by a host that is gone before it was sent.
    pub fn ask_again_unless(&mut self, is_there: impl Fn(&str) -> bool) {
        for (name, open) in &mut self.open {
            if open.host.as_deref().is_some_and(|host| !is_there(host)) {
                open.host = None;
                self.waiting.push_back(Wish::Host(name.clone()));
            }
        }
    }
}

/// How many questions one proxy may put.
#[derive(Debug)]
pub struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    /// Begins with as many as may be put at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { left: AT_ONCE, at: now }
    }

    /// Whether another may be put.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = passed.mul_add(PER_SECOND, self.left).min(AT_ONCE);
        self.at = self.at.max(now);
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }

    /// How long it takes until another may be put.
    #[must_use]
    pub fn wait(&self) -> Duration {
        Duration::from_secs_f64((1.0 - self.left).max(0.0) / PER_SECOND)
    }
}

/// What a proxy says that it has on its way out, of the names of one type: those that nothing is known of as far as `is_known` says.
#[must_use]
pub fn unknown<'a>(
    node: &NodeKey,
    resource_type: ResourceType,
    held: impl Iterator<Item = &'a str>,
    is_known: impl Fn(&str) -> bool,
) -> Vec<Called> {
    held.filter(|name| !is_known(name)).filter_map(|name| names::called(node, resource_type, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_once_by_the_host_that_is_sent() {
        let mut asks = Wishes::default();
        let now = Instant::now();
        let mut pace = Pace::new(now);
        asks.ask("rc/cart", false);
        asks.ask("rc/cart", false);
        asks.ask("rc/cart:80", false);
        assert_eq!(asks.next(&mut pace, now), Some(Wish::Host("rc/cart".into())));
        assert_eq!(asks.next(&mut pace, now), Some(Wish::Host("rc/cart:80".into())));
        assert_eq!(asks.next(&mut pace, now), None);
        for name in ["rc/cart", "rc/cart:80"] {
            asks.answered(Answer::Host { asked: name.into(), host: "rc/shop/cart/80".into() });
        }
        assert_eq!(asks.take_answered_by("rc/shop/cart/8080"), Vec::<Arc<str>>::new());
        assert_eq!(asks.take_answered_by("rc/shop/cart/80"), ["rc/cart".into(), "rc/cart:80".into()]);
        assert_eq!(asks.take_answered_by("rc/shop/cart/80"), Vec::<Arc<str>>::new());
    }

    #[test]
    fn an_answer_that_is_gone_is_asked_for_again() {
        let mut asks = Wishes::default();
        let now = Instant::now();
        let mut pace = Pace::new(now);
        asks.ask("rc/cart", false);
        assert!(asks.next(&mut pace, now).is_some());
        asks.answered(Answer::Host { asked: "rc/cart".into(), host: "rc/a".into() });
        asks.ask_again_unless(|host| host == "rc/a");
        assert!(!asks.is_waiting());
        asks.ask_again_unless(|_| false);
        assert_eq!(asks.next(&mut pace, now), Some(Wish::Host("rc/cart".into())));
    }

    #[test]
    fn a_flood_waits_and_what_a_proxy_has_does_not() {
        let mut asks = Wishes::default();
        let now = Instant::now();
        let mut pace = Pace::new(now);
        (0..MOST_WAITING).for_each(|number| asks.ask(&format!("rc/{number}"), false));
        assert!(asks.is_full());
        let put = std::iter::from_fn(|| asks.next(&mut pace, now)).count();
        assert_eq!(put, 500);
        asks.has(Vec::new(), None);
        assert_eq!(asks.next(&mut pace, now), Some(Wish::Has(Vec::new(), None)));
        assert_eq!(asks.next(&mut pace, now), None);
        let later = now + Duration::from_millis(50);
        assert_eq!(std::iter::from_fn(|| asks.next(&mut pace, later)).count(), 10);
        assert!(pace.wait() <= Duration::from_millis(5));
    }
}
