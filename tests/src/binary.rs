//! Where the binaries under test are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The farkeep binary: what `FARKEEP_BIN` names, else the one of the running test's own target directory and profile, brought
/// up to date by cargo first (once per test process; a build that has nothing to do takes a fraction of a second).
pub fn farkeep() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("FARKEEP_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "FARKEEP_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// Runs farkeep with these arguments until it ends.
pub fn run_farkeep<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new(farkeep()).args(args).stdin(Stdio::null()).output().expect("farkeep can be started")
}

/// Debian's redis-server.
pub fn redis_server() -> PathBuf {
    in_path("redis-server")
}

/// Debian's redis-sentinel.
pub fn redis_sentinel() -> PathBuf {
    in_path("redis-sentinel")
}

/// Debian's redis-cli.
pub fn redis_cli() -> PathBuf {
    in_path("redis-cli")
}

/// Debian's redis-benchmark.
pub fn redis_benchmark() -> PathBuf {
    in_path("redis-benchmark")
}

/// Debian's Python, which sees Debian's redis-py; another `python3` earlier in the path would not.
pub fn python() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/python3");
    if debian.is_file() { debian } else { in_path("python3") }
}

fn in_path(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run scripts/setup test"))
}

fn build() -> PathBuf {
    // The test runs as <target>/<profile>/deps/<test>-<hash>.
    let test = std::env::current_exe().expect("the path of the running test");
    let profile_dir = test.parent().and_then(Path::parent).expect("a test lives in <target>/<profile>/deps");
    let target_dir = profile_dir.parent().expect("a profile's directory lives in the target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(other) => other,
        None => panic!("cannot tell the profile from {}", test.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "farkeep", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root"))
        .output()
        .expect("cargo can be started");
    assert!(
        output.status.success(),
        "building the farkeep binary failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    profile_dir.join("farkeep")
}
