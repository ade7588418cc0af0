#![forbid(unsafe_code)]
//! Images while they are open: by descriptor, without locks, and while a hypervisor holds them.

mod changed;
mod descriptors;
mod hypervisor;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;

use checkmap::image::{Access, OpenOptions};
use checkmap::progress::{Observer, Step};
use checkmap::{ErrorKind, Image};
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use support::TestImage;

/// Ends the test where QEMU's tools are absent.
macro_rules! needs_tools {
    () => {
        if !crate::support::tools_are_here() {
            return;
        }
    };
}
use needs_tools;

/// A disk that is written all over, so that later writes allocate nothing, with the checkpoint `mon` and one change.
fn written() -> TestImage {
    let image = TestImage::create("", "16M");
    image.write(0, 16 << 20);
    image.bitmap(&["--add"], "mon");
    image.write(1 << 20, 65536);
    image
}

fn unlocked(path: &Path, access: Access) -> checkmap::Result<Image> {
    Image::open(path, &OpenOptions::new(access).no_lock(true))
}

/// Of what has to be refused.
fn kind<T>(outcome: checkmap::Result<T>) -> ErrorKind {
    outcome.err().expect("it is refused").kind()
}

/// Does something at one step of some work.
struct At<F> {
    step: u64,
    what: Option<F>,
}

impl<F: FnOnce()> Observer for At<F> {
    fn step(&mut self, _: Step) -> ControlFlow<()> {
        match self.step {
            0 => {
                if let Some(what) = self.what.take() {
                    what();
                }
            }
            left => self.step = left - 1,
        }
        ControlFlow::Continue(())
    }
}

/// A qemu-io that has an image open until this is dropped.
struct Holder {
    child: Child,
    _stdin: ChildStdin,
}

impl Holder {
    fn open(image: &Path, options: &[&str]) -> Self {
        let mut qemu = Command::new("qemu-io");
        qemu.args(options).arg(image).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = qemu.spawn().expect("qemu-io starts");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(b"length\n").expect("qemu-io listens");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("qemu-io answers");
        assert!(!line.is_empty(), "qemu-io did not open {}", image.display());
        Self { child, _stdin: stdin }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
