#![forbid(unsafe_code)]
//! Images on several layers: one that takes part, or that cannot be read, is noticed however far below it lies.

mod support;

use checkmap::image::{Access, DiffRequest, Layers};
use checkmap::progress::Unobserved;
use checkmap::{Error, ErrorKind, Image};
use std::fs;
use std::path::{Path, PathBuf};
use support::ours::open;
use support::raw::{self, Raw};
use support::{TestImage, run};

/// How many layers lie below the top.
const BELOW: usize = 3;

/// An image with the checkpoints mon and tue; the layers below it, nearest first, hold none.
struct Stack {
    bottom: TestImage,
}

impl Stack {
    fn new() -> Self {
        let stack = Self { bottom: TestImage::create("", "1M") };
        for number in (0..BELOW).rev() {
            let (below, above) = (stack.layer(number + 1), stack.layer(number));
            let below = below.file_name().expect("a name").to_str().expect("UTF-8");
            let args = ["create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2"].map(str::to_owned);
            run("qemu-img", &[&args[..], &[above.to_str().expect("UTF-8").to_owned()]].concat());
        }
        for name in ["mon", "tue"] {
            let mut image = open(&stack.top(), Access::Write);
            let plan = image.plan_create(name.as_bytes(), None, None).expect("a plan");
            image.commit(&plan, &mut Unobserved).expect("it can be written");
            drop(image);
            support::qemu_io(&stack.top(), &["write 64k 64k".into()]);
        }
        stack
    }

    fn top(&self) -> PathBuf {
        self.layer(0)
    }

    /// The layer `below` layers under the top.
    fn layer(&self, below: usize) -> PathBuf {
        match below {
            BELOW => self.bottom.path.clone(),
            number => self.bottom.folder.path().join(format!("layer{number}.qcow2")),
        }
    }

    /// What each question answers that depends on the layers below.
    fn questions(&self) -> Vec<(&'static str, checkmap::Result<()>)> {
        let image = open(&self.top(), Access::Write);
        let diff = |image: &Image| {
            let request = DiffRequest::since(b"mon");
            image.diff(&request, &mut Unobserved).map(drop)
        };
        vec![
            ("diff", diff(&image)),
            ("delete", image.plan_delete(b"mon", false, Layers::Check, None).map(drop)),
            ("rename", image.plan_rename(b"mon", b"sun", Layers::Check, None).map(drop)),
        ]
    }

    #[track_caller]
    fn assert_answered(&self, when: &str) {
        for (question, answer) in self.questions() {
            assert!(answer.is_ok(), "{when}: {question}: {answer:?}");
        }
    }

    #[track_caller]
    fn assert_refused(&self, layer: &Path, why: &str) {
        let name = layer.file_name().expect("a name").to_str().expect("UTF-8");
        for (question, answer) in self.questions() {
            let error: Error = answer.expect_err(&format!("{why}: {question} does not see {name}"));
            assert_eq!(error.kind(), ErrorKind::BackingLayer, "{why}: {question}: {error}");
            assert!(error.to_string().contains(name), "{why}: {question} does not name {name}: {error}");
        }
    }
}

#[test]
fn a_layer_that_takes_part_is_gathered_however_far_below() {
    if !support::tools_are_here() {
        return;
    }
    for below in 1..=BELOW {
        let stack = Stack::new();
        stack.assert_answered("no layer holds a bitmap");
        let layer = stack.layer(below);
        let bitmap = |how: &str| run("qemu-img", &["bitmap", how, layer.to_str().expect("UTF-8"), "mon"]);
        bitmap("--add");
        support::qemu_io(&layer, &["write 512k 64k".into()]);
        let gathered = support::ours::changed(&open(&stack.top(), Access::Read), "mon", None);
        assert!(gathered.iter().any(|extent| extent.offset == 512 << 10), "{below}: {gathered:?}");
        bitmap("--remove");
        stack.assert_answered("the bitmap is gone");
    }
}

#[test]
fn a_layer_that_cannot_be_read_is_seen_however_far_below() {
    if !support::tools_are_here() {
        return;
    }
    for below in 1..=BELOW {
        let stack = Stack::new();
        let layer = stack.layer(below);
        let bytes = fs::read(&layer).expect("it can be read");
        fs::write(&layer, &bytes[..100]).expect("it can be written");
        stack.assert_refused(&layer, "it is cut short");
        fs::write(&layer, vec![0; 1 << 20]).expect("it can be written");
        stack.assert_refused(&layer, "it is no image");
        fs::remove_file(&layer).expect("it can be removed");
        stack.assert_refused(&layer, "it is missing");
        fs::write(&layer, &bytes).expect("it can be written");
        stack.assert_answered("it is whole again");
    }
}

/// What stands behind the fault is unknown, and may take part.
#[test]
fn a_layer_whose_directory_is_damaged_is_seen_however_far_below() {
    if !support::tools_are_here() {
        return;
    }
    for below in 1..=BELOW {
        let stack = Stack::new();
        let layer = stack.layer(below);
        run("qemu-img", &["bitmap", "--add", layer.to_str().expect("UTF-8"), "of no concern"]);
        stack.assert_answered("another bitmap does not take part");
        let mut raw = Raw::read(&layer);
        let granularity = raw.entry(0) + raw::ENTRY_GRANULARITY;
        raw.put(granularity, &[99]);
        fs::write(&layer, &raw.bytes).expect("it can be written");
        stack.assert_refused(&layer, "its directory is damaged");
    }
}
