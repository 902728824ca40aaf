//! Where a test is: in the guest of `cargo xtask guest --suite`, which has an RDMA device and persistent memory, or elsewhere.
//!
//! A test `guest_...` begins with `if !guest::is_here() { return }`, a test `pair_...`, which boots guests itself, with
//! `if !guest::may_boot() { return }`.

use std::env;
use std::path::PathBuf;

/// Whether this is the guest; says so if not.
pub fn is_here() -> bool {
    says_yes("FARKEEP_GUEST")
}

/// Whether this test is meant to boot guests; says so if not.
pub fn may_boot() -> bool {
    says_yes("FARKEEP_GUEST_PAIR")
}

/// The two devdax devices.
pub fn devdax() -> [PathBuf; 2] {
    [named("FARKEEP_GUEST_DEVDAX"), named("FARKEEP_GUEST_DEVDAX2")]
}

/// Where the fsdax file system is mounted.
pub fn fsdax() -> PathBuf {
    named("FARKEEP_GUEST_FSDAX")
}

fn says_yes(variable: &str) -> bool {
    let yes = env::var_os(variable).is_some_and(|value| value == "1");
    if !yes {
        eprintln!("skipped here: cargo xtask guest --suite runs it");
    }
    yes
}

#[track_caller]
fn named(variable: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| panic!("the guest sets {variable}"), PathBuf::from)
}
