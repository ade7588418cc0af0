//! The C library as C programs meet it: built once, then every behaviour of `tests/c` compiled and run, plainly, under
//! valgrind and with sanitizers; its symbols, its installation and its ABI.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{env, fs, thread};

const STRICT: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty folder of this name, below the target folder.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for this test");
    folder
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see ./run-tests"));
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    output
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// `make` for a library whose arithmetic is checked, beside the target folder of these tests.
fn make() -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-target");
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(root()).arg("CARGO_PROFILE=dev");
    make.env("CARGO_TARGET_DIR", &target).env_remove("MAKEFLAGS");
    make.arg(format!("CARGO={}", env::var("CARGO").unwrap_or("cargo".into())));
    make.arg(format!("C_BUILD={}", library_folder().display()));
    if let Ok(triple) = env::var("CHECKMAP_C_SANITIZE") {
        // Only with a target of its own does cargo keep the flags from build scripts and macros.
        make.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address").env("CARGO_BUILD_TARGET", triple);
        make.arg("CFLAGS=-fsanitize=address");
    }
    make
}

fn library_folder() -> PathBuf {
    let sanitized = env::var_os("CHECKMAP_C_SANITIZE").is_some();
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(if sanitized { "capi-sanitized" } else { "capi-lib" })
}

/// The folder of the library, which is built once.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        run(make().arg("all"));
        let folder = library_folder();
        if env::var_os("CHECKMAP_C_SANITIZE").is_some() {
            let symbols = text(&run(Command::new("nm").arg(folder.join("libcheckmap.so"))));
            assert!(symbols.contains("__asan_report_load8"), "the library is not instrumented");
        }
        folder
    })
}

/// The images that the C tests copy, made by QEMU's tools: an empty one, one with the checkpoints a, b and c, one whose
/// last bitmap was not stored, and one above the second.
fn images() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = folder("images");
        let img = |args: &[&str]| run(Command::new("qemu-img").args(args).current_dir(&folder));
        let write = |what: &str| {
            run(Command::new("qemu-io").args(["-f", "qcow2", "-c", what, "chain.qcow2"]).current_dir(&folder))
        };
        img(&["create", "-q", "-f", "qcow2", "plain.qcow2", "64M"]);
        img(&["create", "-q", "-f", "qcow2", "chain.qcow2", "64M"]);
        img(&["bitmap", "--add", "chain.qcow2", "a"]);
        write("write 1M 64k");
        img(&["bitmap", "--disable", "chain.qcow2", "a"]);
        img(&["bitmap", "--add", "chain.qcow2", "a->b"]);
        write("write 2M 128k");
        img(&["bitmap", "--disable", "chain.qcow2", "a->b"]);
        img(&["bitmap", "--add", "chain.qcow2", "b->c"]);
        write("write 4M 64k");
        img(&["create", "-q", "-f", "qcow2", "-b", "chain.qcow2", "-F", "qcow2", "overlay.qcow2"]);
        img(&["bitmap", "--add", "overlay.qcow2", "a"]);
        crash(&folder);
        folder
    })
}

/// Kills a writer while it has the bitmaps of a copy in use.
fn crash(folder: &Path) {
    let image = folder.join("inconsistent.qcow2");
    fs::copy(folder.join("chain.qcow2"), &image).expect("an image can be copied");
    let mut qemu = Command::new("qemu-io");
    qemu.args(["-f", "qcow2"]).arg(&image).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = qemu.spawn().expect("qemu-io starts");
    let mut commands = child.stdin.take().expect("its input");
    commands.write_all(b"write 5M 64k\nflush\n").expect("it reads");
    let before = fs::metadata(folder.join("chain.qcow2")).expect("it is there").len();
    for _ in 0..200 {
        thread::sleep(Duration::from_millis(50));
        if fs::metadata(&image).expect("it is there").len() > before {
            break;
        }
    }
    thread::sleep(Duration::from_millis(200));
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
}

/// The C tests by name, in order.
fn programs() -> Vec<PathBuf> {
    let all = fs::read_dir(root().join("tests/c")).expect("tests/c can be listed");
    let mut programs: Vec<PathBuf> = all.map(|entry| entry.expect("tests/c can be listed").path()).collect();
    programs.retain(|path| path.extension() == Some(OsStr::new("c")));
    programs.retain(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit()));
    programs.sort();
    assert!(programs.len() > 50, "the C tests are not where this test looks");
    programs
}

