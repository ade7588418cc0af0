#![forbid(unsafe_code)]
//! Owns how a command line says which disks are meant: an image, or disks of a running hypervisor. Must never know what
//! is done with them.

use crate::exit::Failure;
use checkmap::nbd::Uri;
use clap::{Args, ValueHint};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HYPERVISOR: &str = "Running hypervisors";

/// The image, or a running hypervisor in its place.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The image: a file or a block device
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath, required_unless_present_any = ["qmp", "libvirt"])]
    image: Option<OsString>,
    /// In the place of IMAGE: the disks of a running QEMU, by the Unix socket of a QMP monitor
    #[arg(long, value_name = "SOCKET", conflicts_with = "libvirt", value_hint = ValueHint::FilePath, help_heading = HYPERVISOR)]
    qmp: Option<PathBuf>,
    /// In the place of IMAGE: the disks of a libvirt domain, through virsh; libvirt marks the domain as tainted
    #[arg(long, value_name = "URI", requires = "domain", help_heading = HYPERVISOR)]
    libvirt: Option<String>,
    /// The domain: its name, id or UUID
    #[arg(long, value_name = "NAME", requires = "libvirt", help_heading = HYPERVISOR)]
    domain: Option<String>,
    /// Only this disk: a node's name, a device or its id, a target such as vda, or an image file; can be repeated. Without
    /// it, every disk of the machine
    #[arg(long, value_name = "NODE", help_heading = HYPERVISOR)]
    node: Vec<String>,
    /// The socket of the NBD server that runs in that QEMU already; without it, one is started while it is needed
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = HYPERVISOR)]
    nbd_socket: Option<PathBuf>,
    /// Refuse a step that is expected to stop the disks of the machine for longer than this many milliseconds
    #[arg(long, value_name = "MS", help_heading = HYPERVISOR)]
    max_stall: Option<u64>,
    /// How many seconds a monitor may take until it greets, virsh for each answer but that of a change, an NBD server for each
    /// answer, another checkmap until it is done, and the hypervisor for each answer while it is tidied up and read again
    /// after a change. A change itself takes as long as it takes [default: 30]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..), help_heading = HYPERVISOR)]
    timeout: Option<u32>,
}

/// The disks that a verb works on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// One image.
    Image(&'a Path),
    /// Disks of a running hypervisor.
    Machine(&'a TargetArgs),
}

impl<'a> Target<'a> {
    /// The path of the image, where it is one.
    pub(crate) fn image(self) -> Option<&'a Path> {
        match self {
            Target::Image(path) => Some(path),
            Target::Machine(_) => None,
        }
    }
}

impl TargetArgs {
    /// The disks that are meant, and the other words of the command line in their order: where a hypervisor is named, the
    /// first word is no image.
    pub(crate) fn split<'a>(
        &'a self,
        others: impl IntoIterator<Item = &'a OsString>,
    ) -> Result<(Target<'a>, Vec<&'a OsString>), Failure> {
        let words = self.image.iter().chain(others);
        if self.qmp.is_some() || self.libvirt.is_some() {
            return Ok((Target::Machine(self), words.collect()));
        }
        let alone = [
            ("--node", !self.node.is_empty()),
            ("--nbd-socket", self.nbd_socket.is_some()),
            ("--max-stall", self.max_stall.is_some()),
            ("--timeout", self.timeout.is_some()),
        ];
        if let Some((option, _)) = alone.iter().find(|(_, is_there)| *is_there) {
            return Err(Failure::Usage(format!("{option} goes with --qmp or --libvirt only")));
        }
        let mut words = words;
        match words.next() {
            Some(image) => Ok((Target::Image(Path::new(image)), words.collect())),
            None => Err(Failure::Usage("the image is missing".into())),
        }
    }

    /// As [`TargetArgs::split`], where no other words are wanted.
    pub(crate) fn only(&self) -> Result<Target<'_>, Failure> {
        let (target, words) = self.split([])?;
        let [] = exactly(&words, [])?;
        Ok(target)
    }

    /// Where the hypervisor is.
    pub(crate) fn monitor(&self) -> checkmap::qemu::Monitor {
        match (&self.qmp, &self.libvirt, &self.domain) {
            (None, Some(uri), Some(domain)) => {
                checkmap::qemu::Monitor::Libvirt { uri: uri.clone(), domain: domain.clone() }
            }
            (socket, ..) => checkmap::qemu::Monitor::Socket(socket.clone().unwrap_or_default()),
        }
    }

    pub(crate) fn options(&self) -> checkmap::qemu::Options {
        let options = checkmap::qemu::Options::default();
        let options = options.nbd_socket(self.nbd_socket.clone()).max_stall(self.max_stall.map(Duration::from_millis));
        match self.timeout() {
            Some(timeout) => options.timeout(timeout),
            None => options,
        }
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// The export of an NBD server that stands in the place of the image.
    pub(crate) fn nbd_uri(&self) -> Option<&OsStr> {
        let is_machine = self.qmp.is_some() || self.libvirt.is_some();
        self.image.as_deref().filter(|image| !is_machine && Uri::is_one(image.as_bytes()))
    }

    /// A disk of another machine, with the options that are left.
    pub(crate) fn at(&self, socket: &Path, node: Option<&String>) -> TargetArgs {
        TargetArgs {
            image: None,
            qmp: Some(socket.to_owned()),
            libvirt: None,
            domain: None,
            node: node.into_iter().cloned().collect(),
            nbd_socket: None,
            max_stall: None,
            timeout: self.timeout,
        }
    }

    pub(crate) fn nodes(&self) -> &[String] {
        &self.node
    }
}

/// The words that a verb wants, one for each of these names.
pub(crate) fn exactly<'a, const N: usize>(
    words: &[&'a OsString],
    names: [&str; N],
) -> Result<[&'a OsString; N], Failure> {
    <[&OsString; N]>::try_from(words).map_err(|_| match (names.get(words.len()), words.get(N)) {
        (Some(missing), _) => Failure::Usage(format!("{missing} is missing")),
        (None, word) => {
            let word = word.map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            Failure::Usage(format!("unexpected argument '{word}'"))
        }
    })
}
