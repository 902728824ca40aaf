//! What the guest of `cargo xtask guest --suite` has for a test `guest_...`.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use farkeep_core::pmem::domain::{Durability, dax_device, detect};
use farkeep_core::pmem::map::Region;

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

/// The devdax devices with nothing on them: a pool that is given one makes a new log there.
pub fn blank_devdax() -> [PathBuf; 2] {
    let devices = devdax();
    for path in &devices {
        let file = Arc::new(File::options().read(true).write(true).open(path).expect("the guest made it"));
        let device = dax_device(&file).expect("sysfs knows it").expect("a devdax device");
        let persistence = detect(&file, Durability::Auto).expect("a devdax device is persistent memory");
        let region = Region::map(file, device.len, persistence, "devdax").expect("it can be mapped");
        let zeroes = vec![0; 1 << 20];
        for at in (0..device.len).step_by(zeroes.len()) {
            let len = (device.len - at).min(zeroes.len() as u64);
            region.store(at, &zeroes[..len as usize]);
        }
    }
    devices
}
