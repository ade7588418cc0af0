//! The C library, built once for the tests of a binary, and C programs that use it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// The folder of the library, which is built with checked arithmetic beside the target folder of these tests.
pub fn folder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = tmp.join("c-lib");
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(["CARGO_PROFILE=dev", "all"]);
        make.arg(format!("CARGO={}", env::var("CARGO").unwrap_or("cargo".into())));
        make.arg(format!("C_BUILD={}", folder.display()));
        make.env("CARGO_TARGET_DIR", tmp.join("capi-target")).env_remove("MAKEFLAGS");
        succeed(&mut make);
        folder
    })
}

/// A program of this source, in `at`.
pub fn compile(source: &str, at: &Path) -> PathBuf {
    let (file, program, library) = (at.join("program.c"), at.join("program"), folder().display());
    fs::write(&file, source).expect("the source can be written");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]).arg(&file).arg("-o").arg(&program);
    cc.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"));
    cc.args([format!("-L{library}"), "-lcheckmap".into(), format!("-Wl,-rpath,{library}")]);
    succeed(&mut cc);
    program
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see ./run-tests"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
