//! The Python package as its users meet it: installed from this checkout into an empty environment, then tested by pytest,
//! its types by mypy. See `bindings/python`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
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

/// An environment with the pinned tools, which is made once, and anew when what is asked for changes.
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
    folder
}

fn pip(environment: &Path) -> Command {
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "--disable-pip-version-check"]);
    pip
}

/// Builds with the environment's maturin, in the target folder of the C tests, with arithmetic checked.
fn building(command: &mut Command, environment: &Path) -> Output {
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
    // Away from the sources: what is tested is what was installed.
    let away = env!("CARGO_TARGET_TMPDIR");
    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "--rootdir"]).arg(&package).arg("-c").arg(package.join("pyproject.toml"));
    pytest.arg(package.join("tests")).arg("--basetemp").arg(environment.join("tmp"));
    run(pytest.current_dir(away).env("PYTHONDONTWRITEBYTECODE", "1"));
    let mut mypy = Command::new(&python);
    mypy.args(["-m", "mypy", "--strict", "--cache-dir"]).arg(environment.join("mypy"));
    run(mypy.args(["--disable-error-code=import-untyped", "-p", "checkmap"]).current_dir(away));
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
