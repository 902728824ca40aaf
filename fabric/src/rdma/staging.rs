//! A ring of registered memory that bytes are copied through which the card cannot read where they are: all batches, where the log
//! cannot be registered, and otherwise what is not of the log.
//!
//! It is there from the beginning of a connection, because registering is nothing for a worker, and because what cannot
//! be registered is better known while there is a choice of fabrics than in mid-stream.
//!
//! A place is used again only when the operation that reads it is over ([`Places`]). A card reads when it likes; soft-RoCE has often
//! read everything by the time an operation is posted, and would not show a mistake here.

use std::collections::VecDeque;
use std::sync::Arc;

use super::region::Registration;

/// Length of a staging ring that all batches go through. It fits into the usual memlock limit of 8 MiB.
pub(super) const STAGING_LEN: u64 = 4 << 20;
/// Length of a staging ring beside a log that the card reads itself.
pub(super) const SIDE_STAGING_LEN: u64 = 1 << 20;

/// The ring.
pub(super) struct Staging {
    ring: Arc<Registration>,
    places: Places,
}

impl Staging {
    /// All of `ring` is free; it is `len` bytes long.
    pub(super) fn new(ring: Arc<Registration>, len: u64) -> Self {
        Self { ring, places: Places::new(len) }
    }

    /// The registered memory.
    pub(super) fn ring(&self) -> &Arc<Registration> {
        &self.ring
    }

    /// Copies the beginning of `bytes` in, at most `limit` of them, for the operation with this number. Says where they are and
    /// how many, or `None` if there is no room now.
    pub(super) fn copy(&mut self, bytes: &[u8], limit: u64, number: u64) -> Option<Copied> {
        let copied = self.places.take(limit.min(bytes.len() as u64), number)?;
        self.ring.store(copied.at, &bytes[..copied.len as usize]);
        Some(copied)
    }

    /// The operation with this number is over, and all before it.
    pub(super) fn over_up_to(&mut self, number: u64) {
        self.places.over_up_to(number);
    }
}

/// Bytes in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    /// Where.
    pub(super) at: usize,
    /// How many.
    pub(super) len: u64,
    /// The card should tell when their operation is over: a quarter of the ring was filled since it was last asked.
    pub(super) tell: bool,
}

/// Which bytes of a ring are being read.
struct Places {
    len: u64,
    /// Bytes ever taken.
    head: u64,
    /// Bytes given back.
    tail: u64,
    /// The operations that are reading, and where in the endless stream of bytes each one ends.
    readers: VecDeque<(u64, u64)>,
    /// `head` when the card was last asked to tell.
    told_at: u64,
}

impl Places {
    fn new(len: u64) -> Self {
        Self { len, head: 0, tail: 0, readers: VecDeque::new(), told_at: 0 }
    }

    /// Up to `wanted` bytes in one piece.
    fn take(&mut self, wanted: u64, number: u64) -> Option<Copied> {
        let at = self.head % self.len;
        let room = (self.len - (self.head - self.tail)).min(self.len - at);
        let len = wanted.min(room);
        if len == 0 {
            return None;
        }
        self.head += len;
        self.readers.push_back((number, self.head));
        let tell = self.head - self.told_at >= self.len / 4;
        if tell {
            self.told_at = self.head;
        }
        Some(Copied { at: at as usize, len, tell })
    }

    fn over_up_to(&mut self, number: u64) {
        while let Some(&(reader, end)) = self.readers.front()
            && reader <= number
        {
            self.tail = end;
            self.readers.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_given_out_again_before_its_operation_is_over() {
        let mut places = Places::new(1000);
        // Who reads a byte of the ring, and the operations that are not over, in order.
        let (mut readers, mut open, mut number) = (vec![None; 1000], VecDeque::new(), 0);
        let (mut refused, mut told) = (0, 0);
        for step in 0u64..5000 {
            let wanted = 1 + step * 7919 % 400;
            match places.take(wanted, number) {
                Some(copied) => {
                    assert!(copied.len <= wanted && copied.len > 0);
                    for reader in &mut readers[copied.at..][..copied.len as usize] {
                        assert_eq!(reader.replace(number), None, "step {step}");
                    }
                    told += u32::from(copied.tell);
                    open.push_back(number);
                    number += 1;
                }
                None => {
                    refused += 1;
                    assert!(readers.iter().all(Option::is_some), "step {step}: refused with room to spare");
                    // Half of what is open completes.
                    let last = *open.get(open.len() / 2).unwrap();
                    open.retain(|&operation| operation > last);
                    places.over_up_to(last);
                    for reader in &mut readers {
                        *reader = reader.filter(|&reader| reader > last);
                    }
                }
            }
        }
        assert!(refused > 100, "the ring was full {refused} times");
        assert!(u64::from(told) >= places.head / 400, "told {told} times for {} bytes", places.head);
    }
}
