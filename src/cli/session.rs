#![forbid(unsafe_code)]
//! Owns what every verb shares: how images are opened, and how the person is talked to on stderr. Must never know what
//! a verb does.

use crate::args::{Common, Sharing};
use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::progress::{Watch, When};
use crate::words::one_line;
use checkmap::Image;
use checkmap::image::{Access, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread::available_parallelism;

/// An image is read and written by no more threads than these, however many processors there are.
const MOST_THREADS: usize = 8;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    quiet: bool,
    no_lock: bool,
    progress: When,
    interrupt: Interrupt,
}

impl Session {
    pub(crate) fn new(common: &Common) -> Self {
        let progress = if common.quiet { When::Never } else { common.progress };
        Self { quiet: common.quiet, no_lock: common.no_lock, progress, interrupt: Interrupt::install() }
    }

    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Opens the image for `access`, and passes on the warnings of the opening.
    pub(crate) fn open(&self, image: &Path, access: Access) -> Result<Image, Failure> {
        // Names take no locks anyway, but they look for those of a running writer.
        let no_lock = self.no_lock && access != Access::Names;
        let threads = available_parallelism().map_or(1, |threads| threads.get().min(MOST_THREADS));
        let image = Image::open(image, &OpenOptions::new(access).no_lock(no_lock).threads(threads))?;
        for warning in image.warnings() {
            self.warn(warning);
        }
        Ok(image)
    }

    /// Opens the image to be shown: for names only where the person wants to share it with a running QEMU.
    pub(crate) fn open_shared(&self, image: &Path, sharing: Sharing) -> Result<Image, Failure> {
        self.open(image, if sharing.force_share { Access::Names } else { Access::Read })
    }

    /// The observer of one piece of work: shows how far it is, and stops it when a signal came.
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch::new(&self.interrupt, self.progress)
    }

    /// Tells the user of a finished change.
    pub(crate) fn say(&self, message: &str) {
        if !self.quiet {
            tell(message);
        }
    }

    /// Tells what the person should know.
    pub(crate) fn warn(&self, message: &str) {
        if !self.quiet {
            tell(&format!("warning: {message}"));
        }
    }

    /// Tells why it ends badly; `--quiet` does not silence it.
    pub(crate) fn error(&self, message: &str) {
        tell(message);
    }
}

fn tell(message: &str) {
    // Where stderr is closed, nobody is left to be told.
    let _ = writeln!(std::io::stderr().lock(), "checkmap: {}", one_line(message));
}
