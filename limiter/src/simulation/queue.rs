//! One pod behind its proxy: the buckets and the bound of the proxy, the queue and the workers of the pod.

use std::collections::VecDeque;

/// A token bucket as Envoy has it with Weir's classes: it holds `full` seconds of whatever the limit is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Seconds of limit that are in it.
    level: f64,
    filled_at: f64,
}

impl Bucket {
    /// Takes one request at `now`, if there is enough for it.
    fn take(&mut self, rate: f64, full: f64, now: f64) -> bool {
        self.level = (self.level + now - self.filled_at).min(full);
        self.filled_at = now;
        let enough = rate > 0.0 && self.level * rate >= 1.0;
        if enough {
            self.level -= 1.0 / rate;
        }
        enough
    }
}

/// What a proxy enforces; per pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Enforced {
    pub(super) limit: Option<f64>,
    /// Seconds of the limit that a bucket holds.
    pub(super) burst: f64,
    /// The same for a class below the first.
    pub(super) lower_burst: f64,
    /// By class, the nameless one last.
    pub(super) classes: Vec<f64>,
    /// Whether requests of the first class count in its bucket only, as with `adapt`, or in the rule's only.
    pub(super) first_apart: bool,
    /// Most requests in flight: of the lower classes, and of the first.
    pub(super) bounds: [Option<u32>; 2],
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    Waiting,
    InService,
    /// The client gave up before the pod began.
    Abandoned,
    /// The client gave up while the pod worked on it.
    AbandonedInService,
    Done,
}

#[derive(Debug)]
pub(super) struct Pod {
    total: Bucket,
    by_class: Vec<Bucket>,
    /// Requests in flight as the proxy sees them: those of the first class count apart, as Envoy's high
    /// priority does.
    inflight: [u32; 2],
    pub(super) queue: VecDeque<usize>,
    pub(super) busy: u32,
}

impl Pod {
    pub(super) fn new(classes: usize) -> Self {
        let bucket = Bucket { level: f64::INFINITY, filled_at: 0.0 };
        Self { total: bucket, by_class: vec![bucket; classes], inflight: [0, 0], queue: VecDeque::new(), busy: 0 }
    }

    /// Whether the proxy lets a request of a class through; `high`: it is the first of several.
    pub(super) fn admits(&mut self, enforced: &Enforced, class: usize, high: bool, now: f64) -> bool {
        if (!high || enforced.first_apart)
            && let (Some(rate), Some(bucket)) = (enforced.classes.get(class), self.by_class.get_mut(class))
            && !bucket.take(*rate, if high { enforced.burst } else { enforced.lower_burst }, now)
        {
            return false;
        }
        if (!high || !enforced.first_apart)
            && let Some(rate) = enforced.limit
            && !self.total.take(rate, enforced.burst, now)
        {
            return false;
        }
        let inflight = &mut self.inflight[usize::from(high)];
        let room = enforced.bounds[usize::from(high)].is_none_or(|bound| *inflight < bound);
        *inflight += u32::from(room);
        room
    }

    pub(super) fn ended(&mut self, high: bool) {
        self.inflight[usize::from(high)] -= 1;
    }

    pub(super) fn inflight(&self) -> u32 {
        self.inflight.iter().sum()
    }
}