fn compile(source: &Path, program: &Path, more: &[&str]) {
    let library = library().display().to_string();
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-pthread"]).args(STRICT).args(more).arg(source);
    cc.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c")).arg("-o").arg(program);
    cc.args([&format!("-L{library}"), "-lcheckmap", "-ldl", &format!("-Wl,-rpath,{library}")]);
    run(&mut cc);
}

/// Compiles and runs every program, each in a folder of its own; `wrap` says by what it is run.
fn run_all(name: &str, flags: &[&str], wrap: &[&str], skip: &[&str]) {
    let (here, images, library) = (folder(name), images(), library());
    let programs = programs();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(source) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = source.file_stem().expect("a name").to_string_lossy().into_owned();
            if skip.contains(&name.as_str()) {
                continue;
            }
            let folder = here.join(&name);
            fs::create_dir(&folder).expect("a folder for this test");
            let program = here.join(format!("{name}.out"));
            compile(source, &program, flags);
            let (first, rest) =
                wrap.split_first().map_or((program.as_os_str(), wrap), |(first, rest)| (OsStr::new(*first), rest));
            let mut command = Command::new("timeout");
            command.arg("300").arg(first).args(rest);
            if !wrap.is_empty() {
                command.arg(&program);
            }
            command.current_dir(&folder).env("CHECKMAP_TEST_IMAGES", images);
            command.env("CHECKMAP_TEST_LIBRARY", library.join("libcheckmap.so.0"));
            command.env("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1");
            // Freed memory is overwritten, so that Rust's side, which is not instrumented, does not find it as it was.
            command.env("ASAN_OPTIONS", "max_free_fill_size=4096:free_fill_byte=221");
            if !wrap.is_empty() {
                command.env("CHECKMAP_TEST_FORKS", "20");
            }
            let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see ./run-tests"));
            if !output.status.success() {
                failed.lock().expect("nobody panics").push(format!("{name}: {}", told(&output)));
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failed = failed.into_inner().expect("nobody panics");
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), programs.len(), failed.join("\n"));
}

#[test]
fn every_behaviour_in_c() {
    run_all("plain", &[], &[], &[]);
}

#[test]
fn every_behaviour_in_c_under_valgrind() {
    let valgrind =
        ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"];
    // A child does not free what a fork tore, and the first of these reaches for a page that is not there on purpose.
    let mut skip = vec!["405-fork-in-a-change", "406-fork-beside-calls"];
    // A thousand loads of the library are slow there, and so is an image changed byte by byte.
    if env::var_os("CHECKMAP_C_ALL").is_none() {
        skip.extend(["318-damaged", "404-dlopen"]);
    }
    run_all("valgrind", &[], &valgrind, &skip);
}

const SANITIZE: &[&str] = &["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

#[test]
fn every_behaviour_in_c_with_sanitizers() {
    // A child that was forked while another thread allocates waits for the lock of the sanitizer's own allocator.
    run_all("sanitized", SANITIZE, &[], &["406-fork-beside-calls", "407-fork-first-call"]);
}

#[test]
fn the_sanitizers_are_really_there() {
    let here = folder("canary");
    let source = here.join("canary.c");
    let body = "#include <checkmap.h>\n#include <stdlib.h>\nint main(void)\n{\n    char *volatile room = malloc(8);\n    \
                room[0] = checkmap_version()[0];\n    free(room);\n    return room[0] == 'x';\n}\n";
    fs::write(&source, body).expect("it can be written");
    let program = here.join("canary");
    compile(&source, &program, SANITIZE);
    let output = Command::new(&program).output().expect("it runs");
    assert!(!output.status.success() && told(&output).contains("AddressSanitizer"), "{}", told(&output));
    let symbols = text(&run(Command::new("nm").arg(&program)));
    assert!(symbols.contains("__asan_init") && symbols.contains("__ubsan_handle"), "{symbols}");
}

#[test]
fn random_calls_do_what_a_naive_model_does() {
    let here = folder("fuzz");
    let program = here.join("fuzz");
    compile(&root().join("tests/c/fuzz.c"), &program, SANITIZE);
    let rounds = env::var("CHECKMAP_C_FUZZ_ROUNDS").unwrap_or("300".into());
    run(Command::new("timeout").arg("3000").arg(&program).arg("1").arg(rounds).current_dir(&here));
}

/// The rows of the tables in docs/embedding.md that name calls of ours: the first call of QEMU's, and ours.
fn rows_of_the_guide() -> Vec<(String, BTreeSet<String>)> {
    let guide = fs::read_to_string(root().join("docs/embedding.md")).expect("the guide can be read");
    let tables = guide.split_once("## From QEMU's calls to ours").expect("the tables are there").1;
    let mut rows = Vec::new();
    for line in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').skip(1).collect();
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<String>>();
        let (theirs, short) = (names(cells[0]), names(cells[1]));
        let mut ours = BTreeSet::new();
        let mut last = String::new();
        for name in short {
            // `_get` after `checkmap_bitmap_set` is short for `checkmap_bitmap_get`.
            let family = last.strip_prefix("checkmap_").and_then(|rest| rest.split('_').next()).unwrap_or("bitmap");
            let full = if name.starts_with('_') { format!("checkmap_{family}{name}") } else { name };
            ours.extend(full.starts_with("checkmap_").then(|| full.clone()));
            last = full;
        }
        if !ours.is_empty() {
            rows.push((theirs.first().map_or("none".to_owned(), |name| name.replace('-', "_")), ours));
        }
    }
    assert!(rows.len() > 50, "the tables are not where this test looks");
    rows
}

