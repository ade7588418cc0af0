#![forbid(unsafe_code)]
//! Owns how progress is shown on stderr: a bar on a terminal, lines elsewhere. Must never know the work.

use crate::interrupt::Interrupt;
use checkmap::progress::{Observer, Step};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// When progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum When {
    /// If stderr is a terminal
    Auto,
    /// Also elsewhere: then one line for every tenth of the work
    Always,
    /// Never, as with --quiet
    Never,
}

/// Work that ends sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// The observer that shows progress, and stops the work when a signal came.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    interrupt: &'a Interrupt,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Nothing,
    Bar { since: Instant, bar: Option<ProgressBar> },
    Lines { last: Option<(&'static str, u64)> },
}

impl<'a> Watch<'a> {
    pub(crate) fn new(interrupt: &'a Interrupt, when: When) -> Self {
        let shown = match (when, stderr().is_terminal()) {
            (When::Never, _) | (When::Auto, false) => Shown::Nothing,
            (When::Auto | When::Always, true) => Shown::Bar { since: Instant::now(), bar: None },
            (When::Always, false) => Shown::Lines { last: None },
        };
        Self { interrupt, shown }
    }
}

impl Observer for Watch<'_> {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar { since, bar } => {
                if bar.is_some() || since.elapsed() >= PATIENCE {
                    let bar = bar.get_or_insert_with(new_bar);
                    bar.set_message(told(step.phase));
                    bar.set_length(step.total);
                    bar.set_position(step.done);
                }
            }
            Shown::Lines { last } => {
                let tenths = step.done.saturating_mul(10).checked_div(step.total).unwrap_or(10);
                if last.replace((step.phase, tenths)) != Some((step.phase, tenths)) {
                    // Where stderr is closed, nobody is left to be told.
                    let _ = writeln!(stderr().lock(), "checkmap: {}: {}%", told(step.phase), tenths * 10);
                }
            }
        }
        if self.interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Shown::Bar { bar: Some(bar), .. } = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// The name of a phase, and its step number where there are several: every verb that works with bitmaps first
/// looks at what occupies the image, then reads or writes them.
fn told(phase: &'static str) -> &'static str {
    match phase {
        "looking at what is in use" => "step 1 of 2: looking at what is in use",
        "reading bitmaps" => "step 2 of 2: reading bitmaps",
        "ordering checkpoints" => "step 2 of 2: ordering checkpoints",
        "writing bitmaps" => "step 2 of 2: writing bitmaps",
        other => other,
    }
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {percent:>3}%");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}
