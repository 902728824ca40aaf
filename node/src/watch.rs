//! WATCH: who watches which key.
//!
//! The keystore reports every modified key while somebody listens; a watched one breaks the watch of all its
//! watchers. A watched key that was there and has expired since breaks it as well, at EXEC.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farkeep_keystore::signal::Signal;

use crate::clients::Client;

#[derive(Debug)]
struct Watcher {
    client: Arc<Client>,
    /// The key was there when it was watched. As long as the watch is whole, it still is.
    existed: bool,
    /// The key was already expired when it was watched, so its removal changes nothing for the watcher.
    was_expired: bool,
}

/// The watched keys of all connections.
#[derive(Debug, Default)]
pub struct Watches {
    by_key: HashMap<(usize, Box<[u8]>), Vec<Watcher>>,
}

impl Watches {
    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// `client` watches `key` of database `db`.
    pub fn add(&mut self, client: &Arc<Client>, db: usize, key: &[u8], existed: bool, was_expired: bool) {
        let watchers = self.by_key.entry((db, key.into())).or_default();
        if watchers.iter().all(|watcher| watcher.client.id != client.id) {
            watchers.push(Watcher { client: Arc::clone(client), existed, was_expired });
        }
        client.watching.store(true, Ordering::Relaxed);
    }

    /// `client` watches nothing any more.
    pub fn remove(&mut self, client: &Client) {
        if client.watching.swap(false, Ordering::Relaxed) {
            self.by_key.retain(|_, watchers| {
                watchers.retain(|watcher| watcher.client.id != client.id);
                !watchers.is_empty()
            });
        }
        client.watch_broken.store(false, Ordering::Relaxed);
    }

    /// The keys `client` watches that were not yet expired when it began.
    pub fn of<'a>(&'a self, client: &'a Client) -> impl Iterator<Item = (usize, &'a [u8])> {
        self.by_key.iter().filter_map(|((db, key), watchers)| {
            let watches = |watcher: &Watcher| watcher.client.id == client.id && !watcher.was_expired;
            watchers.iter().any(watches).then_some((*db, &key[..]))
        })
    }

    /// Breaks the watches that a modification concerns. `exists` says whether a key is there after it.
    pub fn notice(&mut self, signal: &Signal, exists: impl Fn(usize, &[u8]) -> bool) {
        match signal {
            Signal::Key { db, key, .. } => {
                let gone = !exists(*db, key);
                for watcher in self.by_key.get_mut(&(*db, key.clone())).into_iter().flatten() {
                    // The removal of a key that had expired before it was watched changes nothing for the watcher.
                    if watcher.was_expired && gone {
                        watcher.was_expired = false;
                        watcher.existed = false;
                    } else {
                        break_watch(watcher);
                    }
                }
            }
            // A database that is emptied or swapped concerns those whose key was there, or is there now.
            Signal::Flushed { db } => self.break_where(|watched| watched == *db, exists),
            Signal::Swapped { first, second } => {
                self.break_where(|watched| watched == *first || watched == *second, exists);
            }
        }
    }

    /// Breaks every watch: what has happened to the keys is not known.
    pub fn break_all(&self) {
        self.by_key.values().flatten().for_each(break_watch);
    }

    fn break_where(&self, concerns: impl Fn(usize) -> bool, exists: impl Fn(usize, &[u8]) -> bool) {
        for ((db, key), watchers) in &self.by_key {
            if concerns(*db) {
                let now = exists(*db, key);
                watchers.iter().filter(|watcher| watcher.existed || now).for_each(break_watch);
            }
        }
    }
}

fn break_watch(watcher: &Watcher) {
    watcher.client.watch_broken.store(true, Ordering::Relaxed);
}