#[test]
fn every_row_of_the_guide_that_names_a_call_is_tested() {
    let known = map();
    let source = fs::read_to_string(root().join("tests/c/embedding.c")).expect("the program can be read");
    let mut tested: Vec<&str> = source.split("\nROW(").skip(1).collect();
    let functions: Vec<(&str, &str)> = (source.split("\nstatic ").skip(1))
        .filter_map(|function| {
            Some((function.split_once('(')?.0.rsplit([' ', '*']).next()?, function.split("\n}").next()?))
        })
        .collect();
    for (theirs, ours) in rows_of_the_guide() {
        let test = tested.iter().position(|test| test.starts_with(&format!("{theirs})")));
        let test = tested.remove(test.unwrap_or_else(|| panic!("tests/c/embedding.c has no ROW({theirs})")));
        for call in ours {
            assert!(known.contains(&call), "docs/embedding.md, {theirs}: there is no {call}");
            let tests_it = is_word_of(test, &call)
                || functions.iter().any(|(name, body)| is_word_of(test, name) && is_word_of(body, &call));
            assert!(tests_it, "tests/c/embedding.c, ROW({theirs}) does not test {call}");
        }
    }
    assert!(tested.is_empty(), "docs/embedding.md has no such rows any more: {tested:?}");
    let here = folder("embedding");
    let program = here.join("embedding");
    compile(&root().join("tests/c/embedding.c"), &program, SANITIZE);
    run(Command::new(&program).current_dir(&here).env("CHECKMAP_TEST_IMAGES", images()));
}

#[test]
fn the_header_compiles_as_c_and_cpp() {
    let here = folder("header");
    let source = here.join("header.c");
    let body = "#include <checkmap.h>\n#include <checkmap.h>\n\
                struct checkmap_opts opts = CHECKMAP_OPTS_INIT;\n\
                struct checkmap_image_info image = CHECKMAP_IMAGE_INFO_INIT;\n\
                struct checkmap_segment_info segment = CHECKMAP_SEGMENT_INFO_INIT;\n\
                typedef char extent_is_frozen[sizeof(struct checkmap_extent) == 24 ? 1 : -1];\n\
                typedef char checkpoint_is_frozen[sizeof(struct checkmap_checkpoint) == \
                4 * sizeof(void *) + 24 + 32 ? 1 : -1];\n\
                struct checkmap_backup_opts backup = CHECKMAP_BACKUP_OPTS_INIT;\n\
                struct checkmap_restore_request restore = CHECKMAP_RESTORE_REQUEST_INIT;\n\
                struct checkmap_keep keep = CHECKMAP_KEEP_INIT;\n\
                typedef char moment_is_frozen[sizeof(struct checkmap_moment) == \
                8 * sizeof(void *) + 48 + 32 ? 1 : -1];\n\
                typedef char planned_is_frozen[sizeof(struct checkmap_planned) == 64 ? 1 : -1];\n\
                typedef char opts_has_no_padding[sizeof(struct checkmap_opts) == 24 + 2 * sizeof(void *) ? 1 : -1];\n";
    fs::write(&source, body).expect("it can be written");
    for compiler in ["gcc", "clang"] {
        for standard in [["-xc", "-std=c99"], ["-xc", "-std=c11"], ["-xc++", "-std=c++17"]] {
            let mut cc = Command::new(compiler);
            cc.args(standard).args(STRICT).arg("-fsyntax-only").arg("-I").arg(root().join("include")).arg(&source);
            run(&mut cc);
        }
    }
}

