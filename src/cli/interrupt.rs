#![forbid(unsafe_code)]
//! Owns the signals that ask the program to stop: they are noted, so that the work can end where nothing has been
//! changed. Must never know the work.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The signals that came in.
#[derive(Debug)]
pub(crate) struct Interrupt {
    /// The last signal, 0 for none.
    signal: Arc<AtomicUsize>,
    /// What lets a second signal end the program on the spot.
    killers: Mutex<Vec<SigId>>,
}

impl Interrupt {
    /// Takes note of SIGINT, SIGTERM and SIGHUP from now on, unless the caller ignores them, as `nohup` does.
    ///
    /// The first one asks the work to stop; a second one ends the program on the spot, until [`Interrupt::hold`].
    pub(crate) fn install() -> Self {
        let interrupt = Self { signal: Arc::default(), killers: Mutex::default() };
        let second = Arc::new(AtomicBool::new(false));
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored >> (signal - 1) & 1 == 0 {
                // A signal that cannot be noted keeps its default: it ends the program.
                let _ = interrupt.note(signal, &second);
            }
        }
        interrupt
    }

    fn note(&self, signal: i32, second: &Arc<AtomicBool>) -> std::io::Result<()> {
        let killer = flag::register_conditional_default(signal, Arc::clone(second))?;
        self.killers.lock().unwrap_or_else(PoisonError::into_inner).push(killer);
        flag::register(signal, Arc::clone(second))?;
        flag::register_usize(signal, Arc::clone(&self.signal), usize::try_from(signal).unwrap_or_default())?;
        Ok(())
    }

    /// From now on no signal ends the program by itself: a commit or a temporary file is under way.
    pub(crate) fn hold(&self) {
        for killer in self.killers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            low_level::unregister(killer);
        }
    }

    /// Whether a signal asked to stop.
    pub(crate) fn came(&self) -> bool {
        self.signal().is_some()
    }

    /// The last signal that asked to stop.
    pub(crate) fn signal(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|signal| *signal > 0)
    }

    /// Ends the program by the signal that came; returns if none did.
    pub(crate) fn die(&self) {
        if let Some(signal) = self.signal() {
            // It fails only for signals that cannot be noted in the first place.
            let _ = low_level::emulate_default_handler(signal);
        }
    }
}

/// The signals that this process was started to ignore, one bit each; none where the system does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
