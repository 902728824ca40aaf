//! Recovery from arbitrary bytes: what fuzzers and property tests call.
//!
//! Whatever a pool's files hold, opening and recovering it ends in a working node or in an error. It never panics.

use farkeep_proto::logfile::{
    IDENTITY_LEN, REPLAY_LIMIT_AT, RawIdentity, RawState, STATE_AT, STATE_LEN, WINDOW_AT,
};
use farkeep_proto::redo::{HEADER_LEN, crc32c};
use farkeep_proto::window::RING_AT;
use zerocopy::{FromBytes, IntoBytes};

use crate::log::Replid;
use crate::pmem::crash::{CrashDouble, Medium};
use crate::pmem::domain::{Domain, Durability};
use crate::pool::{Pool, PoolOptions};
use crate::recover::{LeaderOptions, open_follower, open_leader, survey};

/// Longer files than this are not of interest: finding out what they do takes too long.
const FILE_LEN_MAX: usize = 64 << 20;

/// Recovers a pool whose files hold these bytes, in both roles. With `mend`, checksums are made right first, which
/// takes the bytes past the checks that would refuse them at once.
pub fn recover_arbitrary(log: &[u8], image: &[u8], mend: bool) {
    if log.len().max(image.len()) > FILE_LEN_MAX {
        return;
    }
    let mut log = log.to_vec();
    if mend {
        mend_checksums(&mut log);
    }
    let double = CrashDouble::holding(log, image.to_vec()).expect("memory for two files");
    let options = small_pool();
    let Ok(pool) = Pool::on_double(&double, &options) else { return };
    survey(pool.log());
    // Both may fail; that they return is all that is asked.
    drop(open_follower(&pool));
    drop(open_leader(&pool, &LeaderOptions::new(Replid([3; 20]), Some([9; 16]))));
}

/// A pool that is as small as one can be, so that few bytes reach every part of it.
fn small_pool() -> PoolOptions {
    PoolOptions {
        log_len: 8 * 4096,
        segment_len: 4096,
        max_image_len: Some(FILE_LEN_MAX as u64),
        durability: Durability::Forced(Domain::Pmem),
        ..PoolOptions::new("/arbitrary", [1; 16])
    }
}

/// Recovers a pool that is blank but for the pieces that `data` puts into it, so that few bytes can say much. A piece
/// is `{place, where in it (2 bytes), length (1 byte), bytes}`; the first byte of all says whether to mend.
pub fn recover_pieces(data: &[u8]) {
    const PLACES: [(u64, u64); 6] = [
        (0, 64),
        (STATE_AT[0], STATE_LEN as u64),
        (STATE_AT[1], STATE_LEN as u64),
        (REPLAY_LIMIT_AT, 8),
        (WINDOW_AT + RING_AT, 8 * 4096),
        (0, 16 * 4096),
    ];
    let double = CrashDouble::new().expect("memory for two files");
    let options = small_pool();
    drop(Pool::on_double(&double, &options).expect("a blank pool"));
    let (mut log, mut image) = (double.memory(Medium::Log), vec![0; 16 * 4096]);
    let Some((mend, mut rest)) = data.split_first() else { return };
    while let Some((&[place, low, high, len], behind)) = rest.split_first_chunk() {
        let (at, room) = PLACES[usize::from(place) % PLACES.len()];
        let bytes = &behind[..usize::from(len).min(behind.len())];
        let first = u64::from(u16::from_le_bytes([low, high])) % room;
        let bytes = &bytes[..bytes.len().min((room - first) as usize)];
        let file = if usize::from(place) % PLACES.len() == 5 { &mut image } else { &mut log };
        file[(at + first) as usize..][..bytes.len()].copy_from_slice(bytes);
        rest = &behind[usize::from(len).min(behind.len())..];
    }
    recover_arbitrary(&log, &image, mend & 1 == 1);
}

fn mend_checksums(log: &mut [u8]) {
    if let Ok((identity, _)) = RawIdentity::mut_from_prefix(log) {
        identity.crc = identity.checksum().into();
        debug_assert_eq!(identity.as_bytes().len(), IDENTITY_LEN);
    }
    for at in STATE_AT {
        let slot = log.get_mut(at as usize..at as usize + STATE_LEN);
        if let Some(Ok(state)) = slot.map(RawState::mut_from_bytes) {
            state.crc = state.checksum().into();
        }
    }
    // The records follow each other from the ring's start until a length makes no sense.
    let Some(mut rest) = log.get_mut((WINDOW_AT + RING_AT) as usize..) else { return };
    let mut prev = None;
    while rest.len() >= HEADER_LEN {
        let len = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        if len < HEADER_LEN || len > rest.len() {
            return;
        }
        let (record, behind) = rest.split_at_mut(len);
        if let Some(prev) = prev {
            record[16..20].copy_from_slice(&u32::to_le_bytes(prev));
        }
        let crc = crc32c(&record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        prev = Some(crc);
        rest = behind;
    }
}