/// The names that the committed map exports; `tests/header` compares it with the header.
fn map() -> BTreeSet<String> {
    let map = fs::read_to_string(root().join("libcheckmap/checkmap.map")).expect("the map can be read");
    let names = map.lines().filter_map(|line| line.trim().strip_suffix(';'));
    names.filter(|name| name.starts_with("checkmap_")).map(str::to_owned).collect()
}

#[test]
fn the_library_exports_the_map_and_nothing_else() {
    let library = library().join("libcheckmap.so");
    let symbols = text(&run(Command::new("nm").args(["-D", "--defined-only"]).arg(&library)));
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let (versions, names): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| !name.contains('@'));
    assert_eq!(versions, ["CHECKMAP_0"]);
    let versioned: BTreeSet<String> =
        names.iter().map(|name| name.strip_suffix("@@CHECKMAP_0").expect("versioned").to_owned()).collect();
    assert_eq!(versioned, map());
    let dynamic = text(&run(Command::new("readelf").arg("-d").arg(&library)));
    for wanted in ["[libcheckmap.so.0]", "NODELETE", "NOW"] {
        assert!(dynamic.contains(wanted), "{wanted}: {dynamic}");
    }
}

#[test]
fn the_abi_is_the_committed_one() {
    let dump = folder("abi").join("checkmap.abi");
    let mut abidw = Command::new("abidw");
    abidw.args(["--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--drop-private-types"]);
    abidw.arg("--headers-dir").arg(root().join("include"));
    abidw.arg("--out-file").arg(&dump).arg(witness());
    run(&mut abidw);
    let committed = root().join("libcheckmap/checkmap.abi");
    if env::var_os("UPDATE").is_some() {
        fs::copy(&dump, &committed).expect("the dump can be written");
    }
    let output = Command::new("abidiff").arg(&committed).arg(&dump).output().expect("abidiff runs; see ./run-tests");
    assert!(
        output.status.success(),
        "the ABI is not libcheckmap/checkmap.abi (UPDATE=1 accepts it):\n{}",
        told(&output)
    );
}

/// A library with the types of the header as C has them: what Rust writes of its types says nothing of C's names, and
/// changes with the compiler. Its functions do nothing; `the_library_exports_the_map_and_nothing_else` ties the two.
fn witness() -> PathBuf {
    let here = folder("witness");
    let header = fs::read_to_string(root().join("include/checkmap.h")).expect("the header can be read");
    let mut source = String::from("#include <checkmap.h>\n");
    let mut declaration = String::new();
    let mut in_comment = false;
    for line in header.lines() {
        in_comment |= line.trim_start().starts_with("/*");
        let is_comment = in_comment;
        in_comment &= !line.ends_with("*/");
        if is_comment || line.starts_with('#') {
            continue;
        }
        if declaration.is_empty() && !(line.contains(" checkmap_") || line.contains("*checkmap_")) {
            continue;
        }
        if declaration.is_empty() && (line.starts_with("typedef") || line.starts_with(' ') || line.starts_with('}')) {
            continue;
        }
        declaration += line.trim();
        declaration.push(' ');
        if let Some(function) = declaration.trim().strip_suffix(");") {
            let body = if function.starts_with("void ") { "{}" } else { "{ return 0; }" };
            source += &format!("{function}) {body}\n");
            declaration.clear();
        }
    }
    let library = here.join("libcheckmap.so");
    fs::write(here.join("witness.c"), source).expect("it can be written");
    let map = root().join("libcheckmap/checkmap.map");
    let mut cc = Command::new("gcc");
    cc.args([
        "-std=c11",
        "-g",
        "-shared",
        "-fPIC",
        "-w",
        "-Wl,-soname,libcheckmap.so.0",
        "-fno-eliminate-unused-debug-types",
    ]);
    cc.arg(format!("-Wl,--version-script={}", map.display())).arg("-I").arg(root().join("include"));
    // By its bare name: the dump holds no path of the machine that made it.
    run(cc.current_dir(&here).arg("witness.c").arg("-o").arg(&library));
    library
}

