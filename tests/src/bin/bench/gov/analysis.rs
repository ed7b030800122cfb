//! Numbers out of what became of each request. Requests count at the moment at which they were due.

use std::{fmt::Write as _, ops::Range, time::Duration};

use http::StatusCode;
use operator::demo::load::{self, Exchange};

use super::{
    SLO,
    scenario::{Scenario, Timeline},
};

/// Windows in which convergence is looked for, and how far apart they begin.
const WINDOW: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);
/// This part of what is possible is enough, for so long.
const ENOUGH: f64 = 0.85;
const STEADY: Duration = Duration::from_secs(5);

/// What one arm reached in one scenario.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Good answers over what was possible, min(offered, capacity), in the surge without its first quarter.
    pub(crate) goodput: f64,
    /// Seconds from the start of the surge until goodput was, and stayed for five seconds, at 85 % of what was possible.
    pub(crate) converged: Option<f64>,
    /// 99th percentile of what was let through, in the same window as goodput; a request without an answer counts as one that
    /// took as long as its client waited.
    pub(crate) p99: Option<Duration>,
    /// Requests refused before the surge.
    pub(crate) refused_before: usize,
    /// Part of the requests after the surge that was refused.
    pub(crate) refused_after: f64,
    /// Seconds after the surge until goodput was at 85 % again, and stayed so.
    pub(crate) recovered: Option<f64>,
}

fn good(exchange: &Exchange) -> bool {
    matches!(exchange.outcome, load::Outcome::Answer(status) if status.is_success()) && exchange.latency <= SLO
}

/// 429 of a limit, or the 503 of an Envoy that sheds. The service itself answers neither.
fn refused(exchange: &Exchange) -> bool {
    matches!(exchange.outcome, load::Outcome::Answer(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE))
}

/// Those due in a stretch of time, out of a list that is in order.
fn due(exchanges: &[Exchange], stretch: Range<Duration>) -> &[Exchange] {
    let from = exchanges.partition_point(|exchange| exchange.due < stretch.start);
    let to = exchanges.partition_point(|exchange| exchange.due < stretch.end);
    &exchanges[from..to.max(from)]
}

fn count(exchanges: &[Exchange], what: impl Fn(&Exchange) -> bool) -> usize {
    exchanges.iter().filter(|exchange| what(exchange)).count()
}

/// The part of the requests in the surge, without its first quarter, that was answered well.
pub(crate) fn served(exchanges: &[Exchange], timeline: &Timeline) -> f64 {
    let here = due(exchanges, timeline.settled());
    count(here, good) as f64 / here.len().max(1) as f64
}

pub(crate) fn analyse(exchanges: &[Exchange], scenario: &Scenario, timeline: &Timeline, capacity: f64) -> Outcome {
    // Requests that could be answered well in a stretch of time: as many as were due, but no more than the capacity, at each
    // rate on its own, since what comes too early is of no use later.
    let possible = |stretch: &Range<Duration>| {
        let (mut sum, mut from) = (0.0, stretch.start);
        while from < stretch.end {
            let to = Scenario::part_end(from).min(stretch.end);
            let able = scenario.able(from, timeline, capacity) * (to - from).as_secs_f64();
            sum += able.min(due(exchanges, from..to).len() as f64);
            from = to;
        }
        sum
    };
    let goodput = |stretch: Range<Duration>| {
        let possible = possible(&stretch);
        count(due(exchanges, stretch), good) as f64 / possible.max(1.0)
    };
    // The first moment of `from..to` from which all windows up to `until` are good enough.
    let steady = |from: Duration, to: Duration, length: Duration| {
        let mut start = from;
        while start < to {
            let end = (start + length).min(to);
            let mut window = start;
            loop {
                let until = window + WINDOW;
                if until > end {
                    return Some((start - from).as_secs_f64());
                }
                if goodput(window..until) < ENOUGH {
                    break;
                }
                window += STEP;
            }
            // Whatever began before the bad window has it inside.
            start = window + STEP;
            if start + WINDOW > to {
                return None;
            }
        }
        None
    };
    let settled = timeline.settled();
    let mut times: Vec<Duration> = due(exchanges, settled.clone())
        .iter()
        .filter(|exchange| !refused(exchange))
        .map(|exchange| exchange.latency)
        .collect();
    times.sort_unstable();
    let after = due(exchanges, timeline.end()..timeline.whole());
    Outcome {
        goodput: goodput(settled),
        converged: steady(timeline.before, timeline.end(), STEADY),
        p99: times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied(),
        refused_before: count(due(exchanges, Duration::ZERO..timeline.before), refused),
        refused_after: count(after, refused) as f64 / after.len().max(1) as f64,
        recovered: steady(timeline.end(), timeline.whole(), timeline.after),
    }
}

