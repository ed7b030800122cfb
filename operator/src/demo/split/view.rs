//! The live view of a split: the shares of the versions, and what fails. Line by line it is a plot that runs downwards.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Stylize},
    text::Line,
    widgets::{Block, Gauge, Paragraph, Wrap},
};

use super::{ARMS, Each, arm::Received, findings::Timeline};
use crate::demo::{
    load::{Live, Summary},
    screen::{Moment, chart},
};

/// Letters of the bar that stands for all requests of a second.
const BAR: usize = 40;
const COLOURS: Each<Color> = [Color::Blue, Color::Green, Color::Red];
const NAMES: Each<&str> = ["v1", "v2", "v3"];

/// Everything that is shown at one moment.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) timeline: Timeline,
    /// The sentence of the split.
    pub(super) sentence: String,
    pub(super) live: Live,
    /// What each version received, by second.
    pub(super) received: Each<Vec<Received>>,
    /// The shares that Envoy had, in percent, by seconds since the start.
    pub(super) shares: Vec<(f64, Each<f64>)>,
    /// What Weir says.
    pub(super) words: Option<String>,
}

impl Picture {
    /// What the client saw in a second.
    fn seen(&self, second: usize) -> Summary {
        self.live.targets.first().and_then(|seconds| seconds.get(second)).cloned().unwrap_or_default()
    }

    fn counts(&self, second: usize) -> Each<u64> {
        std::array::from_fn(|arm| self.received[arm].get(second).map_or(0, |it| it.requests))
    }

    /// The shares in force at the end of a second.
    fn in_force(&self, second: usize) -> Each<f64> {
        let until = (second + 1) as f64;
        self.shares.iter().take_while(|(at, _)| *at <= until).last().map(|(_, shares)| *shares).unwrap_or_default()
    }

    fn act(&self, second: usize) -> &'static str {
        if second < self.timeline.turn { "all well" } else { "v3 is bad" }
    }
}

/// A letter for each fortieth of the requests.
fn bar(counts: Each<u64>) -> String {
    let all = counts.iter().sum::<u64>().max(1) as f64;
    let (mut bar, mut before) = (String::new(), 0);
    for (count, letter) in counts.into_iter().zip(['1', '2', '3']) {
        before += count;
        let end = (BAR as f64 * before as f64 / all).round() as usize;
        bar.extend(std::iter::repeat_n(letter, end.saturating_sub(bar.len())));
    }
    bar
}

impl Moment for Picture {
    fn second(&self) -> Option<usize> {
        usize::try_from(self.live.elapsed.as_secs()).ok()?.checked_sub(2)
    }

    fn line(&self) -> String {
        let second = self.second().unwrap_or(0);
        let [v1, v2, v3] = self.in_force(second);
        let seen = self.seen(second);
        let line = format!(
            "{:>3}/{} s  {:<9}  shares {v1:>4.1} {v2:>4.1} {v3:>4.1} %  {:<BAR$}  failed {:>2} of {:>3}  {}",
            second + 1,
            self.timeline.seconds,
            self.act(second),
            bar(self.counts(second)),
            seen.failed + seen.limited,
            seen.offered,
            self.words.as_deref().unwrap_or_default(),
        );
        line.trim_end().to_owned()
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(3), Constraint::Length(6), Constraint::Ratio(2, 3), Constraint::Ratio(1, 3)];
        let [progress, words, shares, failures] = Layout::vertical(rows).areas(frame.area());
        let (elapsed, whole) = (self.live.elapsed.as_secs_f64(), self.timeline.seconds as f64);
        let act = match elapsed < self.timeline.turn as f64 {
            true => "all versions are well, v2 answers sooner",
            false => "v3 fails every second request",
        };
        let label = format!("{:.0} of {whole:.0} s, {act}", elapsed.min(whole));
        let gauge = Gauge::default().ratio((elapsed / whole).clamp(0.0, 1.0)).label(label).gauge_style(Color::Blue);
        frame.render_widget(gauge.block(Block::bordered().title("Weir demo: a split that steers itself")), progress);

