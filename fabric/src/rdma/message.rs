//! What leader and follower say to each other over the connection itself.
//!
//! [`Greeting`] comes with the leader's connection request, [`Request`] ends a batch in GPSPM, and its answer is tcp's
//! [`crate::tcp::frame::Ack`]. All of them are little-endian and of one length.

use std::fmt;

use farkeep_core::pmem::domain::{Domain, Persistence};
use farkeep_core::pmem::persist::Writeback;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::window::FabricError;

/// What a completed flush rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The card alone: a flush behind the writes. The follower's processor takes no part.
    Apm,
    /// The follower's agent: it writes back what it is told to, and answers.
    Gpspm,
}

impl Mode {
    /// The name that messages, `INFO` and the logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apm => "apm",
            Self::Gpspm => "gpspm",
        }
    }

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Apm, Self::Gpspm].into_iter().find(|mode| mode.name() == name)
    }

    /// What a follower's log allows, and why. `asserted` is the directive `rdma-direct-write`: the operator's word that the card's
    /// writes go past the processor's caches.
    pub fn choose(asserted: bool, persistence: &Persistence) -> (Self, &'static str) {
        let eadr = persistence.domain == Domain::Pmem && persistence.writeback == Writeback::Nothing;
        match persistence.domain {
            Domain::Disk => {
                (Self::Gpspm, "the log lies on a disk, which only a system call makes persistent")
            }
            _ if eadr => (Self::Apm, "the caches survive a power cut (eADR)"),
            _ if asserted => (Self::Apm, "rdma-direct-write: asserted by the operator"),
            Domain::Pmem | Domain::Volatile => {
                (Self::Gpspm, "neither eADR detected nor rdma-direct-write asserted")
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const MAGIC: [u8; 8] = *b"FARKEEP\x01";

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawGreeting {
    magic: [u8; 8],
    session: U64,
}

/// What a connection request carries as private data. It arrives with zeroes behind it.
pub(super) const GREETING_LEN: usize = 16;
const _: () = assert!(size_of::<RawGreeting>() == GREETING_LEN);

/// The connection request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) session: u64,
}

impl Greeting {
    pub(super) fn to_bytes(self) -> [u8; GREETING_LEN] {
        zerocopy::transmute!(RawGreeting { magic: MAGIC, session: self.session.into() })
    }

    /// The greeting at the start of private data; `None` when a stranger is calling.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = RawGreeting::read_from_prefix(bytes).ok()?;
        (raw.magic == MAGIC).then(|| Self { session: raw.session.get() })
    }
}

/// Ranges that a request names; more are merged.
pub(super) const MAX_RANGES: usize = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    seq: U64,
    bytes: U64,
    count: U32,
    reserved: U32,
    ranges: [[U64; 2]; MAX_RANGES],
    padding: [u8; 40],
}

/// Length of a request: three cache lines.
pub(super) const REQUEST_LEN: usize = 192;
const _: () = assert!(size_of::<RawRequest>() == REQUEST_LEN);

/// GPSPM: make these ranges persistent and say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The ticket that the answer completes.
    pub(super) seq: u64,
    /// Bytes written since the last request.
    pub(super) bytes: u64,
    /// Where: start and end.
    pub(super) ranges: Vec<(u64, u64)>,
}

