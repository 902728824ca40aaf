//! A pool: the directory in which a node keeps its dataset.
//!
//! `image` holds the keystore, `log` the ring of redo records with the little state that recovery starts from (it may
//! lie elsewhere: on a devdax device), `lock` keeps a second process out. Opening a pool looks before it touches: a
//! file of another version, of another program, damaged or too short is named in an error and left as it is. Making
//! a pool is crash-safe: the log gets its name only when it is whole, and a device's magic number is written last.
//!
//! A new pool is *blank*: it belongs to a node and to no dataset. The first leader founds one; a follower takes over
//! its leader's ([`Pool::adopt`]), and the leader's ring geometry with it, since the same LSN must lie at the same
//! place on both.
//!
//! Opening does not recover: which part of the log counts depends on the node's role, see [`crate::recover`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farkeep_proto::logfile::MAGIC_UNFINISHED;
use farkeep_proto::redo::chain_seed;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstatvfs};

use crate::log::geometry::Geometry;
use crate::log::ring::{LogFileError, LogIdentity, LogMap, file_len};
pub use crate::log::{EpochHistory, Reign, Replid};
use crate::log::{LogState, Position};
use crate::lsn::{Epoch, Lsn};
use crate::pmem::crash::{CrashDouble, Medium};
use crate::pmem::domain::{Domain, Durability, Persistence, dax_device, detect};
use crate::pmem::image::Image;
use crate::pmem::map::Region;

/// Length of a new ring unless configured.
pub const DEFAULT_LOG_LEN: u64 = 256 << 20;
/// Length of a new ring's segments.
pub const DEFAULT_SEGMENT_LEN: u64 = 1 << 20;
/// Address space for an image is never reserved beyond this many bytes.
const IMAGE_LEN_MAX: u64 = 16 << 40;
const IMAGE_NAME: &str = "image";
const LOG_NAME: &str = "log";
const LOCK_NAME: &str = "lock";
const UNFINISHED_LOG_NAME: &str = "log.unfinished";

/// How to open a pool.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The directory. It is made if it does not exist.
    pub path: PathBuf,
    /// Where the log lies; `None`: in the directory.
    pub log_path: Option<PathBuf>,
    /// Length of the ring in bytes, for a new log. Rounded down to whole segments; on a device, to what fits.
    pub log_len: u64,
    /// Length of a segment in bytes, for a new log; a power of two.
    pub segment_len: u64,
    /// How long the image may get; `None`: as the file system allows.
    pub max_image_len: Option<u64>,
    /// Detect the durability domain, or take this one.
    pub durability: Durability,
    /// The node's id if the pool is new: random bytes.
    pub new_node_id: [u8; 16],
}

impl PoolOptions {
    /// The pool in this directory, with defaults for everything else.
    pub fn new(path: impl Into<PathBuf>, new_node_id: [u8; 16]) -> PoolOptions {
        PoolOptions {
            path: path.into(),
            log_path: None,
            log_len: DEFAULT_LOG_LEN,
            segment_len: DEFAULT_SEGMENT_LEN,
            max_image_len: None,
            durability: Durability::Auto,
            new_node_id,
        }
    }

    fn log_path(&self) -> PathBuf {
        self.log_path.clone().unwrap_or_else(|| self.path.join(LOG_NAME))
    }
}

