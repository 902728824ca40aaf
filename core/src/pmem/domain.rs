//! What it takes on a given medium for bytes to survive, found out and not assumed.
//!
//! The durability domain belongs to a file: a pool's log may lie on a devdax device and its image on an fsdax file.
//! It is detected when the pool is opened and shown to the operator, who may also dictate it. Nothing here outlives
//! the process, so a pool that has moved to another medium is simply detected anew.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{fstatfs, major, minor};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::persist::{Writeback, caches_are_persistent};

/// What survives, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Domain {
    /// Survives the process, not a power cut. Persisting executes the same instructions as on persistent memory.
    Volatile,
    /// Survives a power cut once `fdatasync` has returned.
    Disk,
    /// Survives a power cut once the cache lines have been written back and fenced.
    Pmem,
}

impl Domain {
    /// The name that configuration and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Domain::Pmem => "pmem",
            Domain::Disk => "disk",
            Domain::Volatile => "volatile",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The operator's choice: detect the domain, or take this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// Detect it.
    #[default]
    Auto,
    /// Take this one, whatever the medium is.
    Forced(Domain),
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(name: &str) -> Result<Durability, String> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Ok(Durability::Auto),
            "pmem" => Ok(Durability::Forced(Domain::Pmem)),
            "disk" => Ok(Durability::Forced(Domain::Disk)),
            "volatile" => Ok(Durability::Forced(Domain::Volatile)),
            _ => Err(format!("durability '{name}' is none of auto, pmem, disk, volatile")),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Auto => "auto",
            Durability::Forced(domain) => domain.name(),
        })
    }
}

/// A file's durability domain and how bytes get into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persistence {
    /// What survives, and when.
    pub domain: Domain,
    /// How a cache line is written back where that is what persisting takes.
    pub writeback: Writeback,
    /// Whether the kernel promises that a page that can be stored to has its place on the medium (`MAP_SYNC`).
    pub map_sync: bool,
    /// How this was found out, for people.
    pub why: String,
}

impl Persistence {
    /// Whether persisting is write-back and fence, and not a system call.
    #[inline]
    pub fn by_instructions(&self) -> bool {
        self.domain != Domain::Disk
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.domain, self.why)?;
        if self.by_instructions() {
            write!(f, ", {}", self.writeback.name())?;
        }
        f.write_str(")")
    }
}

/// A devdax device, as sysfs describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DaxDevice {
    /// Its length in bytes.
    pub len: u64,
    /// What a mapping's length and offset must be multiples of.
    pub align: u64,
}

/// Where sysfs shows the character device with this number.
fn dax_sysfs(rdev: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/char/{}:{}", major(rdev), minor(rdev)))
}

/// Length and alignment of a devdax device, `None` for a file that is no character device. A character device that
/// is not devdax is an error: mapping `/dev/zero` would be a log that keeps nothing.
pub fn dax_device(file: &File) -> io::Result<Option<DaxDevice>> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_char_device() {
        return Ok(None);
    }
    read_dax_sysfs(&dax_sysfs(metadata.rdev())).map(Some)
}

fn read_dax_sysfs(dir: &Path) -> io::Result<DaxDevice> {
    let subsystem = fs::canonicalize(dir.join("subsystem"))?;
    if !subsystem.ends_with("dax") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a character device that is not devdax"));
    }
    let number = |file: &str| -> io::Result<u64> {
        let text = fs::read_to_string(dir.join(file))?;
        let text = text.trim();
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{file} of devdax: {error}")))
    };
    let len = number("size")?;
    let align = number("align").or_else(|_| number("device/align")).unwrap_or(2 << 20);
    Ok(DaxDevice { len, align })
}

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Whether a file lies in the page cache and nowhere else.
pub(super) fn is_tmpfs(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.f_type as u64 == TMPFS_MAGIC)
}

/// Finds out the domain of a file, or takes the operator's word for it.
pub fn detect(file: &File, durability: Durability) -> io::Result<Persistence> {
    let device = dax_device(file)?;
    let map_sync = device.is_some() || map_sync_accepted(file)?;
    let (found, found_why) = if device.is_some() {
        (Domain::Pmem, "devdax".to_owned())
    } else if map_sync {
        (Domain::Pmem, "fsdax, MAP_SYNC".to_owned())
    } else {
        match fstatfs(file)?.f_type as u64 {
            TMPFS_MAGIC => (Domain::Volatile, "tmpfs".to_owned()),
            RAMFS_MAGIC => (Domain::Volatile, "ramfs".to_owned()),
            HUGETLBFS_MAGIC => (Domain::Volatile, "hugetlbfs".to_owned()),
            other => (Domain::Disk, format!("file system {other:#x}, no MAP_SYNC")),
        }
    };
    let (domain, why) = match durability {
        Durability::Auto => (found, found_why),
        Durability::Forced(domain) if domain == found => (found, found_why),
        Durability::Forced(domain) => (domain, format!("as configured; detected {found}: {found_why}")),
    };
    if device.is_some() && domain == Domain::Disk {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a devdax device cannot be used as a disk"));
    }
    let eadr = domain == Domain::Pmem && map_sync && caches_are_persistent(Path::new("/sys/bus/nd/devices"));
    let writeback = if eadr { Writeback::Nothing } else { Writeback::of_this_cpu() };
    Ok(Persistence { domain, writeback, map_sync, why })
}

fn map_sync_accepted(file: &File) -> io::Result<bool> {
    let flags = MapFlags::SHARED_VALIDATE | MapFlags::SYNC;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing, and nobody touches it before it is
    // taken away again.
    let mapped = unsafe { mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, flags, file, 0) };
    match mapped {
        Ok(base) => {
            // SAFETY: this is the mapping just made, and nothing points into it.
            unsafe { munmap(base, 4096) }?;
            Ok(true)
        }
        Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_is_volatile_unless_the_operator_says_otherwise() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        let file =
            File::options().read(true).write(true).create_new(true).open(dir.path().join("f")).unwrap();
        let found = detect(&file, Durability::Auto).unwrap();
        assert_eq!((found.domain, found.map_sync), (Domain::Volatile, false));
        assert!(found.by_instructions());
        let forced = detect(&file, "pmem".parse().unwrap()).unwrap();
        assert_eq!(forced.domain, Domain::Pmem);
        assert!(forced.why.contains("detected volatile: tmpfs"), "{}", forced.why);
        assert!(!detect(&file, "disk".parse().unwrap()).unwrap().by_instructions());
        assert!("nvme".parse::<Durability>().is_err());
    }

    #[test]
    fn a_character_device_that_is_not_devdax_is_refused() {
        let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
        assert!(detect(&zero, Durability::Auto).is_err());
    }

    #[test]
    fn sysfs_tells_length_and_alignment_of_devdax() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dax")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("dax"), dir.path().join("subsystem")).unwrap();
        fs::write(dir.path().join("size"), "528482304\n").unwrap();
        fs::write(dir.path().join("align"), "4096\n").unwrap();
        assert_eq!(read_dax_sysfs(dir.path()).unwrap(), DaxDevice { len: 528_482_304, align: 4096 });
        fs::remove_file(dir.path().join("size")).unwrap();
        assert!(read_dax_sysfs(dir.path()).is_err());
    }
}
