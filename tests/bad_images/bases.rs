//! The sound images that the rows damage, each made once by QEMU.

use crate::support::raw::Raw;
use crate::support::{TestImage, run};
use std::sync::OnceLock;

/// A sound image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// Three bitmaps, `1`, `1->2` and `2->3`, each with one cluster of data; clusters of 512 bytes.
    Chain,
    /// The same with clusters of 4 KiB, where an offset can be out of step.
    Clusters4K,
    /// A disk of 4 MiB whose one bitmap `1` needs a table of two entries.
    TwoEntries,
    /// Two bitmaps that both record: `monday` and `tuesday`.
    Cumulative,
    /// The chain, with a name of a backing file that is not there.
    Overlay,
    /// The chain, with an internal snapshot.
    Snapshot,
    /// Version 2, which cannot hold bitmaps.
    Version2,
}

const ALL: [Base; 7] =
    [Base::Chain, Base::Clusters4K, Base::TwoEntries, Base::Cumulative, Base::Overlay, Base::Snapshot, Base::Version2];

impl Base {
    /// The image's bytes.
    pub(crate) fn raw(self) -> Raw {
        static MADE: [OnceLock<Raw>; ALL.len()] = [const { OnceLock::new() }; ALL.len()];
        let place = ALL.iter().position(|base| *base == self).expect("every base is in the list");
        MADE[place].get_or_init(|| Raw::read(&self.make().path)).clone()
    }

    fn make(self) -> TestImage {
        match self {
            Base::Chain => chain("cluster_size=512"),
            Base::Clusters4K => chain("cluster_size=4096"),
            Base::TwoEntries => {
                let image = TestImage::create("cluster_size=512", "4M");
                image.bitmap(&["--add", "-g", "512"], "1");
                image.write(0, 512);
                image.write(3 << 20, 512);
                image
            }
            Base::Cumulative => {
                let image = TestImage::create("cluster_size=512", "98816");
                image.bitmap(&["--add", "-g", "512"], "monday");
                image.write(0, 1024);
                image.bitmap(&["--add", "-g", "512"], "tuesday");
                image.write(2048, 512);
                image
            }
            Base::Overlay => {
                let image = chain("cluster_size=4096");
                let path = image.path.to_str().expect("a path in UTF-8");
                run("qemu-img", &["rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", path]);
                image
            }
            Base::Snapshot => {
                let image = chain("cluster_size=512");
                let path = image.path.to_str().expect("a path in UTF-8");
                run("qemu-img", &["snapshot", "-c", "before", path]);
                image
            }
            Base::Version2 => TestImage::create("cluster_size=512,compat=0.10", "98816"),
        }
    }
}

fn chain(options: &str) -> TestImage {
    let image = TestImage::create(options, "98816");
    image.bitmap(&["--add", "-g", "512"], "1");
    image.write(0, 512);
    image.bitmap(&["--disable"], "1");
    image.bitmap(&["--add", "-g", "512"], "1->2");
    image.write(512, 512);
    image.bitmap(&["--disable"], "1->2");
    image.bitmap(&["--add", "-g", "512"], "2->3");
    image.write(98304, 512);
    image
}
