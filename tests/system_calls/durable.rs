//! The order in which bytes reach the disk: every write of an image and of an output file, beside the flushes, as the kernel saw them.

use super::support::raw::Raw;
use super::support::trace::{Event, trace};
use super::support::{TestImage, c_library, try_run};
use super::{args, checkmap, needs_tools, program, succeeded, three_checkpoints};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SECTOR: u64 = 512;

/// Runs a change of an image, and holds its writes against the order that keeps a power cut harmless. `syncs` is how many
/// flushes it may and must cost.
#[track_caller]
fn assert_ordered(image: &TestImage, args: &[OsString], syncs: usize) {
    let before = Raw::read(&image.path);
    let (output, events) = trace(image.folder.path(), program(), args);
    succeeded(&output);
    assert_ne!(before, Raw::read(&image.path), "{args:?} changes the image");
    let events: Vec<Event> = events.into_iter().filter(|event| !matches!(event, Event::Unlink { .. })).collect();
    let path = image.path.canonicalize().expect("the image is there");
    let cluster = before.cluster() as u64;
    let is_header = |event: &Event| matches!(event, Event::Write { offset: Some(offset), .. } if *offset < cluster);
    let is_sync = |event: &Event| *event == Event::Sync { path: path.clone() };
    let first = events.iter().position(&is_header).expect("the header is written");
    let last = events.iter().rposition(&is_header).expect("the header is written");
    for (number, event) in events.iter().enumerate() {
        let Event::Write { path: written, offset: Some(offset), len_bytes } = event else {
            assert!(is_sync(event), "{args:?}: {event:?}");
            continue;
        };
        assert_eq!(*written, path, "{args:?}");
        if is_header(event) {
            assert!(offset % SECTOR + len_bytes <= SECTOR, "{args:?}: not one sector of the header: {event:?}");
            assert!(is_sync(&events[number - 1]), "{args:?}: written before what it names is durable: {events:?}");
            assert!(is_sync(&events[number + 1]), "{args:?}: something follows before it is durable: {events:?}");
        } else if number < first {
            let new =
                (offset / cluster..(offset + len_bytes).div_ceil(cluster)).all(|number| before.is_free(index(number)));
            assert!(new || is_refcounts(&before, *offset), "{args:?}: changed before the commit: {event:?}");
        } else {
            assert!(number > last && is_refcounts(&before, *offset), "{args:?}: after the commit: {event:?}");
        }
    }
    assert_eq!(events.iter().filter(|event| is_sync(event)).count(), syncs, "{args:?}: {events:?}");
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("an index of a small image")
}

/// Whether this is in the one refcount block of a small image.
fn is_refcounts(image: &Raw, offset: u64) -> bool {
    index(offset) / image.cluster() == image.refcount_block() / image.cluster()
}

#[test]
fn a_change_is_durable_before_the_header_names_it_and_room_is_released_after_that() {
    needs_tools!();
    let image = TestImage::create("", "64M");
    // One for all that is new and its refcounts, one for each sector of the header: QEMU's header ends 8 bytes before the
    // second sector, so the type of the first bitmap's extension and its data lie apart.
    assert_ordered(&image, &args!["create", image.path, "mon"], 3);
    image.write(1 << 20, 100_000);
    assert_ordered(&image, &args!["create", image.path, "tue"], 2);
    image.write(9 << 20, 100_000);
    assert_ordered(&image, &args!["create", image.path, "wed"], 2);
    image.write(9 << 20, 200_000);
    assert_ordered(&image, &args!["rename", image.path, "tue", "thu"], 2);
    assert_ordered(&image, &args!["merge", image.path, "thu->wed", "--into", "mon"], 2);
    assert_ordered(&image, &args!["delete", image.path, "thu"], 2);
    assert_ordered(&image, &args!["delete", image.path, "mon"], 2);
    // The last one: the autoclear bit, then the extension.
    assert_ordered(&image, &args!["delete", image.path, "wed"], 2 + 1);
    image.assert_sound("all of it");
}

/// The file `to` appeared by a rename of one that was written and then made durable, and its folder after that.
#[track_caller]
fn assert_appears_whole(events: &[Event], to: &Path) {
    let to = to.canonicalize().expect("the file is there");
    let folder = to.parent().expect("it is in a folder");
    let is_rename = |event: &&Event| matches!(event, Event::Rename { to: target, .. } if *target == to);
    let mut renames = events.iter().enumerate().filter(|(_, event)| is_rename(event));
    let (renamed, Some(Event::Rename { from, .. })) = renames.next().map_or((0, None), |(at, event)| (at, Some(event)))
    else {
        panic!("{} did not appear in one step: {events:?}", to.display());
    };
    assert!(renames.next().is_none(), "it appeared twice: {events:?}");
    let position = |wanted: &dyn Fn(&Event) -> bool| events.iter().rposition(wanted);
    let changes = |path: &Path, event: &Event| match event {
        Event::Write { path: of, .. } | Event::Truncate { path: of } => of == path,
        _ => false,
    };
    let written = position(&|event| changes(from, event)).expect("the new file was written");
    let synced =
        position(&|event| matches!(event, Event::Sync { path } if path == from)).expect("a new file is synced");
    assert!(written < synced && synced < renamed, "not durable when it appears: {events:?}");
    let kept = events[renamed..].iter().any(|event| matches!(event, Event::Sync { path } if path == folder));
    assert!(kept, "its name is not durable at the end: {events:?}");
    assert_eq!(position(&|event| changes(&to, event)), None, "changed in place: {events:?}");
}

