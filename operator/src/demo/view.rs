//! The live view of a limit: what is offered, answered and refused, and what Weir says.

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Stylize},
    text::Line,
    widgets::{Block, Gauge, Paragraph, Row, Table},
};

use super::{
    load::{Live, Summary},
    scenario::{CAST, Timeline},
    screen::{Moment, chart},
    status::RuleView,
    summary::latency,
};

/// Everything that is shown at one moment.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// What is played.
    pub timeline: Timeline,
    /// How the load goes.
    pub live: Live,
    /// What Weir says; absent: nothing, or there is no policy.
    pub rule: Option<RuleView>,
    /// Mean CPU use of the replicas, as a fraction of their limit.
    pub cpu: Option<f64>,
    /// Whether the policy is there.
    pub with_limit: bool,
}

impl Picture {
    /// Before anything was seen.
    pub(super) fn new(timeline: Timeline, with_limit: bool) -> Self {
        Self { timeline, live: Live::default(), rule: None, cpu: None, with_limit }
    }

    fn newest(&self) -> Vec<Summary> {
        let at = |seconds: &Vec<Summary>| self.second().and_then(|second| seconds.get(second).cloned());
        self.live.targets.iter().map(|seconds| at(seconds).unwrap_or_default()).collect()
    }

    fn limit(&self) -> String {
        let Some(rule) = &self.rule else {
            return if self.with_limit { "no word from weir" } else { "none (no policy)" }.to_owned();
        };
        match (rule.per_second, &rule.shares) {
            (None, _) => "none".to_owned(),
            (Some(rate), Some(shares)) => format!("{rate:.0}/s ({shares})"),
            (Some(rate), None) => format!("{rate:.0}/s"),
        }
    }

    fn cpu(&self) -> String {
        self.cpu.map_or_else(|| "–".to_owned(), |cpu| format!("{:.0} %", cpu * 100.0))
    }
}

impl Moment for Picture {
    /// The newest second whose requests have all been answered or timed out.
    fn second(&self) -> Option<usize> {
        usize::try_from(self.live.elapsed.as_secs()).ok()?.checked_sub(2)
    }

    fn line(&self) -> String {
        let newest = self.newest();
        let join = |value: &dyn Fn(&Summary) -> u64| {
            newest.iter().map(|sum| value(sum).to_string()).collect::<Vec<_>>().join("+")
        };
        let p99 = newest.iter().filter_map(|sum| sum.p99).max();
        let second = self.second().map_or(0, |second| second + 1);
        format!(
            "{second:>3}/{} s  {:<6}  limit {:<18}  cpu {:>5}  answered {:>8}/s  429 {:>8}/s  failed {:>8}/s  p99 {}",
            self.timeline.seconds(),
            self.timeline.phase_at(self.second().unwrap_or(0)),
            self.limit(),
            self.cpu(),
            join(&|sum| sum.ok),
            join(&|sum| sum.limited),
            join(&|sum| sum.failed),
            latency(p99),
        )
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        draw(frame, self, &self.timeline);
    }
}

fn draw(frame: &mut Frame<'_>, picture: &Picture, timeline: &Timeline) {
    let replicas = u16::try_from(picture.live.targets.len()).unwrap_or(0);
    let rows = [Constraint::Length(3), Constraint::Length(4), Constraint::Length(replicas + 3), Constraint::Min(8)];
    let [progress, state, table, chart] = Layout::vertical(rows).areas(frame.area());
    let (elapsed, whole) = (picture.live.elapsed.as_secs_f64(), timeline.seconds() as f64);
    let label = format!("{:.0} of {whole:.0} s, {}", elapsed.min(whole), phase_text(timeline, elapsed as usize));
    let gauge = Gauge::default().ratio((elapsed / whole).clamp(0.0, 1.0)).label(label).gauge_style(Color::Blue);
    frame.render_widget(gauge.block(Block::bordered().title("Weir demo")), progress);

    let rule = picture.rule.clone().unwrap_or_default();
    let proxies =
        rule.proxies.map(|(programmed, total)| format!("   proxies {programmed} of {total}")).unwrap_or_default();
    let hot = if picture.cpu.is_some_and(|cpu| cpu > 0.8) { Color::Red } else { Color::Reset };
    let limit_colour = if rule.per_second.is_some() { Color::Yellow } else { Color::Reset };
    let first = Line::from(vec![
        "limit ".into(),
        picture.limit().fg(limit_colour).bold(),
        "   cpu ".into(),
        picture.cpu().fg(hot).bold(),
        format!("   rule {}", if rule.phase.is_empty() { "–" } else { &rule.phase }).into(),
        proxies.into(),
    ]);
    let words = Paragraph::new(vec![first, Line::from(rule.message.unwrap_or_default())]);
    frame.render_widget(words.block(Block::bordered().title("In force")), state);
    frame.render_widget(replica_table(picture), table);
    draw_chart(frame, chart, picture, timeline);
}

