//! `weir status --watch`: the same again every second. In place on a terminal, else appended; a Weir that is away is waited for.

use std::{
    io::{IsTerminal, Stdout, Write, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use jiff::{Timestamp, tz::TimeZone};
use ratatui::crossterm::{
    cursor::{Hide, MoveTo, Show},
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::shown;
use crate::args::StatusArgs;

const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut view = View::new()?;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let look = async {
            ticks.tick().await;
            shown(args).await
        };
        let looked = tokio::select! {
            looked = look => looked,
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        };
        // A closed pipe (`weir status --watch | head`) ends it quietly.
        if view.show(looked, args.json).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Where it is shown.
struct View {
    /// Absent: not a terminal.
    screen: Option<Screen>,
    /// The last that was seen, for while Weir is away.
    last: Vec<String>,
    away_since: Option<Timestamp>,
}

impl View {
    fn new() -> anyhow::Result<Self> {
        let screen = stdout().is_terminal().then(Screen::enter).transpose()?;
        Ok(Self { screen, last: Vec::new(), away_since: None })
    }

    fn show(&mut self, looked: anyhow::Result<Vec<String>>, json: bool) -> std::io::Result<()> {
        let now = Timestamp::now();
        let time = |at: Timestamp| at.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string();
        let away = match looked {
            Ok(lines) => {
                self.last = lines;
                self.away_since = None;
                None
            }
            Err(error) => {
                let first = self.away_since.is_none();
                let since = *self.away_since.get_or_insert(now);
                Some((first, format!("{error:#}; trying again since {}", time(since))))
            }
        };
        match (&mut self.screen, away) {
            (Some(screen), away) => {
                let head = format!("weir status, {}", time(now));
                let away = away.map(|(_, words)| words);
                let note = away.is_some() && !self.last.is_empty();
                let note = note.then(|| "What it said last:".to_owned());
                screen.draw([head].into_iter().chain(away).chain(note).chain([String::new()]).chain(self.last.clone()))
            }
            (None, None) => {
                let mut out = stdout().lock();
                if !json {
                    writeln!(out, "--- {}", time(now))?;
                }
                self.last.iter().try_for_each(|line| writeln!(out, "{line}"))?;
                out.flush()
            }
            // Said once; what is read by a program stays what it was.
            (None, Some((true, words))) if json => writeln!(std::io::stderr(), "{words}"),
            (None, Some((true, words))) => writeln!(stdout(), "--- {words}"),
            (None, Some((false, _))) => Ok(()),
        }
    }
}

/// A terminal's other screen; dropped, it is as it was.
struct Screen(Stdout);

impl Screen {
    fn enter() -> std::io::Result<Self> {
        let mut screen = Self(stdout());
        execute!(screen.0, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// What does not fit is cut off: a line that wraps would push the first ones out.
    fn draw(&mut self, lines: impl Iterator<Item = String>) -> std::io::Result<()> {
        // Some terminals say that they have no size.
        let size = terminal::size().ok().filter(|(width, height)| *width > 0 && *height > 0);
        let (width, height) = size.unwrap_or((80, 24));
        queue!(self.0, MoveTo(0, 0))?;
        for (row, line) in (0..height).zip(lines) {
            let line: String = line.chars().take(usize::from(width)).collect();
            queue!(self.0, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.0, Clear(ClearType::FromCursorDown))?;
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(self.0, Show, LeaveAlternateScreen);
    }
}
