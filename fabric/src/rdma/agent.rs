//! GPSPM: the follower's agent, which makes persistent what the leader's card has written, and says so.
//!
//! It has a place for every message that the leader may have under way. A place is given to the card again before the
//! answer goes out, so the leader, who counts answers, never sends a message that finds no place.

use std::sync::Arc;

use super::connection::{Connection, Done, Post, Slot};
use super::device::Device;
use super::error::{CallError, Unusable};
use super::message::{REQUEST_LEN, Request};
use super::region::Registration;
use super::remote::{ConnectionRequest, MAX_MESSAGES, failed};
use crate::tcp::Burst;
use crate::tcp::frame::{ACK_LEN, Ack};
use crate::window::{FabricError, Reported, Window};

/// Answers that may be with the card: one for each message, and as many again whose completion it has not told yet.
pub(super) const MAX_ANSWERS: u32 = 2 * MAX_MESSAGES;

/// The agent of one connection.
pub(super) struct Agent {
    inbox: Arc<Registration>,
    outbox: Arc<Registration>,
    window_len: u64,
    /// The last request that is persistent, and the last that was answered.
    persisted: u64,
    answered: u64,
    /// The number of the next answer; those before `over` are over.
    next: u64,
    over: u64,
    completions: Vec<Done>,
}

impl Agent {
    pub(super) fn new(device: &Device, window_len: u64) -> Result<Self, Unusable> {
        let buffer = |len: usize, what| Registration::buffer(device, len, what).map(Arc::new);
        Ok(Self {
            inbox: buffer(MAX_MESSAGES as usize * REQUEST_LEN, "a buffer for messages")?,
            outbox: buffer(MAX_ANSWERS as usize * ACK_LEN, "a buffer for answers")?,
            window_len,
            persisted: 0,
            answered: 0,
            next: 0,
            over: 0,
            completions: Vec::new(),
        })
    }

    /// What the connection will receive into and send from.
    pub(super) fn used(&self) -> Vec<Arc<Registration>> {
        vec![Arc::clone(&self.inbox), Arc::clone(&self.outbox)]
    }

    /// Gives the card all places, before there is a connection.
    pub(super) fn receive(&self, request: &ConnectionRequest) -> Result<(), CallError> {
        request.receive(&self.inbox, MAX_MESSAGES, REQUEST_LEN)
    }

    /// Takes the messages that have arrived and makes persistent what they ask for.
    pub(super) fn serve<W: Window + ?Sized>(
        &mut self,
        connection: &mut Connection,
        window: &mut W,
    ) -> Result<Option<Burst>, FabricError> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        let taken = connection.take_received(&mut completions).map_err(failed);
        let served = taken.and_then(|()| self.carry_out(&completions, connection, window));
        self.completions = completions;
        served
    }

    fn carry_out<W: Window + ?Sized>(
        &mut self,
        completions: &[Done],
        connection: &mut Connection,
        window: &mut W,
    ) -> Result<Option<Burst>, FabricError> {
        let mut burst = None::<Burst>;
        let mut seq = self.persisted;
        for &completion in completions {
            connection.outcome(completion)?;
            if completion.len as usize != REQUEST_LEN {
                return Err(FabricError::Malformed { what: "a request of another length" });
            }
            let slot = Slot { number: completion.context as u32, len: REQUEST_LEN };
            let request = Request::from_bytes(&self.inbox.load::<REQUEST_LEN>(slot.at()), self.window_len)?;
            connection.receive(&self.inbox, slot).map_err(failed)?;
            let burst = burst.get_or_insert(Burst { stored: 0, tail_cell: false, batch_ended: false });
            if request.seq == 0 {
                burst.tail_cell = true;
                continue;
            }
            if request.seq != seq + 1 {
                return Err(FabricError::OutOfOrder { expected: seq + 1, found: request.seq });
            }
            seq = request.seq;
            burst.stored += request.bytes;
            burst.batch_ended = true;
            for (from, to) in request.ranges {
                window.flush(from, to - from)?;
            }
        }
        if seq != self.persisted {
            window.fence()?;
            self.persisted = seq;
        }
        Ok(burst)
    }

    /// Answers all that is persistent, if anything is new.
    pub(super) fn answer(
        &mut self,
        connection: &mut Connection,
        reported: Reported,
    ) -> Result<(), FabricError> {
        if self.answered == self.persisted {
            return Ok(());
        }
        self.give_back(connection)?;
        let post = Post { number: self.next, tells: true };
        let at = (self.next % u64::from(MAX_ANSWERS)) as usize * ACK_LEN;
        self.outbox.store(at, &Ack { seq: self.persisted, reported }.to_bytes());
        connection.send(&self.outbox, at, ACK_LEN, post).map_err(failed)?;
        self.next += 1;
        self.answered = self.persisted;
        Ok(())
    }

    /// Takes back the places of answers that have gone out.
    fn give_back(&mut self, connection: &mut Connection) -> Result<(), FabricError> {
        loop {
            let mut sent = Vec::new();
            connection.take_sent(&mut sent).map_err(failed)?;
            for done in sent {
                connection.outcome(done)?;
                self.over = done.context + 1;
            }
            if self.next - self.over < u64::from(MAX_ANSWERS) {
                return Ok(());
            }
            // The leader has got all but its last `MAX_MESSAGES` answers, or it would not have asked again: the card is only
            // late in telling.
            std::thread::yield_now();
        }
    }
}
