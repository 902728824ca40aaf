//! The leader's end of a commit, as the node does it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use farkeep_core::log::LogMap;
use farkeep_fabric::{Completion, LogBytes, LogMemory, Patience, RemoteWindow, Sending, Ticket};
use farkeep_proto::redo::{Flags, RecordBuilder, RecordMeta, bytes_header_len, record_len};
use farkeep_proto::window::{RING_AT, TailCell};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};

use crate::follower::RING_LEN;

/// Batches that are under way at a time.
pub const DEPTH: u32 = 8;
/// Length of a batch.
pub const BATCH_LEN: u64 = 1 << 20;

/// A follower's window, and how far it has completed.
pub struct Link {
    window: Box<dyn RemoteWindow>,
    done: Vec<Completion>,
    completed: Ticket,
    blocked: bool,
    patience: Patience,
}

impl Link {
    pub fn new(window: Box<dyn RemoteWindow>) -> Self {
        Self {
            window,
            done: Vec::new(),
            completed: Ticket::default(),
            blocked: false,
            patience: Patience::default(),
        }
    }

    /// Waits until a ticket has completed: by looking again and again, or as the node's worker does, asleep once it has looked
    /// for a while.
    fn wait_for(&mut self, ticket: Ticket, sleep: bool) -> anyhow::Result<()> {
        self.look()?;
        while self.completed < ticket {
            if sleep && !self.look_a_while(ticket)? && self.window.rest()? {
                let interest = if self.blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
                let fd = self.window.readiness().context("nothing to wait on")?;
                poll(&mut [PollFd::new(&fd, interest)], None)?;
            }
            self.look()?;
        }
        Ok(())
    }

    fn look_a_while(&mut self, ticket: Ticket) -> anyhow::Result<bool> {
        let limit = self.patience.limit();
        if limit.is_zero() {
            return Ok(false);
        }
        let started = Instant::now();
        while self.completed < ticket && started.elapsed() < limit {
            self.look()?;
        }
        self.patience.looked(self.completed >= ticket);
        Ok(self.completed >= ticket)
    }

    fn look(&mut self) -> anyhow::Result<()> {
        self.window.poll(&mut self.done)?;
        for completion in self.done.drain(..) {
            self.completed = completion.ticket;
        }
        if self.blocked {
            self.kick()?;
        }
        Ok(())
    }

    fn kick(&mut self) -> anyhow::Result<()> {
        self.blocked = self.window.kick()? == Sending::Blocked;
        Ok(())
    }
}

/// A log, and what has been appended to it.
pub struct Leader {
    log: Arc<LogMap>,
    memory: Arc<dyn LogMemory>,
    appended: u64,
    prev_crc: u32,
}

impl Leader {
    pub fn new(log: Arc<LogMap>) -> Self {
        let memory = Arc::<LogMap>::clone(&log);
        Self { log, memory, appended: 0, prev_crc: 0 }
    }

    /// Builds a record with `value` in the ring and makes it persistent; says where it lies.
    fn append(&mut self, value: &[u8]) -> (u64, u32) {
        let len = record_len(bytes_header_len(value.len()) + value.len()) as u64;
        if RING_LEN - self.appended % RING_LEN < len {
            self.appended = self.appended.next_multiple_of(RING_LEN);
        }
        let at = self.appended % RING_LEN;
        let meta = RecordMeta {
            lsn: self.appended,
            prev_crc: self.prev_crc,
            epoch: 1,
            committed_lsn: self.appended,
            flags: Flags::COMMIT,
        };
        self.prev_crc = self.log.with_window_mut(RING_AT + at, len as usize, |record| {
            let mut builder = RecordBuilder::new(record);
            builder.bytes(4096, value);
            builder.finish(meta)
        });
        self.log.flush_window(RING_AT + at, len as usize);
        self.log.fence();
        self.appended += len;
        (at, len as u32)
    }

    /// Length of a record with a value of so many bytes.
    pub fn record_len(bytes: usize) -> usize {
        record_len(bytes_header_len(bytes) + bytes)
    }

    /// One turn of the worker's loop, as `ship::pump` has it, and the wait for its completion.
    fn commit(&mut self, link: &mut Link, value: &[u8], sleep: bool) -> anyhow::Result<()> {
        let committed = self.appended;
        let (at, len) = self.append(value);
        link.window.write(RING_AT + at, LogBytes::new(Arc::clone(&self.memory), at, len));
        let ticket = link.window.flush();
        let cell = TailCell { epoch: 1, appended_lsn: self.appended, committed_lsn: committed };
        link.window.write_tail(cell);
        link.kick()?;
        link.wait_for(ticket, sleep)
    }

    /// Commits one after the other; says how long each took.
    pub fn latency(
        &mut self,
        link: &mut Link,
        bytes: usize,
        count: u32,
        sleep: bool,
    ) -> anyhow::Result<Histogram<u64>> {
        let value = vec![7; bytes];
        let mut latencies = Histogram::new(3)?;
        let warm_up = count / 10;
        for i in 0..warm_up + count {
            let started = Instant::now();
            self.commit(link, &value, sleep)?;
            if i >= warm_up {
                latencies.record(started.elapsed().as_nanos() as u64)?;
            }
        }
        Ok(latencies)
    }

    /// Ships batches, several at a time; says how long it took.
    pub fn throughput(&self, link: &mut Link, count: u32) -> anyhow::Result<Duration> {
        let places = RING_LEN / BATCH_LEN;
        let started = Instant::now();
        let mut open = VecDeque::new();
        for i in 0..count {
            if open.len() as u32 == DEPTH {
                let first = open.pop_front().context("no batch is open")?;
                link.wait_for(first, true)?;
            }
            let at = u64::from(i) % places * BATCH_LEN;
            let source = LogBytes::new(Arc::clone(&self.memory), at, BATCH_LEN as u32);
            link.window.write(RING_AT + at, source);
            open.push_back(link.window.flush());
            link.kick()?;
        }
        if let Some(&last) = open.back() {
            link.wait_for(last, true)?;
        }
        Ok(started.elapsed())
    }
}
