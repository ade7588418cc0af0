//! Images by descriptor: of every kind, and each handle with locks of its own.

use crate::support::{TestImage, run, try_run};
use crate::{Holder, kind, needs_tools, written};
use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::fs::{File, OpenOptions as FileOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

fn by(file: impl AsFd, access: Access) -> checkmap::Result<Image> {
    Image::open_file(file, Path::new("by descriptor"), &OpenOptions::new(access))
}

fn create(image: &mut Image, name: &str) {
    let plan = image.plan_create(name.as_bytes(), None, None).expect("it can be planned");
    image.commit(&plan, &mut Unobserved).expect("it can be done");
}

fn open(path: &Path, read: bool, write: bool, flags: i32) -> File {
    FileOptions::new().read(read).write(write).custom_flags(flags).open(path).expect("the file opens")
}

/// How many descriptors this process has of the file.
fn open_files(path: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").expect("/proc is there");
    let path = path.to_string_lossy().into_owned();
    let link = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    all.filter_map(link).filter(|link| link.to_string_lossy().starts_with(&path)).count()
}

#[test]
fn two_handles_on_one_descriptor_exclude_each_other_and_keep_their_own_locks() {
    needs_tools!();
    let image = written();
    let file = open(&image.path, true, true, 0);
    let writer = by(&file, Access::Write).expect("it is free");
    for access in [Access::Read, Access::Write] {
        assert_eq!(kind(by(&file, access)), ErrorKind::InUse);
    }
    drop(writer);
    let readers = [by(&file, Access::Read).expect("it is free"), by(&file, Access::Read).expect("readers share")];
    assert_eq!(kind(by(&file, Access::Write)), ErrorKind::InUse);
    let [one, two] = readers;
    drop(one);
    // The other keeps a writer out as before, also one in another process.
    assert_eq!(kind(by(&file, Access::Write)), ErrorKind::InUse);
    assert!(!try_run("qemu-io", &["-c", "write 0 512", &image.path.to_string_lossy()]).status.success());
    drop(two);
    create(&mut by(&file, Access::Write).expect("it is free"), "tue");
    drop(file);
    image.assert_sound("a change by descriptor");
}

#[test]
fn a_descriptor_gives_what_it_allows_and_no_more() {
    needs_tools!();
    let image = written();
    let before = std::fs::read(&image.path).expect("the image can be read");
    const RW: (bool, bool) = (true, true);
    let cases = [
        ((true, false), 0, Access::Read, None),
        ((true, false), 0, Access::Names, None),
        // Opening it anew would give the right to write, as the file allows it.
        ((true, false), 0, Access::Write, Some(ErrorKind::ReadOnly)),
        (RW, 0, Access::Read, None),
        (RW, 0, Access::Write, None),
        ((false, true), 0, Access::Read, Some(ErrorKind::InvalidArgument)),
        ((false, true), 0, Access::Write, Some(ErrorKind::InvalidArgument)),
        (RW, libc::O_APPEND, Access::Write, Some(ErrorKind::InvalidArgument)),
        (RW, libc::O_APPEND, Access::Read, Some(ErrorKind::InvalidArgument)),
        (RW, libc::O_PATH, Access::Read, Some(ErrorKind::InvalidArgument)),
        (RW, libc::O_PATH, Access::Write, Some(ErrorKind::InvalidArgument)),
        (RW, libc::O_SYNC, Access::Write, None),
    ];
    for ((read, write), flags, access, refused) in cases {
        let case = format!("read {read}, write {write}, flags {flags:#o}, {access:?}");
        let mut file = open(&image.path, read, write, flags);
        let is_path = flags & libc::O_PATH != 0;
        if !is_path {
            file.seek(SeekFrom::Start(7)).expect("it can seek");
        }
        let opened = by(&file, access);
        assert_eq!(opened.as_ref().err().map(checkmap::Error::kind), refused, "{case}: {opened:?}");
        if let (Ok(image), Access::Read) = (&opened, access) {
            image.check(&mut Unobserved).expect("it can be read");
        }
        assert_eq!(open_files(&image.path), 1 + usize::from(opened.is_ok()), "{case}");
        drop(opened);
        assert!(is_path || file.stream_position().expect("it has one") == 7, "{case}: the position moved");
        assert_eq!(open_files(&image.path), 1, "{case}: a descriptor is left");
        assert!(std::fs::read(&image.path).expect("it can be read") == before, "{case}: the file changed");
    }
}

#[test]
fn direct_access_of_the_caller_does_not_matter() {
    needs_tools!();
    let image = written();
    // Not every file system has it.
    let direct = FileOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&image.path);
    let Ok(file) = direct else {
        eprintln!("this file system has no O_DIRECT");
        return;
    };
    create(&mut by(&file, Access::Write).expect("it opens"), "tue");
    image.assert_sound("a change by a direct descriptor");
}