#[test]
fn installed_it_serves_the_examples_and_goes_without_a_trace() {
    library();
    let place = folder("installed");
    let install = |goal: &str| {
        let mut make = make();
        make.arg(goal).arg(format!("DESTDIR={}", place.display())).args(["PREFIX=/usr", "LIBDIR=/usr/lib/somewhere"]);
        run(&mut make);
    };
    install("install");
    let lib = place.join("usr/lib/somewhere");
    let link = |name: &str| fs::read_link(lib.join(name)).expect("a link").to_string_lossy().into_owned();
    assert_eq!(link("libcheckmap.so"), "libcheckmap.so.0");
    assert_eq!(link("libcheckmap.so.0"), format!("libcheckmap.so.{}", env!("CARGO_PKG_VERSION")));
    let pages = fs::read_dir(place.join("usr/share/man/man3")).expect("there are manual pages").count();
    assert!(pages > map().len(), "{pages} pages");

    is_light_and_can_be_debugged(&lib);
    // The third way takes everything from archives, the C library too, as `pkg-config --static` is for.
    let ways = ["shared", "archive", "static"].into_iter().flat_map(|way| [("incremental", way), ("track", way)]);
    for (name, way) in ways {
        let is_static = way != "shared";
        let program = place.join(format!("{name}-{way}"));
        let pkg_config = |what: &str| {
            let mut command = Command::new("pkg-config");
            command.args([what, "checkmap"]).args(is_static.then_some("--static"));
            command.env("PKG_CONFIG_LIBDIR", lib.join("pkgconfig")).env("PKG_CONFIG_SYSROOT_DIR", &place);
            command.env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1").env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1");
            text(&run(&mut command)).split_whitespace().map(str::to_owned).collect::<Vec<String>>()
        };
        let mut libraries = pkg_config("--libs");
        if way == "archive" {
            libraries
                .iter_mut()
                .filter(|flag| *flag == "-lcheckmap")
                .for_each(|flag| *flag = "-l:libcheckmap.a".into());
        }
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-D_GNU_SOURCE", "-pthread"]).args(STRICT).args(pkg_config("--cflags"));
        cc.args((way == "static").then_some("-static"));
        cc.arg(root().join("examples").join(name).with_extension("c")).arg("-o").arg(&program).args(libraries);
        run(&mut cc);
        let needed = text(&run(Command::new("readelf").arg("-d").arg(&program)));
        assert_eq!(needed.contains("libcheckmap.so.0"), !is_static, "{needed}");
        assert_eq!(needed.contains("NEEDED"), way != "static", "{needed}");
        let image = images().join("chain.qcow2");
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", &lib).current_dir(&place);
        if name == "incremental" {
            command.arg(&image).arg("b");
        }
        let said = text(&run(&mut command));
        if name == "incremental" {
            assert_eq!(said, "2097152 131072\n4194304 65536\n");
        } else {
            assert!(said.contains("nothing was missed"), "{said}");
        }
    }

    install("uninstall");
    let left = text(&run(Command::new("find").arg(place.join("usr")).args(["!", "-type", "d"])));
    assert_eq!(left, "");
}

