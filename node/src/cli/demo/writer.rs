//! The stream of writes, and the record of what was acknowledged.
//!
//! Each connection writes keys of its own and increments a counter of its own. What it keeps of each write is
//! only whether the node said OK: key and value follow from the connection's and the write's number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use farkeep_proto::resp::client::Reply;

use crate::cli::client::Client;

/// Connections that write.
pub const WRITERS: usize = 8;

/// Commands a connection sends before it waits for their replies: SETs and, last, one INCR.
const BATCH: u32 = 16;

/// What one connection wrote.
#[derive(Debug, Default)]
pub struct Record {
    /// The connection's number.
    pub writer: usize,
    /// SETs sent.
    pub sent: u32,
    /// Numbers of the SETs that were acknowledged.
    pub acknowledged: Vec<u32>,
    /// INCRs sent.
    pub increments_sent: u64,
    /// The counter's value in the last acknowledged INCR.
    pub counter: u64,
    /// The node's words, if it refused a write.
    pub refusal: Option<String>,
}

/// The key of a write.
pub fn key(writer: usize, number: u32) -> String {
    format!("demo:{writer}:{number}")
}

/// Its value: 64 bytes that no other write has.
pub fn value(writer: usize, number: u32) -> String {
    format!("{:-<64}", format!("written by connection {writer} as number {number} "))
}

/// The key of a connection's counter.
pub fn counter_key(writer: usize) -> String {
    format!("demo:{writer}:count")
}

/// What the writers share with the one who watches them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Acknowledged writes of all connections.
    pub acknowledged: AtomicU64,
    /// Set to end the writing in an orderly way.
    pub stop: AtomicBool,
}

/// Starts a connection that writes until it breaks, is refused or told to stop.
pub fn start(writer: usize, client: Client, progress: &Arc<Progress>) -> JoinHandle<Record> {
    let progress = Arc::clone(progress);
    thread::spawn(move || write(writer, client, &progress))
}

fn write(writer: usize, mut client: Client, progress: &Progress) -> Record {
    let mut record = Record { writer, ..Record::default() };
    while !progress.stop.load(Ordering::Relaxed) && record.refusal.is_none() {
        // A broken connection is what the demo is about: what was not acknowledged stays in flight.
        if batch(&mut client, &mut record, progress).is_err() {
            break;
        }
    }
    record
}

fn batch(client: &mut Client, record: &mut Record, progress: &Progress) -> std::io::Result<()> {
    let first = record.sent;
    for number in first..first + BATCH - 1 {
        let (key, value) = (key(record.writer, number), value(record.writer, number));
        client.queue(&[b"SET", key.as_bytes(), value.as_bytes()]);
    }
    client.queue(&[b"INCR", counter_key(record.writer).as_bytes()]);
    record.sent += BATCH - 1;
    record.increments_sent += 1;
    client.send()?;
    for number in first..record.sent {
        match client.receive()? {
            Reply::Error(text) => record.refusal = Some(String::from_utf8_lossy(&text).into_owned()),
            _ => {
                record.acknowledged.push(number);
                progress.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    match client.receive()? {
        Reply::Int(value) => {
            record.counter = value as u64;
            progress.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        other => record.refusal = Some(format!("{other:?}")),
    }
    Ok(())
}

impl Record {
    /// Writes that were acknowledged, increments included.
    pub fn acknowledged_count(&self) -> u64 {
        self.acknowledged.len() as u64 + self.counter
    }

    /// Writes whose fate the connection does not know.
    pub fn in_flight(&self) -> u64 {
        u64::from(self.sent) + self.increments_sent - self.acknowledged_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_64_bytes_and_tell_writes_apart() {
        assert_eq!(value(0, 0).len(), 64);
        assert_eq!(value(7, u32::MAX).len(), 64);
        assert_ne!(value(1, 11), value(11, 1));
    }

    #[test]
    fn what_was_sent_and_not_acknowledged_is_in_flight() {
        let record = Record {
            sent: 30,
            acknowledged: (0..20).collect(),
            increments_sent: 2,
            counter: 1,
            ..Record::default()
        };
        assert_eq!((record.acknowledged_count(), record.in_flight()), (21, 11));
    }
}
