//! What to do about an error that keeps a node from starting, or a pool from being looked at.
//!
//! The crates below say what is wrong and where. What a person at a terminal can do about it depends on the
//! command line, so it is said here.

use std::io::ErrorKind;

use farkeep_core::heap::HeapError;
use farkeep_core::log::LogFileError;
use farkeep_core::pool::PoolError;
use farkeep_core::recover::RecoverError;
use rustix::io::Errno;

const NOT_ITS_IMAGE: &str = "nothing was touched; bring the image back from where the log comes from, or move the pool away and let \
                             this node follow one that holds the data";

/// A few words for the end of the error's line, if anything can be done.
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let pool = cause.downcast_ref::<PoolError>().and_then(about_pool);
        pool.or_else(|| cause.downcast_ref::<RecoverError>().and_then(about_recovery))
            .or_else(|| cause.downcast_ref::<Errno>().and_then(|errno| about_listening(*errno)))
    })
}

fn about_listening(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::ADDRINUSE => Some("another process has the port: stop it, or choose another one with --port"),
        Errno::ADDRNOTAVAIL => Some("no interface of this host has the address: choose others with --bind"),
        Errno::ACCESS => {
            Some("ports below 1024 are for privileged processes: choose another one with --port")
        }
        _ => None,
    }
}

fn about_pool(error: &PoolError) -> Option<&'static str> {
    match error {
        PoolError::InUse { .. } => Some("stop that process, or choose another directory with --pool"),
        PoolError::NoSpace { .. } => {
            Some("make room, or choose a smaller --log-size or another directory with --pool")
        }
        PoolError::Log { source, .. } => about_log(source),
        PoolError::Image { .. } => Some(NOT_ITS_IMAGE),
        PoolError::ImageWithoutLog { .. } => Some("nothing was touched; say where the log is with --log"),
        PoolError::Geometry { .. } => Some("choose another --log-size"),
        PoolError::ForeignDataset { .. } => {
            Some("nothing was touched; move the pool away if its data is not wanted any more")
        }
        PoolError::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some(
                "the pool must be writable for this user; choose another directory with --pool if it cannot be",
            ),
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                Some("a pool is a directory; choose another one with --pool")
            }
            ErrorKind::StorageFull => Some("make room, or choose another directory with --pool"),
            _ => None,
        },
        _ => None,
    }
}

fn about_log(error: &LogFileError) -> Option<&'static str> {
    match error {
        LogFileError::Foreign { .. } => {
            Some("nothing was touched; it belongs to something else, choose another one with --pool or --log")
        }
        LogFileError::Version { .. } => Some("nothing was touched; use the build of Farkeep that wrote it"),
        LogFileError::Damaged { .. } | LogFileError::Truncated { .. } => {
            Some("nothing was touched; move the pool away and let this node follow one that holds the data")
        }
        LogFileError::Unfinished => Some("it holds nothing; remove it"),
        _ => None,
    }
}

fn about_recovery(error: &RecoverError) -> Option<&'static str> {
    match error {
        RecoverError::Damaged { .. } => Some(
            "acknowledged writes behind it are lost here; let this node follow one that holds them (--replicaof)",
        ),
        RecoverError::Heap(HeapError::Foreign { .. } | HeapError::OtherDataset { .. }) => Some(NOT_ITS_IMAGE),
        RecoverError::MidSync | RecoverError::Empty => Some("start it as a follower (--replicaof)"),
        RecoverError::Malformed { .. } => Some("nothing was touched; use the build of Farkeep that wrote it"),
        RecoverError::Pool(error) => about_pool(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::Context;

    use super::*;

    #[test]
    fn advice_is_found_under_layers_of_context() {
        let error = PoolError::InUse { path: PathBuf::from("/x"), pid: "12".to_owned() };
        let error = Err::<(), _>(error).context("cannot open the pool").unwrap_err();
        assert_eq!(advice(&error), Some("stop that process, or choose another directory with --pool"));
        let read_only = PoolError::Io {
            path: PathBuf::from("/x"),
            what: "cannot make the directory",
            source: ErrorKind::ReadOnlyFilesystem.into(),
        };
        assert!(advice(&read_only.into()).is_some_and(|text| text.contains("must be writable")));
        let image = HeapError::Foreign { what: "magic", found: 0, expected: 1 };
        let image = Err::<(), _>(RecoverError::from(image)).context("the pool /x").unwrap_err();
        assert_eq!(advice(&image), Some(NOT_ITS_IMAGE));
        assert_eq!(advice(&anyhow::anyhow!("no such thing")), None);
    }
}