#[test]
fn the_pull_client_brings_an_older_copy_up_to_date() {
    let (here, library) = (folder("pull"), library());
    let flags = |package: &str| {
        let mut flags = Command::new("pkg-config");
        text(&run(flags.args(["--cflags", "--libs", package]).env("PKG_CONFIG_PATH", library)))
    };
    let client = here.join("pull");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE"]).args(STRICT).arg(root().join("examples/pull.c")).arg("-o").arg(&client);
    cc.args([flags("checkmap"), flags("libnbd")].iter().flat_map(|flags| flags.split_whitespace()));
    run(cc.arg(format!("-Wl,-rpath,{}", library.display())));
    let (image, copy) = (here.join("disk.qcow2"), here.join("copy.raw"));
    let tool = |name: &str, args: &[&str]| {
        let mut command = Command::new(name);
        command.current_dir(&here).args(args);
        run(&mut command)
    };
    let checkmap = env!("CARGO_BIN_EXE_checkmap");
    // Its last block ends with the disk; the copy is older and shorter.
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "disk.qcow2", "20972032"]);
    tool("qemu-io", &["-c", "write -P 1 1M 3M", "disk.qcow2"]);
    tool(checkmap, &["create", "disk.qcow2", "mon"]);
    tool("qemu-img", &["convert", "-O", "raw", "disk.qcow2", "copy.raw"]);
    fs::OpenOptions::new().write(true).open(&copy).and_then(|copy| copy.set_len(16 << 20)).expect("the copy is cut");
    let writes = ["write -P 2 2M 1111", "write -z 3M 128k", "write -P 3 20971520 512", "write -P 4 17M 1M"];
    tool("qemu-io", &writes.iter().flat_map(|write| ["-c", write]).chain(["disk.qcow2"]).collect::<Vec<_>>());
    let pull = format!("'{}' \"$uri\" copy.raw", client.display());
    let said = text(&tool(checkmap, &["serve", "disk.qcow2", "--since", "mon", "--run", &pull]));
    // 64 KiB, 128 KiB, 1 MiB and the last block, which ends with the disk.
    assert_eq!(said, format!("copied {} bytes\n", (64 + 128 + 1024) * 1024 + 512));
    tool("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", "disk.qcow2", "copy.raw"]);
    assert_eq!(fs::metadata(&copy).expect("the copy").len(), 20_972_032);

    let mut command = Command::new(checkmap);
    let absent = format!("'{}' \"$uri\" copy.raw qemu:dirty-bitmap:tue", client.display());
    command.arg("serve").arg(&image).args(["--since", "mon", "--run", &absent]).current_dir(&here);
    let output = command.output().expect("checkmap runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no map qemu:dirty-bitmap:tue"), "{}", told(&output));
}

/// The installed library has no debug information; the tools find it beside, by the link that is left.
fn is_light_and_can_be_debugged(lib: &Path) {
    let shared = lib.join("libcheckmap.so");
    for file in [&shared, &lib.join("libcheckmap.a")] {
        let sections = text(&run(Command::new("readelf").args(["-SW"]).arg(file)));
        assert!(!sections.contains(".debug_info"), "{} is not stripped", file.display());
    }
    let symbols = text(&run(Command::new("nm").args(["-D", "--defined-only"]).arg(&shared)));
    let address = symbols.lines().find(|line| line.ends_with(" checkmap_bitmap_new@@CHECKMAP_0"));
    let address = address.and_then(|line| line.split(' ').next()).expect("the call is exported");
    let place = text(&run(Command::new("addr2line").arg("-e").arg(&shared).arg(address)));
    assert!(place.contains("src/capi/"), "where checkmap_bitmap_new is: {place}");
    let release = fs::metadata(&shared).expect("it is there").len();
    assert!(release < 7 << 20, "{release} bytes");
}

#[test]
fn before_it_is_installed_pkg_config_finds_it_too() {
    let mut command = Command::new("pkg-config");
    command.args(["--cflags", "--libs", "--modversion", "checkmap"]).env("PKG_CONFIG_PATH", library());
    let said = text(&run(&mut command));
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
    let mut flags = Command::new("pkg-config");
    let flags = text(&run(flags.args(["--cflags", "--libs", "checkmap"]).env("PKG_CONFIG_PATH", library())));
    assert!(flags.contains(&format!("-I{}", root().join("include").display())), "{flags}");
    assert!(flags.contains(&format!("-L{}", library().display())), "{flags}");
}

#[test]
fn every_call_has_a_manual_page() {
    let folder = root().join("libcheckmap/man");
    let pages: BTreeSet<String> = fs::read_dir(&folder)
        .expect("the pages can be listed")
        .map(|entry| entry.expect("the pages can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    let wanted = map().into_iter().map(|name| name + ".3").chain(["checkmap.3".to_owned()]).collect();
    assert_eq!(pages, wanted);
}

#[test]
fn the_documents_name_only_what_there_is() {
    let header = fs::read_to_string(root().join("include/checkmap.h")).expect("the header can be read");
    for document in ["docs/embedding.md", "README.md", "libcheckmap/concepts.roff"] {
        let text = fs::read_to_string(root().join(document)).expect("the document can be read").replace("\\fB", " ");
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let ours = word.starts_with("checkmap_") || word.starts_with("CHECKMAP_");
            // What an example calls its own, and what a build system does.
            let theirs = ["checkmap_dep", "checkmap_error"].contains(&word);
            assert!(!ours || theirs || word.ends_with('_') || is_word_of(&header, word), "{document}: {word}");
        }
    }
}

fn is_word_of(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|known| known == word)
}