/// Why a pool could not be opened. No file that was there before has been touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Another process has it.
    #[error("pool {} is in use by pid {pid}", path.display())]
    InUse {
        /// The pool.
        path: PathBuf,
        /// The other process, or `?` if it has not said.
        pid: String,
    },
    /// A file could not be used at all.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file system has no room for a new log.
    #[error("{}: no room for a log of {wanted} bytes: {source}", path.display())]
    NoSpace {
        /// The log.
        path: PathBuf,
        /// How long it should have got.
        wanted: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The log is not one that this build can use.
    #[error("{}: {source}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What is wrong with it.
        source: LogFileError,
    },
    /// The image is missing or too short.
    #[error("{}: damaged image: {found} bytes, the log's checkpoint covers {expected}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it had when it was last checkpointed.
        expected: u64,
    },
    /// There is an image, but the log that belongs to it is gone.
    #[error("{}: an image without the log that belongs to it at {}", path.display(), log_path.display())]
    ImageWithoutLog {
        /// The image.
        path: PathBuf,
        /// Where the log should be.
        log_path: PathBuf,
    },
    /// The ring that was asked for is impossible.
    #[error("impossible log: a ring of {ring_len} bytes in segments of {segment_len}")]
    Geometry {
        /// The ring's length.
        ring_len: u64,
        /// A segment's length.
        segment_len: u64,
    },
    /// A pool that holds a dataset cannot take over another one.
    #[error("the pool holds dataset {}, it cannot take over dataset {}", hex(held), hex(wanted))]
    ForeignDataset {
        /// The dataset it holds.
        held: [u8; 16],
        /// The dataset it should take over.
        wanted: [u8; 16],
    },
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An open pool. Its log and image are shared with whoever works on them; nothing of it outlives the lock.
#[derive(Debug)]
pub struct Pool {
    options: PoolOptions,
    log: Arc<LogMap>,
    image: Arc<Image>,
    /// Set where the pool lies on a crash double.
    double: Option<Arc<CrashDouble>>,
    /// Keeps other processes out as long as it is open.
    _lock: Option<File>,
}

impl Pool {
    /// Opens the pool, or makes a blank one where there is none.
    pub fn open(options: &PoolOptions) -> Result<Pool, PoolError> {
        fs::create_dir_all(&options.path).map_err(io_error(&options.path, "cannot make the directory"))?;
        let lock = lock(&options.path)?;
        let (image_path, log_path) = (options.path.join(IMAGE_NAME), options.log_path());
        let image_len = match fs::metadata(&image_path) {
            Ok(metadata) => Some(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(&image_path, "cannot look at the image")(error)),
        };
        let log = open_log(options, &log_path, image_len)?;
        let state = log.state();
        // A delta sync makes the image as long as it has to be when it goes on.
        if image_len.unwrap_or(0) < state.image_len && !state.mid_sync {
            return Err(PoolError::Image {
                path: image_path,
                found: image_len.unwrap_or(0),
                expected: state.image_len,
            });
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&image_path);
        let file = file.map_err(io_error(&image_path, "cannot open the image"))?;
        if image_len.is_none() {
            sync_dir(&options.path)?;
        }
        let image = map_image(options, Arc::new(file), &image_path, None)?;
        Ok(Pool { options: options.clone(), log, image, double: None, _lock: Some(lock) })
    }

    /// The pool that lies on a crash double, or a blank one if the double holds none. Paths in `options` are for
    /// messages only.
    pub fn on_double(double: &Arc<CrashDouble>, options: &PoolOptions) -> Result<Pool, PoolError> {
        let log_path = options.log_path();
        let file = double.file(Medium::Log);
        let len = file.metadata().map_err(io_error(&log_path, "cannot look at the log"))?.len();
        let log = open_in_place(options, &log_path, file, len, None, Some(double))?;
        let image_path = options.path.join(IMAGE_NAME);
        let image = map_image(options, double.file(Medium::Image), &image_path, Some(double))?;
        let expected = log.state().image_len;
        if image.allocated() < expected && !log.state().mid_sync {
            return Err(PoolError::Image { path: image_path, found: image.allocated(), expected });
        }
        Ok(Pool { options: options.clone(), log, image, double: Some(Arc::clone(double)), _lock: None })
    }

    /// The log.
    pub fn log(&self) -> &Arc<LogMap> {
        &self.log
    }

    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// Where the log lies.
    pub fn log_path(&self) -> PathBuf {
        self.options.log_path()
    }

    /// The node that the pool belongs to.
    pub fn node_id(&self) -> [u8; 16] {
        self.log.node_id()
    }

    /// The dataset in the pool, if there is one.
    pub fn dataset_id(&self) -> Option<[u8; 16]> {
        let state = self.log.state();
        (!state.is_blank()).then_some(state.dataset_id)
    }

    /// Whether the pool holds no dataset yet.
    pub fn is_blank(&self) -> bool {
        self.log.state().is_blank()
    }

    /// The weaker of the two files' durability domains: what an acknowledgement rests on.
    pub fn domain(&self) -> Domain {
        self.log.region().persistence().domain.min(self.image.persistence().domain)
    }

