//! Replies that wait for a commit.
//!
//! A worker answers a command at once but may not let the answer out before the LSN it rests on is committed (I7).
//! [`HeldReplies`] is the worker's list of such answers, in the order of their LSNs. What a token is, is the
//! worker's business: a connection and how many of its bytes, or a waiting `WAIT`.
//!
//! A reply that cannot be released, because the leader was deposed or the time is up, is never dropped silently: its token
//! comes back, and the client is told that the fate of its write is unknown.

use std::collections::VecDeque;

use farkeep_core::lsn::Lsn;

#[derive(Debug)]
struct Held<T> {
    lsn: Lsn,
    since_ms: u64,
    token: T,
}

/// Tokens in the order of the LSNs they wait for; equal ones in the order they came.
#[derive(Debug)]
pub struct HeldReplies<T> {
    queue: VecDeque<Held<T>>,
}

impl<T> Default for HeldReplies<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new() }
    }
}

impl<T> HeldReplies<T> {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many tokens wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The lowest LSN that is waited for.
    pub fn first(&self) -> Option<Lsn> {
        self.queue.front().map(|held| held.lsn)
    }

    /// Holds `token` until `lsn` is committed. LSNs mostly rise, so this is mostly a push at the end; a lower one
    /// finds its place from there.
    pub fn push(&mut self, now_ms: u64, lsn: Lsn, token: T) {
        let held = Held { lsn, since_ms: now_ms, token };
        let at = self.queue.iter().rposition(|earlier| earlier.lsn <= lsn).map_or(0, |index| index + 1);
        if at == self.queue.len() {
            self.queue.push_back(held);
        } else {
            self.queue.insert(at, held);
        }
    }

    /// Hands the tokens whose LSN is at most `committed` to `release`, in order.
    pub fn release(&mut self, committed: Lsn, mut release: impl FnMut(T)) {
        while let Some(first) = self.queue.front()
            && first.lsn <= committed
        {
            let held = self.queue.pop_front().expect("there is a first one");
            release(held.token);
        }
    }

    /// Hands the tokens that have waited since `before_ms` or longer to `fail`, in order.
    pub fn expire(&mut self, before_ms: u64, mut fail: impl FnMut(T)) {
        // A token is never older than one that was pushed before it, but may stand before it in the queue.
        if self.queue.iter().all(|held| held.since_ms > before_ms) {
            return;
        }
        let mut kept = VecDeque::with_capacity(self.queue.len());
        for held in self.queue.drain(..) {
            if held.since_ms <= before_ms { fail(held.token) } else { kept.push_back(held) }
        }
        self.queue = kept;
    }

    /// Hands all tokens to `fail`, in order: nothing will be committed here any more.
    pub fn fail_all(&mut self, mut fail: impl FnMut(T)) {
        self.queue.drain(..).for_each(|held| fail(held.token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(held: &mut HeldReplies<u32>, committed: u64) -> Vec<u32> {
        let mut out = Vec::new();
        held.release(Lsn::new(committed), |token| out.push(token));
        out
    }

    #[test]
    fn replies_leave_in_the_order_of_their_lsn_and_none_before_its_commit() {
        let mut held = HeldReplies::new();
        for (lsn, token) in [(10, 1), (20, 2), (20, 3), (15, 4), (30, 5)] {
            held.push(0, Lsn::new(lsn), token);
        }
        assert_eq!(held.first(), Some(Lsn::new(10)));
        assert_eq!(released(&mut held, 9), []);
        assert_eq!(released(&mut held, 20), [1, 4, 2, 3]);
        assert_eq!(released(&mut held, 29), []);
        assert_eq!(released(&mut held, 100), [5]);
    }

    #[test]
    fn a_reply_that_waited_too_long_comes_back_alone() {
        let mut held = HeldReplies::new();
        held.push(100, Lsn::new(10), 1);
        held.push(200, Lsn::new(20), 2);
        let mut failed = Vec::new();
        held.expire(99, |token| failed.push(token));
        assert_eq!(failed, []);
        held.expire(150, |token| failed.push(token));
        assert_eq!(failed, [1]);
        held.fail_all(|token| failed.push(token));
        assert_eq!(failed, [1, 2]);
        assert!(held.is_empty());
    }
}