#[test]
fn what_is_no_image_file_is_refused_without_a_wait() {
    let folder = crate::support::folder();
    let fifo = folder.path().join("fifo");
    run("mkfifo", &[&fifo]);
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let (pipe, _write) = std::io::pipe().expect("a pipe");
    let others: [OwnedFd; 6] = [
        open(folder.path(), true, false, 0).into(),
        open(&fifo, true, true, 0).into(),
        socket.into(),
        pipe.into(),
        open(Path::new("/dev/null"), true, true, 0).into(),
        open(Path::new("/dev/zero"), true, true, 0).into(),
    ];
    for other in others {
        for access in [Access::Read, Access::Names, Access::Write] {
            let refused = by(&other, access);
            assert!(refused.is_err(), "{} with {access:?}: {refused:?}", other.as_raw_fd());
        }
    }
}

#[test]
fn a_file_without_a_name_is_an_image_like_any_other() {
    needs_tools!();
    let image = written();
    let mut file = open(&image.path, true, true, 0);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("it can be read");
    std::fs::remove_file(&image.path).expect("it can be removed");
    let mut handle = by(&file, Access::Write).expect("it opens");
    create(&mut handle, "tue");
    assert_eq!(kind(by(&file, Access::Read)), ErrorKind::InUse);
    drop(handle);
    assert_eq!(by(&file, Access::Read).expect("it opens").chain(None).expect("a chain").checkpoints().len(), 2);

    let folder = crate::support::folder();
    let mut nameless = tempfile::tempfile_in(folder.path()).expect("a file without a name");
    nameless.write_all(&bytes).expect("it can be written");
    create(&mut by(&nameless, Access::Write).expect("it opens"), "tue");
    assert_eq!(by(&nameless, Access::Read).expect("it opens").chain(None).expect("a chain").checkpoints().len(), 2);
}

#[test]
fn a_qemu_that_has_the_file_open_is_noticed_through_any_descriptor() {
    needs_tools!();
    let image = written();
    let file = open(&image.path, true, true, 0);
    let guest = Holder::open(&image.path, &[]);
    for access in [Access::Read, Access::Write] {
        assert_eq!(kind(by(&file, access)), ErrorKind::InUse);
        let options = OpenOptions::new(access).no_lock(true);
        assert_eq!(kind(Image::open_file(&file, &image.path, &options)), ErrorKind::InUse);
    }
    assert!(by(&file, Access::Names).expect("names can be read").is_held_by_writer());
    drop(guest);
}

/// A loop device over a file, where the machine lets us have one.
struct Loop(String);

impl Loop {
    fn over(path: &Path) -> Option<Self> {
        let output = try_run("losetup", &["--find", "--show", &path.to_string_lossy()]);
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !device.is_empty()).then_some(Self(device))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = try_run("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn a_block_device_is_measured_without_moving_the_callers_position() {
    needs_tools!();
    let image = TestImage::create("", "16M");
    image.write(0, 1 << 20);
    let file = open(&image.path, true, true, 0);
    file.set_len(32 << 20).expect("room for what is to come");
    let Some(device) = Loop::over(&image.path) else {
        assert!(std::env::var_os("CI").is_none(), "no loop device, though CI is set");
        eprintln!("SKIPPED, NOT PASSED: no loop device can be had here");
        return;
    };
    let mut caller = open(Path::new(&device.0), true, true, 0);
    caller.seek(SeekFrom::Start(4096)).expect("a device can seek");
    let mut handle = by(&caller, Access::Write).expect("it opens");
    create(&mut handle, "mon");
    assert_eq!(kind(by(&caller, Access::Read)), ErrorKind::InUse);
    drop(handle);
    assert_eq!(caller.stream_position().expect("it has one"), 4096);
    caller.sync_all().expect("it can be flushed");
    drop(device);
    assert_eq!(image.checkpoints(), ["mon"]);
}
