//! What a pool holds, told without opening it for service.
//!
//! Inspection maps the log read-only, takes no lock and changes nothing, so it may look at a pool that a node is
//! using; what it says about the end of the log is then already past. It looks at the log alone: what is in the image
//! is for those to check who know its structures. For them there is [`contents`], of a pool that they have opened.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::heap::{Heap, ImageSource};
use crate::log::ring::LogMap;
use crate::log::{LogState, Stop};
use crate::pmem::domain::{Durability, Persistence, dax_device, detect};
use crate::pmem::image::Image;
use crate::pmem::map::Region;
use crate::pmem::mem::Mem;
use crate::pool::{Pool, PoolError, check_length, hex, lock_holder, read_identity};
use crate::recover::{RecoverError, Survey, redo_uncommitted, survey};

/// What a look at a pool has found.
#[derive(Debug)]
pub struct Report {
    /// The pool.
    pub path: PathBuf,
    /// Where its log lies.
    pub log_path: PathBuf,
    /// The pid of the process that has it open.
    pub in_use_by: Option<String>,
    /// The node that the pool belongs to.
    pub node_id: [u8; 16],
    /// Length of the ring in bytes.
    pub ring_len: u64,
    /// Length of a segment in bytes.
    pub segment_len: u64,
    /// The persistent state.
    pub state: LogState,
    /// What the log holds from the checkpoint on; `None` for a blank pool.
    pub survey: Option<Survey>,
    /// Length of the image file in bytes.
    pub image_file_len: u64,
    /// The log's durability domain.
    pub log_persistence: Persistence,
    /// The image's durability domain; `None` if there is no image.
    pub image_persistence: Option<Persistence>,
}

impl Report {
    /// What is wrong with the log, in words; empty if nothing is.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.image_file_len < self.state.image_len {
            findings.push(format!(
                "the image is {} bytes long, the checkpoint covers {}",
                self.image_file_len, self.state.image_len
            ));
        }
        if let Some(survey) = &self.survey {
            if let Some(committed) = survey.lost_committed {
                findings.push(format!(
                    "the log ends at LSN {} ({}), but it was committed up to {committed}",
                    survey.end.lsn, survey.stop
                ));
            }
            if let Stop::Malformed(malformed) = survey.stop {
                findings.push(format!("the record behind LSN {}: {malformed}", survey.end.lsn));
            }
        }
        if self.state.mid_sync {
            findings.push("the image is in the middle of a sync".to_owned());
        }
        findings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &self.state;
        writeln!(f, "pool            {}", self.path.display())?;
        writeln!(f, "log             {}", self.log_path.display())?;
        if let Some(pid) = &self.in_use_by {
            writeln!(f, "in use by       pid {pid}")?;
        }
        writeln!(f, "node            {}", hex(&self.node_id))?;
        if state.is_blank() {
            writeln!(f, "dataset         none yet")?;
        } else {
            writeln!(f, "dataset         {}", hex(&state.dataset_id))?;
        }
        writeln!(f, "ring            {} bytes in segments of {}", self.ring_len, self.segment_len)?;
        writeln!(f, "durability      log {}", self.log_persistence)?;
        if let Some(persistence) = &self.image_persistence {
            writeln!(f, "                image {persistence}")?;
        }
        writeln!(f, "image           {} bytes, file {} bytes", state.image_len, self.image_file_len)?;
        writeln!(f, "checkpoint_lsn  {}", state.checkpoint.lsn)?;
        if let Some(survey) = &self.survey {
            writeln!(f, "committed_lsn   {} (at least)", survey.committed)?;
            writeln!(f, "durable_lsn     {}", survey.end.lsn)?;
            writeln!(
                f,
                "to replay       {} transactions in {} records",
                survey.transactions, survey.records
            )?;
            writeln!(f, "log ends        {}", survey.stop)?;
        }
        writeln!(f, "promised epoch  {}", state.promised.epoch)?;
        if state.followed.get() > 0 {
            writeln!(f, "followed epoch  {}", state.followed)?;
        }
        for reign in state.history.reigns() {
            writeln!(f, "epoch {:<9} from LSN {}, replid {}", reign.epoch, reign.start, reign.replid)?;
        }
        Ok(())
    }
}

