#![forbid(unsafe_code)]
//! Owns how progress is shown on stderr: a bar on a terminal, lines elsewhere. Must never know the work.

use crate::interrupt::Interrupt;
use crate::words::amount;
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

/// The work whose units are bytes that are copied.
const COPYING: &str = "copying the disk";

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
    Bar { since: Instant, bar: Option<ProgressBar>, phase: &'static str },
    Lines { last: Option<(&'static str, u64)>, since: Instant },
}

impl<'a> Watch<'a> {
    pub(crate) fn new(interrupt: &'a Interrupt, when: When) -> Self {
        let shown = match (when, stderr().is_terminal()) {
            (When::Never, _) | (When::Auto, false) => Shown::Nothing,
            (When::Auto | When::Always, true) => Shown::Bar { since: Instant::now(), bar: None, phase: "" },
            (When::Always, false) => Shown::Lines { last: None, since: Instant::now() },
        };
        Self { interrupt, shown }
    }
}

impl Observer for Watch<'_> {
    fn step(&mut self, step: Step) -> ControlFlow<()> {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar { since, bar, phase } => {
                if bar.is_some() || since.elapsed() >= PATIENCE {
                    let bar = bar.get_or_insert_with(|| ProgressBar::new(0));
                    if std::mem::replace(phase, step.phase) != step.phase {
                        bar.set_style(style_of(step.phase));
                        bar.set_position(0);
                        bar.reset_eta();
                    }
                    bar.set_message(told(step.phase));
                    bar.set_length(step.total);
                    bar.set_position(step.done);
                }
            }
            Shown::Lines { last, since } => {
                let tenths = step.done.saturating_mul(10).checked_div(step.total).unwrap_or(10);
                let before = last.replace((step.phase, tenths));
                if before.is_none_or(|(phase, _)| phase != step.phase) {
                    *since = Instant::now();
                }
                if before != Some((step.phase, tenths)) {
                    let pace = if step.phase == COPYING { pace(&step, since.elapsed()) } else { String::new() };
                    // Where stderr is closed, nobody is left to be told.
                    let _ = writeln!(stderr().lock(), "checkmap: {}: {}%{pace}", told(step.phase), tenths * 10);
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

/// How fast bytes are copied, and how long the rest takes at that pace; nothing before a second has passed.
fn pace(step: &Step, elapsed: Duration) -> String {
    let a_second = step.done.checked_div(elapsed.as_secs()).filter(|pace| *pace > 0);
    let left = a_second.map(|pace| (pace, (step.total - step.done.min(step.total)) / pace));
    left.map_or_else(String::new, |(pace, left)| format!(", {} a second, {left} s left", amount(pace)))
}

fn style_of(phase: &'static str) -> ProgressStyle {
    let style = ProgressStyle::with_template(match phase {
        COPYING => "{msg} [{wide_bar}] {percent:>3}% {binary_bytes_per_sec}, {eta} left",
        _ => "{msg} [{wide_bar}] {percent:>3}%",
    });
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::pace;
    use checkmap::progress::Step;
    use std::time::Duration;

    #[test]
    fn the_pace_is_told_once_a_second_has_passed() {
        let pace =
            |done: u64, seconds| pace(&Step::new("copying", done << 20, 100 << 20), Duration::from_secs(seconds));
        assert_eq!(pace(50, 0), "");
        assert_eq!(pace(0, 9), "");
        assert_eq!(pace(40, 4), ", 10 MiB a second, 6 s left");
        assert_eq!(pace(100, 5), ", 20 MiB a second, 0 s left");
    }
}