fn phase_text(timeline: &Timeline, second: usize) -> &'static str {
    match timeline.phase_at(second) {
        "surge" => "load above capacity",
        "after" => "normal load again",
        _ => "normal load",
    }
}

fn replica_table(picture: &Picture) -> Table<'static> {
    let header = ["replica", "offered/s", "answered/s", "429/s", "failed/s", "p50", "p99"];
    let rows = picture.newest().into_iter().enumerate().map(|(replica, sum)| {
        Row::new([
            CAST.pod(replica),
            sum.offered.to_string(),
            sum.ok.to_string(),
            sum.limited.to_string(),
            sum.failed.to_string(),
            latency(sum.p50),
            latency(sum.p99),
        ])
    });
    Table::new(rows.collect::<Vec<_>>(), [Constraint::Ratio(1, 7); 7])
        .header(Row::new(header).bold())
        .block(Block::bordered().title("The newest whole second, by replica"))
}

fn draw_chart(frame: &mut Frame<'_>, area: ratatui::layout::Rect, picture: &Picture, timeline: &Timeline) {
    let seconds = picture.second().map_or(0, |second| second + 1);
    let total = |value: fn(&Summary) -> u64| -> Vec<(f64, f64)> {
        (0..seconds)
            .map(|at| {
                (
                    at as f64 + 0.5,
                    picture.live.targets.iter().filter_map(|all| all.get(at)).map(value).sum::<u64>() as f64,
                )
            })
            .collect()
    };
    let (offered, answered) = (total(|sum| sum.offered), total(|sum| sum.ok));
    let (limited, failed) = (total(|sum| sum.limited), total(|sum| sum.failed));
    let highest = timeline.surge_per_second * picture.live.targets.len() as f64 * 1.1;
    let curves = [
        ("offered", Color::DarkGray, &offered[..]),
        ("failed", Color::Red, &failed),
        ("429", Color::Yellow, &limited),
        ("answered", Color::Blue, &answered),
    ];
    chart(frame, area, "Requests per second, all replicas", &curves, timeline.seconds() as f64, highest, "/s");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{Moment, Picture};
    use crate::demo::{
        load::{Live, Summary},
        scenario::Timeline,
        status::RuleView,
    };

    fn picture() -> Picture {
        let second =
            Summary { offered: 100, ok: 35, limited: 65, p99: Some(Duration::from_millis(120)), ..Summary::default() };
        let rule = RuleView {
            phase: "Limiting".into(),
            per_second: Some(105.0),
            shares: Some("35 x3".into()),
            message: Some("cpu is 91 %, above 80 %".into()),
            proxies: Some((3, 3)),
        };
        Picture {
            timeline: Timeline::new(60),
            live: Live { elapsed: Duration::from_millis(16_200), targets: vec![vec![second; 16]; 3] },
            rule: Some(rule),
            cpu: Some(0.91),
            with_limit: true,
        }
    }

    #[test]
    fn a_line_says_it_all() {
        let line = picture().line();
        for part in ["15/60 s", "surge", "limit 105/s (35 x3)", "91 %", "35+35+35/s", "65+65+65/s", "120 ms"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let empty = Picture::new(Timeline::new(60), false).line();
        assert!(empty.contains("none (no policy)"), "{empty}");
    }

    #[test]
    fn draws_on_screens_of_any_size() {
        for (width, height) in [(120, 40), (80, 24), (10, 3), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| picture().draw(frame)).unwrap();
            terminal.draw(|frame| Picture::new(Timeline::new(60), true).draw(frame)).unwrap();
        }
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| picture().draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        for part in ["16 of 60 s", "105/s (35 x3)", "proxies 3 of 3", "cpu is 91 %, above 80 %", "burner-2", "answered"]
        {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
    }
}
