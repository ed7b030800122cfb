//! Keeps a Prometheus that cannot be reached from being asked by everyone at once: after a failure one question at a time goes
//! out, at growing intervals, and all others wait for it. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::backoff::backoff;

/// Longest pause between two attempts.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: Option<Closed>,
}

#[derive(Debug)]
struct Closed {
    /// Attempts that failed one after the other.
    failures: u32,
    /// When the next attempt may go out; for one that is out, when it is given up.
    until: Instant,
    attempting: bool,
    /// Why it is closed.
    why: String,
}

impl Gate {
    /// Lets a question pass, or says until when to wait and why. An attempt that passes a closed gate must come back within
    /// `deadline`.
    pub(super) fn pass(&mut self, now: Instant, deadline: Duration) -> Result<(), (Instant, String)> {
        match &mut self.closed {
            None => Ok(()),
            Some(closed) if now < closed.until => Err((closed.until, closed.why.clone())),
            Some(closed) => {
                closed.until = now + deadline;
                closed.attempting = true;
                Ok(())
            }
        }
    }

    /// A question found no server. `pause` is the first pause; `spread` (0 to 1) keeps replicas apart. Says whether that turned.
    pub(super) fn failed(&mut self, now: Instant, pause: Duration, spread: f64, why: String) -> bool {
        let turned = self.closed.is_none();
        let closed =
            self.closed.get_or_insert(Closed { failures: 0, until: now, attempting: true, why: String::new() });
        closed.why = why;
        // What was under way when the gate closed says nothing new.
        if closed.attempting {
            closed.attempting = false;
            closed.until = now + backoff(pause, closed.failures, MAX_PAUSE, spread);
            closed.failures = closed.failures.saturating_add(1);
        }
        turned
    }

    /// A question was answered. Says whether that turned.
    pub(super) fn reached(&mut self) -> bool {
        self.closed.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);
    const DEADLINE: Duration = Duration::from_secs(2);

    fn fail(gate: &mut Gate, now: Instant) -> bool {
        gate.failed(now, PAUSE, 0.0, "cannot connect".to_owned())
    }

    #[test]
    fn one_attempt_at_a_time_passes_a_closed_gate() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        assert!(gate.pass(start, DEADLINE).is_ok() && gate.pass(start, DEADLINE).is_ok());
        assert!(fail(&mut gate, start), "it turned");
        assert!(!fail(&mut gate, start), "what was under way is not counted");
        let (until, why) = gate.pass(start, DEADLINE).expect_err("it is closed");
        assert_eq!((until, why.as_str()), (start + PAUSE, "cannot connect"));
        assert!(gate.pass(until, DEADLINE).is_ok());
        assert_eq!(gate.pass(until, DEADLINE).expect_err("one is out").0, until + DEADLINE);
        assert!(gate.reached(), "it turned");
        assert!(!gate.reached());
        assert!(gate.pass(until, DEADLINE).is_ok() && gate.pass(until, DEADLINE).is_ok());
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let (mut gate, mut now) = (Gate::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..20 {
            fail(&mut gate, now);
            let (until, _) = gate.pass(now, DEADLINE).expect_err("it is closed");
            pauses.push((until - now).as_millis());
            now = until;
            assert!(gate.pass(now, DEADLINE).is_ok());
        }
        assert_eq!(pauses[..5], [500, 1000, 2000, 4000, 5000]);
        assert_eq!(pauses[19], 5000);
    }
}
