//! A node's own log, as both ends of the contract see it: memory that a leader ships from, and the window that a
//! follower exports.

use std::sync::Arc;

use farkeep_core::log::LogMap;
use farkeep_proto::window::{RING_AT, STAGING_AT};

use crate::window::{LogMemory, Window, WindowError};

impl LogMemory for LogMap {
    fn slice(&self, at: u64, len: usize) -> &[u8] {
        self.ring_bytes(at, len)
    }
}

/// The window of a node's own log.
#[derive(Clone, Debug)]
pub struct LogWindow(Arc<LogMap>);

impl LogWindow {
    /// The window of this log.
    pub fn new(log: Arc<LogMap>) -> Self {
        Self(log)
    }

    /// The log.
    pub fn log(&self) -> &Arc<LogMap> {
        &self.0
    }
}

impl Window for LogWindow {
    fn len(&self) -> u64 {
        self.0.window_len()
    }

    fn fill(&mut self, offset: u64, len: usize, store: &mut dyn FnMut(&mut [u8])) {
        self.0.with_window_mut(offset, len, store);
    }

    fn flush(&mut self, offset: u64, len: u64) -> Result<(), WindowError> {
        // What a crash takes from a staging slot is sent again; the chunk is made persistent where it belongs.
        if offset >= STAGING_AT && offset + len <= RING_AT {
            return Ok(());
        }
        self.0.flush_window(offset, len as usize);
        Ok(())
    }

    fn fence(&mut self) -> Result<(), WindowError> {
        self.0.fence();
        Ok(self.0.sync_window()?)
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        into.copy_from_slice(self.0.window_bytes(offset, into.len()));
    }
}