        let second = self.second().unwrap_or(0);
        let (seen, counts, in_force) = (self.seen(second), self.counts(second), self.in_force(second));
        let mut numbers = Vec::new();
        for (arm, name) in ARMS.iter().enumerate() {
            numbers.push(format!("{name} ").into());
            numbers.push(format!("{:.1} %", in_force[arm]).fg(COLOURS[arm]).bold());
            numbers.push(format!(" ({}/s)   ", counts[arm]).into());
        }
        numbers.push(format!("failed {} of {}", seen.failed + seen.limited, seen.offered).into());
        let status = self.words.clone().unwrap_or_default();
        let text = vec![Line::from(self.sentence.clone()).italic(), Line::from(numbers), Line::from(status)];
        let block = Block::bordered().title("Policy, and what it does");
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(block), words);

        let of = |arm: usize| -> Vec<(f64, f64)> { self.shares.iter().map(|(at, all)| (*at, all[arm])).collect() };
        let curves: Vec<Vec<(f64, f64)>> = (0..ARMS.len()).map(of).collect();
        let curves: Vec<_> = (0..ARMS.len()).map(|arm| (NAMES[arm], COLOURS[arm], &curves[arm][..])).collect();
        chart(frame, shares, "Shares in force at the caller's Envoy", &curves, whole, 100.0, " %");
        let seconds = self.second().map_or(0, |second| second + 1);
        let failed = |at: usize| {
            let seen = self.seen(at);
            (at as f64 + 0.5, 100.0 * (seen.failed + seen.limited) as f64 / seen.offered.max(1) as f64)
        };
        let failed: Vec<(f64, f64)> = (0..seconds).map(failed).collect();
        let curves = [("failed", Color::Red, &failed[..])];
        chart(frame, failures, "Requests of the client that failed", &curves, whole, 20.0, " %");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{BAR, Moment, Picture, Timeline, bar};
    use crate::demo::{
        load::{Live, Summary},
        split::arm::Received,
    };

    fn picture() -> Picture {
        let second = Summary { offered: 200, ok: 192, other: 8, failed: 8, ..Summary::default() };
        let received = [100, 84, 16].map(|requests| vec![Received { requests, failed: 0 }; 22]);
        Picture {
            timeline: Timeline::new(60),
            sentence: "prefer lower errors".into(),
            live: Live { elapsed: Duration::from_millis(23_200), targets: vec![vec![second; 22]] },
            received,
            shares: vec![(0.0, [60.0, 20.0, 20.0]), (21.4, [50.0, 42.0, 8.0]), (22.7, [48.5, 48.5, 3.0])],
            words: Some("v3 fails more than v1".into()),
        }
    }

    #[test]
    fn a_line_says_it_all() {
        assert_eq!(
            picture().line(),
            "22/60 s  v3 is bad  shares 50.0 42.0  8.0 %  1111111111111111111122222222222222222333  failed  8 of 200  v3 fails more than v1"
                .to_owned()
                .replace("22/60", " 22/60")
        );
    }

    #[test]
    fn bars_are_of_one_length() {
        for counts in [[1, 0, 0], [1, 1, 1], [0, 0, 7], [60, 20, 20], [199, 1, 1]] {
            assert_eq!(bar(counts).len(), BAR, "{counts:?}");
        }
        assert_eq!(bar([0; 3]), "");
    }

    #[test]
    fn draws_on_screens_of_any_size() {
        let nothing = Picture {
            live: Live::default(),
            received: Default::default(),
            shares: Vec::new(),
            words: None,
            ..picture()
        };
        for (width, height) in [(120, 40), (80, 24), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| picture().draw(frame)).unwrap();
            terminal.draw(|frame| nothing.draw(frame)).unwrap();
        }
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| picture().draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        for part in ["23 of 60 s, v3 fails", "prefer lower errors", "reviews-v2 42.0 % (84/s)", "failed 8 of 200"] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
    }
}