/// Looks at the pool in this directory, whose log lies at `log_path` if not in it.
pub fn inspect(path: &Path, log_path: Option<&Path>) -> Result<Report, PoolError> {
    let log_path = log_path.map_or_else(|| path.join("log"), Path::to_owned);
    let image_path = path.join("image");
    let file = Arc::new(File::open(&log_path).map_err(io_error(&log_path, "cannot open the log"))?);
    let device = dax_device(&file).map_err(io_error(&log_path, "cannot use the device"))?;
    let log_persistence = detect(&file, Durability::Auto)
        .map_err(io_error(&log_path, "cannot find out the durability domain"))?;
    let map = |len: u64| {
        let len = len.next_multiple_of(device.map_or(1, |device| device.align));
        Region::map_read_only(Arc::clone(&file), len, log_persistence.clone(), &log_path.to_string_lossy())
            .map_err(io_error(&log_path, "cannot map the log"))
    };
    let log_error = |source| PoolError::Log { path: log_path.clone(), source };
    let identity = match device {
        // A devdax device cannot be read, only mapped.
        Some(_) => crate::log::ring::LogIdentity::parse(map(64 << 10)?.bytes(0, 4096)).map_err(log_error)?,
        None => read_identity(&file, &log_path)?,
    };
    let found = match device {
        Some(device) => device.len,
        None => file.metadata().map_err(io_error(&log_path, "cannot look at the log"))?.len(),
    };
    check_length(identity, found).map_err(log_error)?;
    let log = LogMap::open(map(identity.file_len())?, identity).map_err(log_error)?;
    let state = log.state();
    let image = match File::open(&image_path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error(&image_path, "cannot open the image")(error)),
    };
    let image_persistence = match &image {
        Some(image) => Some(
            detect(image, Durability::Auto)
                .map_err(io_error(&image_path, "cannot find out the durability domain"))?,
        ),
        None => None,
    };
    Ok(Report {
        path: path.to_owned(),
        in_use_by: lock_holder(path),
        node_id: identity.node_id,
        ring_len: identity.geometry.ring_len(),
        segment_len: identity.geometry.segment_len(),
        survey: (!state.is_blank()).then(|| survey(&log)),
        state,
        image_file_len: fs::metadata(&image_path).map_or(0, |metadata| metadata.len()),
        log_persistence,
        image_persistence,
        log_path,
    })
}

/// All that the pool holds durably, as a leader would serve it: the image, and on top of it, in memory only, what the log
/// has behind the checkpoint. Neither file is stored to.
///
/// # Errors
/// When the image is not one, or the log does not fit to it.
pub fn contents(pool: &Pool) -> Result<Heap, RecoverError> {
    let log = pool.log();
    let state = log.state();
    let mut heap = Heap::open(Arc::new(FixedImage(Arc::clone(pool.image()))), state.image_len)?;
    if heap.is_formatted() {
        Heap::check_identity(heap.view(), u64::MAX, state.dataset_id)?;
    }
    redo_uncommitted(log, &mut heap, state.checkpoint, survey(log).end.lsn)?;
    Ok(heap)
}

/// An image that is looked at. A transaction that grew the image had allocated the space before its record was appended, so
/// an image that would have to grow now has been cut.
#[derive(Debug)]
struct FixedImage(Arc<Image>);

impl ImageSource for FixedImage {
    fn memory(&self) -> Mem {
        self.0.memory()
    }

    fn max_len(&self) -> u64 {
        self.0.max_len()
    }

    fn grow_to(&self, len: u64) -> io::Result<()> {
        let found = self.0.allocated();
        if len <= found {
            return Ok(());
        }
        let text = format!("the image file has {found} bytes, its log says it has grown to {len}");
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }

    fn drop_private(&self, at: u64, len: u64) -> io::Result<()> {
        self.0.drop_private(at, len)
    }
}

fn io_error<'a>(path: &'a Path, what: &'static str) -> impl Fn(io::Error) -> PoolError + 'a {
    move |source| PoolError::Io { path: path.to_owned(), what, source }
}
