//! What the guest of `cargo xtask guest --suite` has for a test `guest_...`.

use std::env;
use std::path::PathBuf;

/// The two devdax devices.
pub fn devdax() -> [PathBuf; 2] {
    [named("FARKEEP_GUEST_DEVDAX"), named("FARKEEP_GUEST_DEVDAX2")]
}

/// Where the fsdax file system is mounted.
pub fn fsdax() -> PathBuf {
    named("FARKEEP_GUEST_FSDAX")
}

#[track_caller]
fn named(variable: &str) -> PathBuf {
    env::var_os(variable)
        .map_or_else(|| panic!("{variable} is set in the guest: cargo xtask guest"), PathBuf::from)
}