#[test]
fn an_output_file_is_durable_before_it_appears_and_its_name_at_the_end() {
    needs_tools!();
    let image = three_checkpoints();
    let folder = image.folder.path();
    let out = |name: &str| folder.join(name);
    for args in [
        args!["diff", image.path, "--since", "mon", "-o", out("diff.txt")].to_vec(),
        args!["diff", image.path, "--since", "mon", "--json", "-o", out("diff.txt")].to_vec(),
        args!["dump", image.path, "--bitmap", "mon", "--format", "raw", "-o", out("mon.raw")].to_vec(),
        args!["dump", image.path, "--bitmap", "mon", "--format", "segment", "-o", out("mon.seg")].to_vec(),
        args!["diff", image.path, "--since", "tue", "--format", "segment", "-o", out("tue.seg")].to_vec(),
        args!["segment", "merge", out("mon.seg"), out("tue.seg"), "-o", out("both.seg")].to_vec(),
    ] {
        let (output, events) = trace(folder, program(), &args);
        succeeded(&output);
        assert_appears_whole(&events, Path::new(args.last().expect("the output comes last")));
    }
}

const SEGMENTS_IN_C: &str = r#"
#include <checkmap.h>
#include <string.h>
int main(void)
{
    checkmap_bitmap *bitmap = NULL;
    checkmap_segment *segment = NULL;
    if (checkmap_bitmap_new(1 << 30, 4096, &bitmap) < 0 || checkmap_bitmap_set(bitmap, 0, 1 << 20) < 0)
        return 1;
    if (checkmap_segment_write(bitmap, "one.seg", strlen("one.seg"), NULL) < 0)
        return 2;
    if (checkmap_segment_open("one.seg", strlen("one.seg"), &segment) < 0)
        return 3;
    const checkmap_segment *both[] = { segment, segment };
    if (checkmap_segment_merge(both, 2, "two.seg", strlen("two.seg"), NULL, NULL) < 0)
        return 4;
    checkmap_segment_close(segment);
    checkmap_bitmap_free(bitmap);
    return 0;
}
"#;

#[test]
fn a_segment_file_of_a_c_program_is_durable_before_it_appears_and_its_name_at_the_end() {
    needs_tools!();
    let folder = super::support::folder();
    let folder = folder.path();
    let program = c_library::compile(SEGMENTS_IN_C, folder);
    let (output, events) = trace(folder, &program, &args![]);
    succeeded(&output);
    assert_appears_whole(&events, &folder.join("one.seg"));
    assert_appears_whole(&events, &folder.join("two.seg"));
    // Over a file that is there as well.
    fs::write(folder.join("one.seg"), "another").expect("a file can be written");
    let (output, events) = trace(folder, &program, &args![]);
    succeeded(&output);
    assert_appears_whole(&events, &folder.join("one.seg"));
    checkmap(&args!["segment", "check", folder.join("two.seg")]);
}

/// Runs the program where its flush number `flush` fails.
fn with_failing_flush(flush: usize, args: &[OsString]) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"]);
    strace.arg(format!("inject=fsync,fdatasync:error=EIO:when={flush}")).arg(program()).args(args);
    strace.output().expect("strace runs")
}

#[test]
fn each_flush_that_fails_is_told_and_leaves_the_image_of_before_or_after() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).expect("the image can be read");
    for verb in [args!["create", image.path, "thu"].to_vec(), args!["delete", image.path, "tue"].to_vec()] {
        fs::write(&image.path, &before).expect("the image can be written");
        let old = image.checkpoints();
        checkmap(&verb);
        let new = image.checkpoints();
        for flush in 1.. {
            fs::write(&image.path, &before).expect("the image can be written");
            let output = with_failing_flush(flush, &verb);
            let check = run_check(&image.path);
            if output.status.success() {
                // All flushes are through.
                assert_eq!((flush, image.checkpoints()), (3, new));
                break;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("flush"), "{verb:?}: flush {flush}: {said}");
            let found = image.checkpoints();
            // Only where the commit is in doubt may it have happened, and may room be leaked.
            let in_doubt = said.contains("in doubt");
            assert!(found == old && check == 0 || in_doubt && (found == old || found == new) && check == 3, "{said}");
        }
    }
}

/// The status of QEMU's check: 0 is sound, 3 has leaks.
fn run_check(image: &Path) -> i32 {
    let check = try_run("qemu-img", &["check".as_ref(), "-q".as_ref(), image.as_os_str()]);
    check.status.code().expect("it ends by itself")
}

#[test]
fn an_output_whose_flush_fails_is_an_error_and_what_was_there_stays() {
    needs_tools!();
    let image = three_checkpoints();
    let (folder, out) = (image.folder.path(), image.folder.path().join("mon.seg"));
    fs::write(&out, "of yesterday").expect("a file can be written");
    let args = args!["dump", image.path, "--bitmap", "mon", "--format", "segment", "-o", out];
    let output = with_failing_flush(1, &args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read(&out).expect("it is there"), b"of yesterday");
    assert_eq!(
        fs::read_dir(folder).expect("the folder can be read").count(),
        2,
        "nothing is left beside image and output"
    );
    // The folder's: the new file is there, but a power cut may lose its name.
    let output = with_failing_flush(2, &args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    checkmap(&args!["segment", "check", out]);
    succeeded(&with_failing_flush(3, &args));
}
