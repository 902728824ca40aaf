//! A wish to stop that ends in a tidy exit.
//!
//! Ctrl-C and SIGTERM only set a flag. Every loop that may take long looks at it and returns early with an error, so
//! that the ordinary drop order ends child processes and removes temporary directories. A second Ctrl-C does not wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit status of a process that a second Ctrl-C ended, as shells count it (128 + SIGINT).
const EXIT_STATUS_INTERRUPTED: i32 = 130;

/// The flag. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that SIGINT and SIGTERM set.
    ///
    /// # Errors
    /// The signal handlers could not be installed.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the second signal must find the flag already set by the first.
            flag::register_conditional_shutdown(signal, EXIT_STATUS_INTERRUPTED, Arc::clone(&stop.0))?;
            flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
