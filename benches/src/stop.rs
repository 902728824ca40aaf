//! A wish to stop that ends in a tidy exit.
//!
//! Ctrl-C, SIGTERM and SIGHUP only set a flag. Every loop that may take long looks at it and returns early with an
//! error, so that the ordinary drop order ends child processes and removes temporary directories. A second signal changes
//! nothing: some senders (`timeout`, a terminal beside `kill`) deliver two for one wish, and cutting the clean-up short
//! would leave servers behind.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The flag. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that SIGINT, SIGTERM and SIGHUP set.
    ///
    /// # Errors
    /// The signal handlers could not be installed.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
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
