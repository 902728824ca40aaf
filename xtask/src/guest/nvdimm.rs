//! NVDIMMs: files that are formatted once, in a guest that is booted for nothing else, and copied for every machine.
//!
//! Namespaces and a file system take as long to make as the rest of a boot. It also means that an ordinary boot never formats
//! anything: a machine that is switched on again cannot lose what it held to a misread of its state.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::image::Image;
use super::initrd;
use super::machine::{BOOT_LIMIT, Machine};
use super::rundir::RunDir;
use super::running::Error;

/// How many become devdax devices: the logs of a leader and of a follower.
pub const DEVDAX_COUNT: usize = 2;
/// Length of each of them; the device is some MiB shorter, for the kernel keeps its page structs there.
pub const DEVDAX_LEN_MIB: u64 = 128;
/// Length of the one that holds the fsdax file system.
pub const FSDAX_LEN_MIB: u64 = 512;
/// How many there are.
pub const COUNT: usize = DEVDAX_COUNT + 1;

/// What unmounting may take.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(60);

/// Length of the NVDIMM with this number.
pub fn len_mib(number: usize) -> u64 {
    if number < DEVDAX_COUNT { DEVDAX_LEN_MIB } else { FSDAX_LEN_MIB }
}

/// Makes an NVDIMM that has never been written.
pub fn make_blank(number: usize, at: &Path) -> std::io::Result<()> {
    File::create_new(at)?.set_len(len_mib(number) << 20)
}

/// Copies a formatted NVDIMM. The holes, which are most of it, stay holes.
pub fn copy(image: &Image, number: usize, to: &Path) -> Result<(), Error> {
    let from = template(&dir(image), number);
    let output = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto"])
        .args([&from, to])
        .output()
        .map_err(|error| Error::Unavailable(format!("cannot start cp: {error}")))?;
    if output.status.success() {
        Ok(())
    } else {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Unavailable(format!("cannot copy an NVDIMM: {why}")))
    }
}

/// Formats the NVDIMMs that [`copy`] copies, unless that has been done for this recipe. One caller at a time.
pub fn provide(image: Image) -> Result<Image, String> {
    let finished = dir(&image);
    if finished.is_dir() {
        return Ok(image);
    }
    eprintln!("guest: formatting its persistent memory (once)");
    let image = Arc::new(image);
    format(&image, &finished)
        .map_err(|error| format!("cannot format the guest's persistent memory: {error}"))?;
    Arc::into_inner(image).ok_or_else(|| "the image is in use".to_owned())
}

fn format(image: &Arc<Image>, finished: &Path) -> Result<(), Error> {
    let run_dir = Arc::new(RunDir::new().map_err(Error::Unavailable)?);
    let machine = Machine::blank(image.clone(), run_dir.clone())?;
    let mut guest = machine.power_on(Instant::now() + BOOT_LIMIT)?;
    let unmounted = guest.shell("umount $FARKEEP_GUEST_FSDAX", UNMOUNT_LIMIT)?;
    guest.kill();
    if unmounted.code != 0 {
        return Err(Error::Command(unmounted.output));
    }
    let failed = |error: std::io::Error| Error::Unavailable(format!("{}: {error}", finished.display()));
    // Beside its final name, so that an interruption leaves nothing that looks finished.
    let partial = finished.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(failed)?;
    }
    fs::create_dir_all(&partial).map_err(failed)?;
    for number in 0..COUNT {
        fs::rename(machine.nvdimm_path(number), template(&partial, number)).map_err(failed)?;
    }
    fs::rename(&partial, finished).map_err(failed)
}

/// Formatted as this version of the guest does it.
fn dir(image: &Image) -> PathBuf {
    let recipe = format!("{DEVDAX_COUNT} {DEVDAX_LEN_MIB} {FSDAX_LEN_MIB} {}", initrd::PREPARE);
    image.home().join(format!("nvdimms-{:016x}", super::image::fnv1a(&recipe)))
}

fn template(dir: &Path, number: usize) -> PathBuf {
    dir.join(number.to_string())
}
