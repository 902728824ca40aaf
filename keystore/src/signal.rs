//! What a command changed, for those who watch keys.
//!
//! The keystore does not know who is interested. It keeps a list of signals of the transactions since the
//! last [`Signals::drain`], and only while somebody asked for it ([`Signals::listen`]): a server without
//! `WATCH` and without keyspace events pays one branch per write. The list is volatile; after a crash there
//! is nobody left who watched.
//!
//! A command that fails takes its signals back ([`Signals::truncate`]), in step with the rollback of its
//! transaction.

/// The class of an event, one bit each, as in `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// `g`: commands that work on keys of any type.
    Generic,
    /// `$`: strings.
    String,
    /// `h`: hashes.
    Hash,
    /// `x`: a key was removed because its time had come.
    Expired,
    /// `n`: a key came into being.
    New,
}

/// One modification of one key, or of a whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `key` of database `db` was changed, created or removed by the command behind `event`.
    Key {
        /// The database.
        db: usize,
        /// The key's name.
        key: Box<[u8]>,
        /// The event's class.
        class: EventClass,
        /// The event's name, for example `set` or `expired`.
        event: &'static str,
    },
    /// Database `db` lost all its keys.
    Flushed {
        /// The database.
        db: usize,
    },
    /// Two databases changed places.
    Swapped {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
    },
}

/// The list of signals not yet taken.
#[derive(Debug, Default)]
pub struct Signals {
    listening: bool,
    pending: Vec<Signal>,
    dirty: u64,
}

impl Signals {
    /// Whether signals are to be kept from now on. Turning it off drops what is pending.
    pub fn listen(&mut self, on: bool) {
        self.listening = on;
        if !on {
            self.pending.clear();
        }
    }

    /// Whether signals are kept. A command may skip work that only signals need.
    #[inline]
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    /// Notes a change of one key. Counts it in [`Signals::dirty`] whether or not anybody listens.
    #[inline]
    pub fn key(&mut self, db: usize, key: &[u8], class: EventClass, event: &'static str) {
        self.dirty += 1;
        if self.listening {
            self.pending.push(Signal::Key { db, key: key.into(), class, event });
        }
    }

    /// Notes a change that is not about one key.
    pub fn push(&mut self, signal: Signal) {
        self.dirty += 1;
        if self.listening {
            self.pending.push(signal);
        }
    }

    /// How many changes there have been since the process started (`rdb_changes_since_last_save` and
    /// friends).
    pub fn dirty(&self) -> u64 {
        self.dirty
    }

    /// The place to go back to if the command that begins now fails.
    pub fn mark(&self) -> usize {
        self.pending.len()
    }

    /// Takes back everything noted after `mark`.
    pub fn truncate(&mut self, mark: usize) {
        self.pending.truncate(mark);
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes what is pending, oldest first.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Signal> {
        self.pending.drain(..)
    }
}
