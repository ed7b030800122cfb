//! Where the live view goes: a full screen on a terminal, else one plain line a second.

use std::{
    io::{IsTerminal, Stdout, Write},
    time::Duration,
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
    },
    layout::Rect,
    style::{Color, Style},
    symbols::Marker,
    widgets::{Axis, Block, Chart, Dataset, GraphType},
};

/// How often the view is drawn.
pub(super) const REFRESH: Duration = Duration::from_millis(250);

/// A moment that can be shown.
pub(super) trait Moment {
    /// The newest second that is whole; a line is printed when it changes.
    fn second(&self) -> Option<usize>;
    /// The moment in one line.
    fn line(&self) -> String;
    /// The moment on a whole screen.
    fn draw(&self, frame: &mut Frame<'_>);
}

/// The view.
pub(super) struct View {
    screen: Option<Screen>,
    last_line: Option<usize>,
}

impl View {
    /// Takes the terminal's screen, if there is one and `plain` is not asked for.
    #[must_use]
    pub(super) fn new(plain: bool) -> Self {
        let screen = if plain || !std::io::stdout().is_terminal() { None } else { Screen::enter() };
        Self { screen, last_line: None }
    }

    /// Shows a moment. An output that is gone ends nothing: the verdict counts.
    pub(super) fn show(&mut self, moment: &impl Moment) {
        if let Some(screen) = &mut self.screen {
            let _ = screen.terminal.draw(|frame| moment.draw(frame));
            return;
        }
        let second = moment.second();
        if second.is_some() && self.last_line != second {
            self.last_line = second;
            let _ = writeln!(std::io::stdout(), "{}", moment.line());
        }
    }
}

/// The terminal's other screen, left again when dropped. Keys are not read, so that Ctrl-C stays a signal.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn enter() -> Option<Self> {
        execute!(std::io::stdout(), EnterAlternateScreen, Clear(ClearType::All), cursor::Hide).ok()?;
        let screen = Terminal::new(CrosstermBackend::new(std::io::stdout())).map(|terminal| Self { terminal });
        if screen.is_err() {
            leave();
        }
        screen.ok()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn leave() {
    // Nobody is left to tell when the terminal is gone.
    let _ = execute!(std::io::stdout(), LeaveAlternateScreen, cursor::Show);
}

/// A line of a chart: its name, its colour, and points of seconds and value.
pub(super) type Curve<'a> = (&'static str, Color, &'a [(f64, f64)]);

/// A chart from second 0 to `seconds` and from 0 to `highest`.
pub(super) fn chart(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &'static str,
    curves: &[Curve<'_>],
    seconds: f64,
    highest: f64,
    unit: &str,
) {
    let datasets = curves.iter().map(|(name, colour, points)| {
        Dataset::default()
            .name(*name)
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(*colour))
            .data(points)
    });
    let chart = Chart::new(datasets.collect())
        .block(Block::bordered().title(title))
        .x_axis(Axis::default().bounds([0.0, seconds]).labels(["0".to_owned(), format!("{seconds:.0} s")]))
        .y_axis(Axis::default().bounds([0.0, highest]).labels(["0".to_owned(), format!("{highest:.0}{unit}")]));
    frame.render_widget(chart, area);
}