    /// Makes a blank pool one of this dataset, with a ring of this geometry. For a pool that holds the dataset
    /// already with this geometry nothing changes; any other one is an error. If the geometry differs, the log is
    /// made anew and [`Pool::log`] is another one afterwards, so nobody may hold the old one.
    pub fn adopt(&mut self, dataset_id: [u8; 16], geometry: Geometry) -> Result<(), PoolError> {
        let state = self.log.state();
        let same_geometry = self.log.geometry() == geometry;
        if !state.is_blank() {
            return match (state.dataset_id == dataset_id, same_geometry) {
                (true, true) => Ok(()),
                (true, false) => Err(PoolError::Geometry {
                    ring_len: geometry.ring_len(),
                    segment_len: geometry.segment_len(),
                }),
                (false, _) => Err(PoolError::ForeignDataset { held: state.dataset_id, wanted: dataset_id }),
            };
        }
        if !same_geometry {
            self.remake_log(geometry)?;
        }
        self.found(dataset_id)
    }

    /// Makes a blank pool one of this new dataset.
    pub(crate) fn found(&self, dataset_id: [u8; 16]) -> Result<(), PoolError> {
        assert!(dataset_id != [0; 16], "all zero means no dataset");
        // What an abandoned dataset left behind must not show through where records store nothing.
        if self.image.allocated() > 0 && self.double.is_none() {
            self.clear_image()?;
        }
        let founded = self.log.update_state(|state| {
            assert!(state.is_blank(), "the pool holds a dataset");
            let checkpoint = Position { lsn: Lsn::ZERO, crc: chain_seed(&dataset_id), epoch: Epoch::ZERO };
            *state = LogState { dataset_id, checkpoint, promised: state.promised, ..LogState::default() };
        });
        founded.map_err(io_error(&self.log_path(), "cannot write the log's state"))
    }

    /// Gives the dataset up for good: the pool is blank afterwards, its image empty. Nothing else may be working on the
    /// pool, and nobody may read the image. A crash half-way leaves a blank pool whose image is emptied when the pool
    /// is next founded.
    pub fn abandon(&mut self) -> Result<(), PoolError> {
        self.log.set_gate(0);
        let blank = self.log.update_state(|state| *state = LogState::default());
        blank.map_err(io_error(&self.log_path(), "cannot write the log's state"))?;
        self.clear_image()
    }

    fn clear_image(&self) -> Result<(), PoolError> {
        let path = self.options.path.join(IMAGE_NAME);
        self.image.clear().map_err(io_error(&path, "cannot empty the image"))
    }

    fn remake_log(&mut self, geometry: Geometry) -> Result<(), PoolError> {
        let path = self.log_path();
        let node_id = self.node_id();
        let identity = LogIdentity { node_id, geometry };
        let file = Arc::clone(self.log.region().file());
        let is_device = file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device());
        self.log = if is_device || self.double.is_some() {
            // The old magic number goes first, so that a crash leaves a log that is plainly unfinished.
            file_len_check(&file, &path, identity.file_len())?;
            let region = map_log(&path, file, identity.file_len(), &self.options, self.double.as_ref())?;
            LogMap::format(&region, identity).map_err(io_error(&path, "cannot write the log"))?;
            Arc::new(LogMap::open(region, identity).map_err(log_error(&path))?)
        } else {
            make_log_file(&self.options, &path, identity)?;
            reopen_log(&self.options, &path)?
        };
        Ok(())
    }
}

fn io_error<'a>(path: &'a Path, what: &'static str) -> impl Fn(io::Error) -> PoolError + 'a {
    move |source| PoolError::Io { path: path.to_owned(), what, source }
}

fn log_error(path: &Path) -> impl Fn(LogFileError) -> PoolError + '_ {
    move |source| PoolError::Log { path: path.to_owned(), source }
}

fn sync_dir(path: &Path) -> Result<(), PoolError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(io_error(path, "cannot make the directory's entries persistent"))
}

/// Takes the pool for this process.
fn lock(dir: &Path) -> Result<File, PoolError> {
    let path = dir.join(LOCK_NAME);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(io_error(&path, "cannot open the lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let noted = file
                .set_len(0)
                .and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
            // The pid is a courtesy to the next one who asks; the lock holds without it (on a full disk, say).
            if let Err(error) = noted {
                tracing::debug!(%error, "the lock file does not tell this process's pid");
            }
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.trim().is_empty() { "?" } else { pid.trim() };
            Err(PoolError::InUse { path: dir.to_owned(), pid: pid.to_owned() })
        }
        Err(error) => Err(io_error(&path, "cannot lock the pool")(error.into())),
    }
}

