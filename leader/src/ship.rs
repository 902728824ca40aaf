//! From the leader's log into a follower's window, and back.
//!
//! [`post`] is called once per turn for every follower: it posts what is new as at most two ranges (the ring may wrap), a piece of a
//! chunk if a walk over the image has one, one flush and a tail cell. Then the link is kicked, once; [`pump`] is both. [`collect`]
//! takes what has completed. None of them waits.

use std::sync::Arc;

use farkeep_core::lsn::Lsn;
use farkeep_fabric::{Completion, FabricError, LogBytes, LogMemory, RemoteWindow, Sending};
use farkeep_proto::window::RING_AT;

use crate::followers::FollowerId;
use crate::leader::{Leader, LeaderError, Shipment};

/// The longest single write; longer shipments are cut into several.
const MAX_WRITE_LEN: u64 = 1 << 30;

/// Posts what the follower lacks, and sends it.
///
/// # Errors
/// [`FabricError`] when the link is broken; the session is over then.
pub fn pump<W: RemoteWindow + ?Sized>(
    leader: &mut Leader,
    id: FollowerId,
    window: &mut W,
    log: &Arc<dyn LogMemory>,
    log_due: bool,
) -> Result<Sending, FabricError> {
    post(leader, id, window, log, log_due);
    window.kick()
}

/// Posts what the follower lacks, as far as its credit and the link's room allow. Of the log only if that is due or
/// a chunk is complete: the follower takes a chunk when it has replayed up to where it was read.
pub fn post<W: RemoteWindow + ?Sized>(
    leader: &mut Leader,
    id: FollowerId,
    window: &mut W,
    log: &Arc<dyn LogMemory>,
    log_due: bool,
) {
    let mut shipment = if log_due { post_log(leader, id, window, log) } else { None };
    let piece = leader.chunk_piece(id, window.room());
    let completes = piece.as_ref().and_then(|piece| piece.completes);
    if let Some(piece) = piece {
        window.write(piece.at, piece.bytes);
    }
    if completes.is_some() && !log_due {
        shipment = post_log(leader, id, window, log);
    }
    // Nobody waits for a piece that is not the last: what comes next flushes it.
    if shipment.is_some() || completes.is_some() {
        let ticket = window.flush();
        if let Some(shipment) = shipment {
            leader.posted(id, shipment.to, ticket);
        }
        if let Some(slot) = completes {
            leader.posted_chunk(id, slot, ticket);
        }
    }
    if let Some(cell) = leader.tail_for(id) {
        window.write_tail(cell);
    }
}

fn post_log<W: RemoteWindow + ?Sized>(
    leader: &mut Leader,
    id: FollowerId,
    window: &mut W,
    log: &Arc<dyn LogMemory>,
) -> Option<Shipment> {
    let shipment = leader.shipment(id, window.room())?;
    for (at, len) in ring_ranges(shipment.from, shipment.to, leader.ring_len()) {
        window.write(RING_AT + at, LogBytes::new(Arc::clone(log), at, len));
    }
    Some(shipment)
}

/// Takes what has completed on a follower's link. `done` is scratch space.
///
/// # Errors
/// [`LeaderError::Fabric`] when the link is broken, or what is wrong with what the follower said; the session is
/// over either way.
pub fn collect<W: RemoteWindow + ?Sized>(
    leader: &mut Leader,
    now_ms: u64,
    id: FollowerId,
    window: &mut W,
    done: &mut Vec<Completion>,
) -> Result<(), LeaderError> {
    done.clear();
    let polled = window.poll(done);
    for completion in done.drain(..) {
        leader.completed(now_ms, id, completion)?;
    }
    Ok(polled?)
}

/// Where `from..to` lies in a ring: offset and length of its parts, two if it wraps.
fn ring_ranges(from: Lsn, to: Lsn, ring_len: u64) -> impl Iterator<Item = (u64, u32)> {
    let mut at = from;
    std::iter::from_fn(move || {
        if at == to {
            return None;
        }
        let offset = at.get() % ring_len;
        let len = to.distance_from(at).min(ring_len - offset).min(MAX_WRITE_LEN);
        at = at + len;
        Some((offset, len as u32))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipment_is_one_range_or_two_at_the_wrap() {
        let ranges = |from, to| ring_ranges(Lsn::new(from), Lsn::new(to), 1000).collect::<Vec<_>>();
        assert_eq!(ranges(100, 300), [(100, 200)]);
        assert_eq!(ranges(1900, 2000), [(900, 100)]);
        assert_eq!(ranges(1900, 2100), [(900, 100), (0, 100)]);
        assert_eq!(ranges(1500, 2500), [(500, 500), (0, 500)]);
        assert_eq!(ranges(7, 7), []);
    }
}
