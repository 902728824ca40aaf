//! Who is connected: what CLIENT LIST shows and CLIENT KILL reaches, over all workers.
//!
//! Each connection is owned by one worker; what others may see or ask of it is in its [`Client`], shared
//! through this registry. The hot path only stores relaxed atomics.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use farkeep_keystore::command::Command;
use parking_lot::Mutex;

use crate::pubsub::{TOPICS, Topic};

/// What kind of peer a connection serves (CLIENT KILL TYPE, output buffer classes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ClientKind {
    /// An ordinary client.
    Normal = 0,
    /// A follower's control or window connection.
    Replica = 1,
    /// A client that subscribes to something.
    Pubsub = 2,
}

/// The part of a connection that the whole process may see.
#[derive(Debug)]
pub struct Client {
    /// Redis's client id: grows, never reused within a process.
    pub id: u64,
    /// The peer's address, or the path of a unix socket.
    pub peer: String,
    /// Our own address of the connection.
    pub local: String,
    /// File descriptor number, for CLIENT LIST.
    pub fd: i32,
    /// Index of the worker that owns the connection.
    pub worker: usize,
    /// Unix time of the connection in ms.
    pub connected_at_ms: u64,
    /// Unix time of the last command in ms.
    pub active_at_ms: AtomicU64,
    /// The selected database.
    pub db: AtomicU32,
    /// RESP version, 2 or 3.
    pub resp: AtomicU32,
    /// A [`ClientKind`] as its number; a subscriber is told from [`Client::subscriptions`].
    pub kind: AtomicU32,
    /// Commands queued in a MULTI, or -1.
    pub multi: AtomicI64,
    /// Bytes in the query buffer.
    pub query_len_bytes: AtomicUsize,
    /// Bytes waiting to be sent.
    pub output_len_bytes: AtomicUsize,
    /// Whether the connection waits inside a command.
    pub blocked: AtomicBool,
    /// A watched key was modified: EXEC must answer null.
    pub watch_broken: AtomicBool,
    /// Whether the connection watches any key.
    pub watching: AtomicBool,
    /// CLIENT KILL asked for the end of the connection.
    pub killed: AtomicBool,
    /// CLIENT UNBLOCK ended its wait.
    pub unblocked: AtomicBool,
    /// Subscriptions by [`Topic`]. Changed under the engine's lock only.
    pub subscriptions: [AtomicU32; TOPICS],
    /// Where its worker keeps the connection.
    pub slot: AtomicUsize,
    /// CLIENT NO-EVICT on.
    pub no_evict: AtomicBool,
    /// Name and user set by the client.
    pub names: Mutex<ClientNames>,
}

/// What a client says about itself, and what it did last.
#[derive(Debug, Default, Clone)]
pub struct ClientNames {
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// The last command, as CLIENT LIST shows it.
    pub last_command: Option<&'static Command>,
}

impl Client {
    /// The kind of the peer.
    pub fn kind(&self) -> ClientKind {
        if self.kind.load(Ordering::Relaxed) == ClientKind::Replica as u32 {
            ClientKind::Replica
        } else if self.subscribes() {
            ClientKind::Pubsub
        } else {
            ClientKind::Normal
        }
    }

    /// How many subscriptions of one kind it has.
    pub fn subscribed(&self, topic: Topic) -> u32 {
        self.subscriptions[topic as usize].load(Ordering::Relaxed)
    }

    /// Whether it subscribes to anything.
    pub fn subscribes(&self) -> bool {
        self.subscriptions.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }
}

/// Every connection of the process.
#[derive(Debug, Default)]
pub struct Clients {
    next_id: AtomicU64,
    by_id: Mutex<HashMap<u64, Arc<Client>>>,
}

impl Clients {
    /// Registers a new connection.
    pub fn add(&self, peer: String, local: String, fd: i32, worker: usize, now_ms: u64) -> Arc<Client> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client {
            id,
            peer,
            local,
            fd,
            worker,
            connected_at_ms: now_ms,
            active_at_ms: AtomicU64::new(now_ms),
            db: AtomicU32::new(0),
            resp: AtomicU32::new(2),
            kind: AtomicU32::new(ClientKind::Normal as u32),
            multi: AtomicI64::new(-1),
            query_len_bytes: AtomicUsize::new(0),
            output_len_bytes: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            watch_broken: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            unblocked: AtomicBool::new(false),
            subscriptions: Default::default(),
            slot: AtomicUsize::new(usize::MAX),
            no_evict: AtomicBool::new(false),
            names: Mutex::new(ClientNames::default()),
        });
        self.by_id.lock().insert(id, Arc::clone(&client));
        client
    }

    /// Forgets a connection.
    pub fn remove(&self, id: u64) {
        self.by_id.lock().remove(&id);
    }

    /// The connection with this id.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.lock().get(&id).cloned()
    }

    /// All connections, oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.by_id.lock().values().cloned().collect();
        all.sort_by_key(|client| client.id);
        all
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.by_id.lock().len()
    }
}
