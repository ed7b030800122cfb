//! The live view of a limit that steers itself: what is offered, admitted and answered in time against the capacity.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Stylize},
    text::Line,
    widgets::{Block, Gauge, Paragraph, Wrap},
};

use super::{timeline::Timeline, verdict::refused};
use crate::demo::{
    load::{Live, Summary},
    screen::{Moment, chart},
    status::RuleView,
    summary::latency,
};

/// Everything that is shown at one moment.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) timeline: Timeline,
    /// The policy's sentence.
    pub(super) sentence: String,
    pub(super) live: Live,
    /// What Weir says; absent: nothing, or there is no policy.
    pub(super) rule: Option<RuleView>,
    /// What Weir said was in force, by seconds since the start.
    pub(super) limits: Vec<(f64, Option<f64>)>,
}

impl Picture {
    /// Sum over the replicas of one second. Latencies are the worst.
    fn at(&self, second: usize) -> Summary {
        let mut sum = Summary::default();
        for one in self.live.targets.iter().filter_map(|seconds| seconds.get(second)) {
            sum.offered += one.offered;
            sum.ok += one.ok;
            sum.good += one.good;
            sum.limited += one.limited;
            sum.unavailable += one.unavailable;
            sum.other += one.other;
            sum.timeouts += one.timeouts;
            sum.failed += one.failed;
            sum.p99 = sum.p99.max(one.p99);
        }
        sum
    }

    fn capacity(&self, second: usize) -> f64 {
        self.timeline.act(second).capacity() * self.live.targets.len() as f64
    }

    fn limit(&self) -> String {
        let Some(rule) = &self.rule else { return "none".to_owned() };
        rule.per_second.map_or_else(|| "none".to_owned(), |limit| format!("{limit:.0}/s"))
    }
}

/// Requests that got past every limit.
fn admitted(sum: &Summary) -> u64 {
    sum.admitted().saturating_sub(sum.unavailable)
}

impl Moment for Picture {
    fn second(&self) -> Option<usize> {
        usize::try_from(self.live.elapsed.as_secs()).ok()?.checked_sub(2)
    }

    fn line(&self) -> String {
        let second = self.second().unwrap_or(0);
        let sum = self.at(second);
        let words = self.rule.as_ref().and_then(|rule| rule.message.clone()).unwrap_or_default();
        format!(
            "{:>3}/{} s  {:<6}  capacity {:>4.0}  limit {:>7}  offered {:>5}  admitted {:>5}  in time {:>4}  p99 {:>7}  {words}",
            second + 1,
            self.timeline.seconds(),
            self.timeline.act(second).name,
            self.capacity(second),
            self.limit(),
            sum.offered,
            admitted(&sum),
            sum.good,
            latency(sum.p99),
        )
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(3), Constraint::Length(6), Constraint::Ratio(2, 3), Constraint::Ratio(1, 3)];
        let [progress, words, rates, latencies] = Layout::vertical(rows).areas(frame.area());
        let (elapsed, whole) = (self.live.elapsed.as_secs_f64(), self.timeline.seconds() as f64);
        let act = match self.timeline.act(elapsed as usize).name {
            "surge" => "three times the capacity",
            "halved" => "the same load, half of the capacity",
            "after" => "normal load, whole capacity again",
            _ => "normal load",
        };
        let label = format!("{:.0} of {whole:.0} s, {act}", elapsed.min(whole));
        let gauge = Gauge::default().ratio((elapsed / whole).clamp(0.0, 1.0)).label(label).gauge_style(Color::Blue);
        frame.render_widget(gauge.block(Block::bordered().title("Weir demo: a limit that steers itself")), progress);

        let second = self.second().unwrap_or(0);
        let sum = self.at(second);
        let numbers = Line::from(vec![
            "limit ".into(),
            self.limit().yellow().bold(),
            format!("   capacity {:.0}/s   offered {}/s   in time ", self.capacity(second), sum.offered).into(),
            format!("{}/s", sum.good).blue().bold(),
            format!("   refused {}/s   p99 {}", refused(&sum), latency(sum.p99)).into(),
        ]);
        let status = self.rule.as_ref().and_then(|rule| rule.message.clone()).unwrap_or_default();
        let text = vec![Line::from(self.sentence.clone()).italic(), numbers, Line::from(status)];
        let block = Block::bordered().title("Policy, and what it does");
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(block), words);

        let seconds = self.second().map_or(0, |second| second + 1);
        let curve = |value: &dyn Fn(usize, &Summary) -> f64| -> Vec<(f64, f64)> {
            (0..seconds).map(|at| (at as f64 + 0.5, value(at, &self.at(at)))).collect()
        };
        let offered = curve(&|_, sum| sum.offered as f64);
        let passed = curve(&|_, sum| admitted(sum) as f64);
        let in_time = curve(&|_, sum| sum.good as f64);
        let capacity = curve(&|at, _| self.capacity(at));
        let limit: Vec<(f64, f64)> = self.limits.iter().filter_map(|(at, limit)| Some((*at, (*limit)?))).collect();
        let highest = self.timeline.0.iter().map(|act| act.offered).fold(0.0, f64::max)
            * self.live.targets.len().max(1) as f64
            * 1.1;
        let curves = [
            ("offered", Color::DarkGray, &offered[..]),
            ("capacity", Color::Green, &capacity),
            ("limit", Color::Yellow, &limit),
            ("admitted", Color::Magenta, &passed),
            ("in time", Color::Blue, &in_time),
        ];
        chart(frame, rates, "Requests per second, all replicas", &curves, whole, highest, "/s");
        let p99 = curve(&|_, sum| sum.p99.map_or(0.0, |p99| p99.as_secs_f64() * 1e3));
        let curves = [("p99", Color::Blue, &p99[..])];
        let highest = 2.0 * super::SLO.as_secs_f64() * 1e3;
        chart(frame, latencies, "99th percentile of answers", &curves, whole, highest, " ms");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{Moment, Picture, Timeline};
    use crate::demo::{
        load::{Live, Summary},
        status::RuleView,
    };

    fn picture() -> Picture {
        let second = Summary {
            offered: 600,
            ok: 198,
            good: 190,
            limited: 380,
            other: 22,
            unavailable: 20,
            p99: Some(Duration::from_millis(120)),
            ..Summary::default()
        };
        let message = Some("p99 latency is 120 ms, below 150 ms".into());
        Picture {
            timeline: Timeline::new(60),
            sentence: "keep p99 latency below 150ms".into(),
            live: Live { elapsed: Duration::from_millis(22_200), targets: vec![vec![second; 22]; 2] },
            rule: Some(RuleView { per_second: Some(410.0), message, ..RuleView::default() }),
            limits: vec![(11.0, None), (12.0, Some(900.0)), (13.0, Some(410.0))],
        }
    }

    #[test]
    fn a_line_says_it_all() {
        let line = picture().line();
        let parts = ["21/60 s", "surge", "capacity  400", "410/s", "offered  1200", "admitted   400", "in time  380"];
        for part in parts.iter().chain(&["120 ms", "below 150 ms"]) {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn draws_on_screens_of_any_size() {
        let nothing = Picture { live: Live::default(), rule: None, limits: Vec::new(), ..picture() };
        for (width, height) in [(120, 40), (80, 24), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| picture().draw(frame)).unwrap();
            terminal.draw(|frame| nothing.draw(frame)).unwrap();
        }
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| picture().draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        for part in
            ["22 of 60 s, three times the capacity", "keep p99", "410/s", "refused 800/s", "capacity", "in time"]
        {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
    }
}
