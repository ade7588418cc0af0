//! The Python package as its users meet it: installed from this checkout into an empty environment, then tested by pytest,
//! its types by mypy. See `bindings/python`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{env, fs};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see ./run-tests"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// An environment with the pinned tools, which is made once, and anew when the list of tools changes.
fn environment() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(make_environment)
}

fn make_environment() -> PathBuf {
    let requirements = root().join("bindings/python/tests/requirements.txt");
    let wanted = fs::read(&requirements).expect("the requirements can be read");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let stamp = folder.join("requirements.txt");
    if fs::read(&stamp).ok() != Some(wanted) {
        let _ = fs::remove_dir_all(&folder);
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        run(pip(&folder).args(["install", "--quiet", "--requirement"]).arg(&requirements));
        fs::copy(&requirements, &stamp).expect("the stamp can be written");
    }
    lend_libnbd(&folder);
    folder
}

/// The example reads images by libnbd's own module, which only distributions have: their Python must be of this version.
fn lend_libnbd(environment: &Path) {
    let ask = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let output = run(Command::new(environment.join("bin/python")).args(["-c", ask]));
    let ours = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    for entry in fs::read_dir("/usr/lib/python3/dist-packages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == "nbd.py" || name.to_string_lossy().starts_with("libnbdmod.") {
            let link = ours.join(name);
            let _ = fs::remove_file(&link);
            symlink(entry.path(), link).expect("a link into the environment");
        }
    }
}

fn pip(environment: &Path) -> Command {
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    pip
}

/// Builds with the environment's maturin, in the target folder of the C tests, with arithmetic checked. One at a time, as
/// maturin moves the library that cargo built.
fn building(command: &mut Command, environment: &Path) -> Output {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = env::var_os("PATH").expect("a path");
    let folders = [environment.join("bin")].into_iter().chain(env::split_paths(&path));
    command.env("PATH", env::join_paths(folders).expect("a path"));
    command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-target"));
    command.env("MATURIN_PEP517_ARGS", "--profile dev --locked");
    run(command)
}

#[test]
fn every_behaviour_in_python() {
    let environment = environment();
    let package = root().join("bindings/python");
    let mut install = pip(environment);
    install.args(["install", "--quiet", "--no-build-isolation", "--no-deps", "--force-reinstall"]).arg(&package);
    building(&mut install, environment);
    let python = environment.join("bin/python");
    // Away from the sources, so that the installed package is tested.
    let away = env!("CARGO_TARGET_TMPDIR");
    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "--rootdir"]).arg(&package).arg("-c").arg(package.join("pyproject.toml"));
    pytest.arg(package.join("tests")).arg("--basetemp").arg(environment.join("tmp"));
    pytest.env("CHECKMAP_PROGRAM", env!("CARGO_BIN_EXE_checkmap"));
    run(pytest.current_dir(away).env("PYTHONDONTWRITEBYTECODE", "1"));
    let mut mypy = Command::new(&python);
    mypy.args(["-m", "mypy", "--strict", "--cache-dir"]).arg(environment.join("mypy"));
    run(mypy.args(["--disable-error-code=import-untyped", "-p", "checkmap"]).current_dir(away));
}

/// A wheel of `make wheel` has a tag that says which machines it is for, and works in an environment that has nothing else.
#[test]
fn a_wheel_for_other_machines() {
    let environment = environment();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wheel");
    let _ = fs::remove_dir_all(&folder);
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(root()).arg("wheel").env_remove("MAKEFLAGS");
    make.arg(format!("WHEEL_TOOLS={}", environment.display())).arg(format!("WHEELS={}", folder.display()));
    make.arg("WHEEL_FLAGS=--profile dev --compatibility pypi").env("PYTHONDONTWRITEBYTECODE", "1");
    building(&mut make, environment);
    let wheels: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("wheels are there")
        .map(|entry| entry.expect("they can be listed").path())
        .collect();
    let [wheel] = wheels.as_slice() else { panic!("one wheel is wanted: {wheels:?}") };
    let name = wheel.file_name().expect("a wheel has a name").to_string_lossy().into_owned();
    let start = format!("checkmap-{}-py3-none-manylinux_2_", env!("CARGO_PKG_VERSION"));
    let rest = name.strip_prefix(&start).unwrap_or_else(|| panic!("{name} does not begin with {start}"));
    let libc: u32 = rest.split('_').next().and_then(|number| number.parse().ok()).expect("a version of the libc");
    let here = run(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    let here = String::from_utf8_lossy(&here.stdout).trim().to_owned();
    let newest = here.rsplit('.').next().and_then(|number| number.parse().ok()).expect("glibc 2.NUMBER");
    assert!((17..=newest).contains(&libc), "{name} was built with {here}");

    let user = folder.join("user");
    run(Command::new("python3").args(["-m", "venv"]).arg(&user));
    run(pip(&user).args(["install", "--quiet"]).arg(wheel));
    let use_it = "import checkmap; b = checkmap.Bitmap(1 << 30, 4096); b.set(0, 5000); print(b.extents())";
    let said = run(Command::new(user.join("bin/python")).args(["-c", use_it]).current_dir(&folder));
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "[(0, 8192)]");
}

#[test]
fn the_source_distribution_has_all_that_it_builds_from() {
    let environment = environment();
    let dist = environment.join("dist");
    let _ = fs::remove_dir_all(&dist);
    let mut sdist = Command::new(environment.join("bin/python"));
    sdist.arg("-c").arg("import sys, build_wheel; build_wheel.build_sdist(sys.argv[1])").arg(&dist);
    fs::create_dir_all(&dist).expect("a folder for this test");
    building(sdist.current_dir(root().join("bindings/python")).env("PYTHONDONTWRITEBYTECODE", "1"), environment);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dist).expect("it can be listed") {
        let archive = entry.expect("it can be listed").path();
        let output = run(Command::new("tar").arg("-tzf").arg(archive));
        names.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
    }
    for wanted in
        ["/build_wheel.py", "/include/checkmap.h", "/checkmap/py.typed", "/src/lib.rs", "/Cargo.lock", "/PKG-INFO"]
    {
        assert!(names.iter().any(|name| name.ends_with(wanted)), "{wanted} is missing: {names:?}");
    }
}
