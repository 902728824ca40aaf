//! Taking connections apart, away from everybody who is in a hurry.
//!
//! Deleting a connection to a dead peer takes a second, in which the kernel waits for an answer to its goodbye. What the
//! connection used stays registered for that long: only a connection that is gone touches no memory any more.
//!
//! A connection whose device has lost its link is taken apart when the link is back: the goodbye would only fail, and on
//! soft-RoCE no connection is made any more after one that did.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::connection::Raw;
use super::region::Registration;

/// A connection that nobody will post to any more, and what it may still be reading or writing. Dropped in this
/// order.
pub(super) struct Remains {
    pub(super) connection: Arc<Raw>,
    pub(super) used: Vec<Arc<Registration>>,
}

/// How often a device whose link is lost is looked at.
const LINK_PERIOD: Duration = Duration::from_millis(200);

/// Takes a connection apart, in its own time. Does not wait.
pub(super) fn bury(remains: Remains) {
    static QUEUE: OnceLock<Option<Mutex<Sender<Remains>>>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (sender, receiver) = channel::<Remains>();
        let thread = std::thread::Builder::new().name("rdma-reaper".to_owned());
        let spawned = thread.spawn(move || {
            while let Ok(Remains { connection, used }) = receiver.recv() {
                while !connection.device().is_up() {
                    std::thread::sleep(LINK_PERIOD);
                }
                drop(connection);
                drop(used);
            }
        });
        spawned.is_ok().then(|| Mutex::new(sender))
    });
    if let Some(queue) = queue {
        // Cannot fail: the thread never ends. If it did, the remains would be dropped here, slowly.
        let _ = queue.lock().unwrap_or_else(PoisonError::into_inner).send(remains);
    }
}