impl Request {
    /// Notes that a range was written.
    pub(super) fn add(&mut self, from: u64, to: u64) {
        self.bytes += to - from;
        match self.ranges.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => self.ranges.push((from, to)),
        }
        if self.ranges.len() > MAX_RANGES {
            self.merge_closest();
        }
    }

    /// Merges the two ranges with the least between them. A batch has two at most; this is for whoever posts many small
    /// pieces before a flush.
    fn merge_closest(&mut self) {
        self.ranges.sort_unstable();
        let gap = |i: &usize| self.ranges[i + 1].0.saturating_sub(self.ranges[*i].1);
        let i = (0..self.ranges.len() - 1).min_by_key(gap).expect("there are several");
        let merged = self.ranges.remove(i + 1);
        self.ranges[i].1 = self.ranges[i].1.max(merged.1);
    }

    pub(super) fn to_bytes(&self) -> [u8; REQUEST_LEN] {
        assert!(self.ranges.len() <= MAX_RANGES, "{} ranges", self.ranges.len());
        let mut ranges = [[U64::ZERO; 2]; MAX_RANGES];
        for (raw, &(from, to)) in ranges.iter_mut().zip(&self.ranges) {
            *raw = [from.into(), to.into()];
        }
        let raw = RawRequest {
            seq: self.seq.into(),
            bytes: self.bytes.into(),
            count: (self.ranges.len() as u32).into(),
            reserved: U32::ZERO,
            ranges,
            padding: [0; 40],
        };
        zerocopy::transmute!(raw)
    }

    /// Reads a request for a window of `window_len` bytes.
    pub(super) fn from_bytes(bytes: &[u8; REQUEST_LEN], window_len: u64) -> Result<Self, FabricError> {
        let raw: RawRequest = zerocopy::transmute!(*bytes);
        let count = raw.count.get() as usize;
        if count > MAX_RANGES {
            return Err(FabricError::Malformed { what: "a request with too many ranges" });
        }
        let ranges: Vec<(u64, u64)> =
            raw.ranges[..count].iter().map(|[from, to]| (from.get(), to.get())).collect();
        if let Some(&(from, to)) = ranges.iter().find(|(from, to)| from > to || *to > window_len) {
            return Err(FabricError::OutsideWindow { offset: from, len: to.wrapping_sub(from), window_len });
        }
        Ok(Self { seq: raw.seq.get(), bytes: raw.bytes.get(), ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_comes_back_from_its_padded_bytes_and_a_stranger_does_not() {
        let greeting = Greeting { session: 0x1234_5678_9abc_def0 };
        let mut padded = [0u8; 196];
        padded[..GREETING_LEN].copy_from_slice(&greeting.to_bytes());
        assert_eq!(Greeting::from_bytes(&padded), Some(greeting));
        padded[0] ^= 1;
        assert_eq!(Greeting::from_bytes(&padded), None);
        assert_eq!(Greeting::from_bytes(&[]), None);
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let mut request = Request { seq: 9, ..Request::default() };
        request.add(100, 200);
        request.add(200, 300);
        request.add(0, 64);
        assert_eq!(request.ranges, [(100, 300), (0, 64)]);
        assert_eq!(request.bytes, 264);
        assert_eq!(Request::from_bytes(&request.to_bytes(), 300).unwrap(), request);
    }

    #[test]
    fn a_request_outside_the_window_or_with_too_many_ranges_is_refused() {
        let outside = |from, to| Request { ranges: vec![(from, to)], ..Request::default() };
        for request in [outside(250, 301), outside(20, 10), outside(u64::MAX, u64::MAX)] {
            let result = Request::from_bytes(&request.to_bytes(), 300);
            assert!(matches!(result, Err(FabricError::OutsideWindow { .. })), "{request:?}: {result:?}");
        }
        let mut bytes = Request::default().to_bytes();
        bytes[16] = MAX_RANGES as u8 + 1;
        assert!(matches!(Request::from_bytes(&bytes, 300), Err(FabricError::Malformed { .. })));
    }

    #[test]
    fn too_many_ranges_are_merged_and_cover_all_that_was_written() {
        let mut request = Request::default();
        let written: Vec<_> =
            (0..100u64).map(|i| (i * 7919 % 10_007 * 64, i * 7919 % 10_007 * 64 + 64)).collect();
        for &(from, to) in &written {
            request.add(from, to);
            assert!(request.ranges.len() <= MAX_RANGES);
        }
        for (from, to) in written {
            assert!(request.ranges.iter().any(|range| range.0 <= from && to <= range.1), "{from}..{to}");
        }
    }

    #[test]
    fn only_the_operators_word_or_eadr_make_the_card_alone_enough() {
        let persistence = |domain, writeback| Persistence {
            domain,
            writeback,
            map_sync: domain == Domain::Pmem,
            why: String::new(),
        };
        let mode = |asserted, domain, writeback| Mode::choose(asserted, &persistence(domain, writeback)).0;
        let cache_line = Writeback::of_this_cpu();
        assert_eq!(mode(false, Domain::Pmem, cache_line), Mode::Gpspm);
        assert_eq!(mode(true, Domain::Pmem, cache_line), Mode::Apm);
        assert_eq!(mode(false, Domain::Pmem, Writeback::Nothing), Mode::Apm);
        assert_eq!(mode(false, Domain::Volatile, cache_line), Mode::Gpspm);
        assert_eq!(mode(true, Domain::Disk, cache_line), Mode::Gpspm, "no card can fdatasync");
    }
}