/// The pid of the process that has the pool open, if one has. Takes nothing.
pub(crate) fn lock_holder(dir: &Path) -> Option<String> {
    let path = dir.join(LOCK_NAME);
    let file = File::open(&path).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => Some(fs::read_to_string(&path).unwrap_or_default().trim().to_owned()),
    }
}

fn new_geometry(options: &PoolOptions, room: Option<u64>) -> Result<Geometry, PoolError> {
    let (asked, segment_len) = (options.log_len, options.segment_len);
    let wanted = match room {
        Some(room) => asked.min(room.saturating_sub(file_len(0))),
        None => asked,
    };
    let ring_len = wanted.checked_div(segment_len).unwrap_or(0) * segment_len;
    Geometry::new(ring_len, segment_len).ok_or(PoolError::Geometry { ring_len, segment_len })
}

fn open_log(options: &PoolOptions, path: &Path, image_len: Option<u64>) -> Result<Arc<LogMap>, PoolError> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error(path, "cannot open the log")(error)),
    };
    if let Some(file) = file {
        if let Some(device) = dax_device(&file).map_err(io_error(path, "cannot use the device"))? {
            return open_in_place(options, path, Arc::new(file), device.len, Some(device.align), None);
        }
        if file.metadata().map_err(io_error(path, "cannot look at the log"))?.len() > 0 {
            return reopen_log(options, path);
        }
    }
    if image_len.is_some_and(|len| len > 0) {
        let image = options.path.join(IMAGE_NAME);
        return Err(PoolError::ImageWithoutLog { path: image, log_path: path.to_owned() });
    }
    make_log_file(
        options,
        path,
        LogIdentity { node_id: options.new_node_id, geometry: new_geometry(options, None)? },
    )?;
    reopen_log(options, path)
}

/// Opens a log file that was made before.
fn reopen_log(options: &PoolOptions, path: &Path) -> Result<Arc<LogMap>, PoolError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = Arc::new(file.map_err(io_error(path, "cannot open the log"))?);
    let identity = read_identity(&file, path)?;
    let found = file.metadata().map_err(io_error(path, "cannot look at the log"))?.len();
    check_length(identity, found).map_err(log_error(path))?;
    let region = map_log(path, file, identity.file_len(), options, None)?;
    Ok(Arc::new(LogMap::open(region, identity).map_err(log_error(path))?))
}

pub(crate) fn check_length(identity: LogIdentity, found: u64) -> Result<(), LogFileError> {
    let (expected, ring_len) = (identity.file_len(), identity.geometry.ring_len());
    if found < expected { Err(LogFileError::Truncated { found, expected, ring_len }) } else { Ok(()) }
}

pub(crate) fn read_identity(file: &File, path: &Path) -> Result<LogIdentity, PoolError> {
    LogIdentity::parse(&read_head(file).map_err(io_error(path, "cannot read the log"))?)
        .map_err(log_error(path))
}

fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; 4096];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// Opens a log on memory that cannot be renamed into place, of `len` bytes (0 for a double that can still grow): a
/// device, or the crash double. One whose head is all zero, or unfinished, becomes a new log.
fn open_in_place(
    options: &PoolOptions,
    path: &Path,
    file: Arc<File>,
    len: u64,
    align: Option<u64>,
    double: Option<&Arc<CrashDouble>>,
) -> Result<Arc<LogMap>, PoolError> {
    let probe_len = if double.is_some() { len } else { align.unwrap_or(1).max(64 << 10) };
    // A devdax device cannot be read, only mapped.
    let head = match (len, double) {
        (0, _) => vec![0; 4096],
        (_, Some(_)) => read_head(&file).map_err(io_error(path, "cannot read the log"))?,
        _ => map_log(path, Arc::clone(&file), probe_len, options, None)?.bytes(0, 64 << 10).to_vec(),
    };
    let is_new = head.iter().all(|&byte| byte == 0) || head.starts_with(&MAGIC_UNFINISHED);
    let identity = if is_new {
        let room = if double.is_some() { None } else { Some(len) };
        LogIdentity { node_id: options.new_node_id, geometry: new_geometry(options, room)? }
    } else {
        let identity = LogIdentity::parse(&head).map_err(log_error(path))?;
        check_length(identity, len).map_err(log_error(path))?;
        identity
    };
    if double.is_some() && is_new {
        file_len_check(&file, path, identity.file_len())?;
    }
    let map_len = identity.file_len().next_multiple_of(align.unwrap_or(1));
    let region = map_log(path, file, map_len, options, double)?;
    if is_new {
        LogMap::format(&region, identity).map_err(io_error(path, "cannot write the log"))?;
    }
    Ok(Arc::new(LogMap::open(region, identity).map_err(log_error(path))?))
}