/// What happened over time, in rates per second by stretches of 0.2 s.
pub(crate) fn csv(
    exchanges: &[Exchange],
    limits: &[(f64, Option<f64>, String)],
    scenario: &Scenario,
    timeline: &Timeline,
    capacity: f64,
) -> String {
    let stretch = STEP * 2;
    let mut text = String::from("seconds,capacity,offered,answered,good,refused,failed,p50_ms,p99_ms,limit,words\n");
    let mut start = Duration::ZERO;
    while start < timeline.whole() {
        let here = due(exchanges, start..start + stretch);
        let rate = |number: usize| number as f64 / stretch.as_secs_f64();
        let mut times: Vec<f64> =
            here.iter().filter(|one| !refused(one)).map(|one| one.latency.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let percentile = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(rank).map_or_else(String::new, |time| format!("{time:.1}"))
        };
        let answered = count(here, |one| matches!(one.outcome, load::Outcome::Answer(status) if status.is_success()));
        let refused = count(here, refused);
        let limit = limits.iter().take_while(|(at, ..)| *at <= (start + stretch).as_secs_f64()).last();
        let (limit, words) =
            limit.map(|(_, limit, words)| (*limit, words.replace(['"', '\n'], "'"))).unwrap_or_default();
        let _ = writeln!(
            text,
            "{:.1},{:.0},{:.0},{:.0},{:.0},{:.0},{:.0},{},{},{},\"{words}\"",
            start.as_secs_f64(),
            scenario.able(start, timeline, capacity),
            rate(here.len()),
            rate(answered),
            rate(count(here, good)),
            rate(refused),
            rate(here.len() - answered - refused),
            percentile(50),
            percentile(99),
            limit.map_or_else(String::new, |limit| format!("{limit:.1}")),
        );
        start += stretch;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use operator::demo::load::{self, Exchange};

    use super::analyse;
    use crate::gov::scenario::{SCENARIOS, Timeline};

    /// 800 requests a second in the surge, 280 beside it; `answer` says how each ends.
    fn run(answer: impl Fn(Duration, usize) -> (u16, u64)) -> super::Outcome {
        let timeline = Timeline::SHORT;
        let mut exchanges = Vec::new();
        let mut due = Duration::ZERO;
        while due < timeline.whole() {
            let surge = due >= timeline.before && due < timeline.end();
            let (status, millis) = answer(due, exchanges.len());
            let outcome = match status {
                0 => load::Outcome::Timeout,
                status => load::Outcome::Answer(StatusCode::from_u16(status).unwrap()),
            };
            exchanges.push(Exchange { due, latency: Duration::from_millis(millis), outcome });
            due += Duration::from_secs(1).div_f64(if surge { 800.0 } else { 280.0 });
        }
        analyse(&exchanges, &SCENARIOS[0], &timeline, 400.0)
    }

    fn in_surge(due: Duration) -> bool {
        due >= Timeline::SHORT.before && due < Timeline::SHORT.end()
    }

    #[test]
    fn a_perfect_protection_is_perfect() {
        let outcome = run(|due, number| if in_surge(due) && number % 2 == 0 { (429, 1) } else { (200, 30) });
        assert!((outcome.goodput - 1.0).abs() < 0.01, "{outcome:?}");
        assert_eq!((outcome.converged, outcome.recovered), (Some(0.0), Some(0.0)));
        assert_eq!((outcome.p99, outcome.refused_before), (Some(Duration::from_millis(30)), 0));
        assert!(outcome.refused_after.abs() < 1e-9);
    }

    #[test]
    fn none_at_all_is_worth_nothing() {
        let outcome = run(|due, _| if due >= Timeline::SHORT.before { (0, 500) } else { (200, 30) });
        assert_eq!((outcome.goodput, outcome.converged, outcome.recovered), (0.0, None, None));
        assert_eq!(outcome.p99, Some(Duration::from_millis(500)));
    }

    #[test]
    fn late_answers_refusals_and_errors_each_count_where_they_belong() {
        let late = run(|due, number| match in_surge(due) {
            // Only after 1.5 s is every second one refused; until then all are late.
            true if due < Timeline::SHORT.before + Duration::from_millis(1500) => (200, 101),
            true if number % 2 == 0 => (503, 1),
            _ => (200, 100),
        });
        assert!((late.goodput - 1.0).abs() < 0.01, "{late:?}");
        // The first window that is good enough begins 0.15 s before the last late answer.
        assert!(late.converged.is_some_and(|at| (1.3..=1.5).contains(&at)), "{late:?}");
        let harsh = run(|due, number| match in_surge(due) {
            false if number % 10 == 0 => (429, 1),
            true if number % 2 == 0 => (500, 1),
            _ => (200, 20),
        });
        assert_eq!(harsh.refused_before, 112);
        assert!((harsh.refused_after - 0.1).abs() < 0.01, "{harsh:?}");
        assert_eq!(harsh.p99, Some(Duration::from_millis(20)));
    }
}