/// Makes a double's file long enough; a device must be already.
fn file_len_check(file: &File, path: &Path, len: u64) -> Result<(), PoolError> {
    if let Some(device) = dax_device(file).map_err(io_error(path, "cannot use the device"))? {
        let wanted = len.next_multiple_of(device.align);
        if device.len < wanted {
            let source = io::ErrorKind::StorageFull.into();
            return Err(PoolError::NoSpace { path: path.to_owned(), wanted, source });
        }
        return Ok(());
    }
    file.set_len(len).map_err(|source| PoolError::NoSpace { path: path.to_owned(), wanted: len, source })
}

/// Makes a whole, empty log file and gives it its name.
fn make_log_file(options: &PoolOptions, path: &Path, identity: LogIdentity) -> Result<(), PoolError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = match &options.log_path {
        None => options.path.join(UNFINISHED_LOG_NAME),
        Some(_) => path.with_added_extension("unfinished"),
    };
    let made = (|| {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished);
        let file = Arc::new(file.map_err(io_error(&unfinished, "cannot make the log"))?);
        let len = identity.file_len();
        let no_space = |source| PoolError::NoSpace { path: path.to_owned(), wanted: len, source };
        fallocate(&*file, FallocateFlags::empty(), 0, len).map_err(|errno| no_space(errno.into()))?;
        let region = map_log(&unfinished, Arc::clone(&file), len, options, None)?;
        if !region.persistence().by_instructions() {
            // On a disk every block is written once, so that an fdatasync later finds no metadata to write.
            let zeros = vec![0; 1 << 20];
            for at in (0..len).step_by(zeros.len()) {
                let part = (zeros.len() as u64).min(len - at) as usize;
                file.write_all_at(&zeros[..part], at).map_err(no_space)?;
            }
        }
        LogMap::format(&region, identity).map_err(no_space)?;
        file.sync_all().map_err(no_space)?;
        fs::rename(&unfinished, path).map_err(io_error(path, "cannot name the log"))?;
        sync_dir(dir)
    })();
    if made.is_err() {
        // What is left of the attempt only takes space; the error that is reported is the one that matters.
        let _ = fs::remove_file(&unfinished);
    }
    made
}

fn persistence(path: &Path, file: &File, options: &PoolOptions) -> Result<Persistence, PoolError> {
    detect(file, options.durability).map_err(io_error(path, "cannot find out the durability domain"))
}

fn map_log(
    path: &Path,
    file: Arc<File>,
    len: u64,
    options: &PoolOptions,
    double: Option<&Arc<CrashDouble>>,
) -> Result<Region, PoolError> {
    let persistence = persistence(path, &file, options)?;
    let region = Region::map(file, len, persistence, &path.to_string_lossy());
    let region = region.map_err(io_error(path, "cannot map the log"))?;
    Ok(match double {
        Some(double) => region.with_double(Arc::clone(double), Medium::Log),
        None => region,
    })
}

fn map_image(
    options: &PoolOptions,
    file: Arc<File>,
    path: &Path,
    double: Option<&Arc<CrashDouble>>,
) -> Result<Arc<Image>, PoolError> {
    let persistence = persistence(path, &file, options)?;
    let max_len = match options.max_image_len {
        Some(len) => len,
        None => {
            let system = fstatvfs(&*file)
                .map_err(|error| io_error(path, "cannot look at the file system")(error.into()))?;
            system.f_blocks.saturating_mul(system.f_frsize).max(1 << 30)
        }
    };
    let image =
        Image::map(file, max_len.min(IMAGE_LEN_MAX), persistence, &path.to_string_lossy(), double.cloned());
    Ok(Arc::new(image.map_err(io_error(path, "cannot map the image"))?))
}
