//! From what a crash has left to a node that works, in time that depends on the log since the checkpoint only.
//!
//! Every start, change of role and restart goes through here; there is no other way to an [`Appender`], a
//! [`Replayer`] or a [`Tail`]. The steps:
//!
//! 1. [`survey`]: walk the log from the checkpoint. It ends at the last transaction that is whole; the records tell
//!    up to where it was committed.
//!    What it finds is made persistent before it counts: a process may die without its machine, and then the records
//!    that are found may still be on their way to the medium.
//! 2. Replay what is committed into the image (I2). What is durable but not known to be committed stays out of it.
//! 3. A leader begins a new reign at the end of the log ([`open_leader`]): the reign is persistent before its first
//!    record. It puts what is durable and not known to be committed into its working view; all of that counts as
//!    committed as soon as the reign does. A follower ([`open_follower`]) waits for its leader.
//!
//! A follower that joins a leader first cuts off what the leader does not have ([`truncate`]) and takes over the
//! leader's history. Either of the two makes the suffix invalid for good: the record behind the cut is erased, and
//! records of a reign that the history does not name for their place are never believed.
//!
//! To change a node's role, drop what the old role had opened (the working view with it: that is the rollback of
//! everything uncommitted) and open the pool again in the new role; the process and its mappings stay.

use std::io;
use std::sync::Arc;

use farkeep_proto::redo::{HEADER_LEN, MIN_ROOM, Malformed, RECORD_ALIGN, Range, RawHeader, validate};
use zerocopy::FromBytes;

use crate::heap::{CommitError, Heap, HeapError, ImageSource, Offset, View};
use crate::log::scan::ends_transaction;
use crate::log::{
    Appender, Beginning, Claim, EpochHistory, LogMap, Position, Promise, Reign, Replid, Scanner, Stop, Tail,
};
use crate::lsn::{Epoch, Lsn};
use crate::pool::{Pool, PoolError};
use crate::replay::{ReplayError, Replayer};

/// Why a pool cannot serve in the role it was opened for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The image is in the middle of a delta sync (I10).
    #[error("the pool is in the middle of a sync with a leader; it can only go on following")]
    MidSync,
    /// The pool has followed a dataset and never got anything of it.
    #[error(
        "the pool holds nothing of the dataset whose leader it has followed; it can only go on following"
    )]
    Empty,
    /// Records are missing, because the log is damaged or, where this node has followed, because they have not arrived before later ones did.
    #[error(
        "records are missing from the log at LSN {end}: a later one says that it was committed up to {committed}"
    )]
    Damaged {
        /// Where validation stops.
        end: Lsn,
        /// Up to where the log should be whole.
        committed: Lsn,
    },
    /// A record is right and cannot be understood: a later version wrote it.
    #[error("the record at LSN {lsn} cannot be understood: {source}")]
    Malformed {
        /// Where the record begins.
        lsn: Lsn,
        /// What is wrong with it.
        source: Malformed,
    },
    /// The log cannot be cut there.
    #[error("the log cannot be cut at LSN {wanted}: {why} ({limit})")]
    Cut {
        /// Where it should be cut.
        wanted: Lsn,
        /// What speaks against it.
        why: &'static str,
        /// The position that does.
        limit: Lsn,
    },
    /// A node never goes back to an epoch below one it has promised to take part in, nor to another promotion of that number.
    #[error("epoch {wanted} is not above epoch {promised}, which this node has promised to")]
    StaleEpoch {
        /// The epoch asked for.
        wanted: Epoch,
        /// The promise.
        promised: Epoch,
    },
    /// No other node would believe it.
    #[error("epoch {0} leaves no room for the promotions that are to come")]
    NoRoomAbove(Epoch),
    /// The pool is blank and no dataset was named for it.
    #[error("the pool holds no dataset")]
    Blank,
    /// Replaying failed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The working view could not be opened.
    #[error(transparent)]
    Heap(#[from] HeapError),
    /// The reign's first record could not be appended.
    #[error("the new reign cannot begin")]
    Append(#[from] CommitError),
    /// The pool's files do not take what must be written.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The log's state could not be persisted.
    #[error("the log's state cannot be persisted: {0}")]
    Io(#[from] io::Error),
}

/// What a log holds, from its checkpoint on.
#[derive(Clone, Copy, Debug)]
pub struct Survey {
    /// Where the survey began.
    pub checkpoint: Position,
    /// The end of the last whole transaction: `durable_lsn`.
    pub end: Position,
    /// Up to where the log is known to be committed; not beyond `end`.
    pub committed: Lsn,
    /// Whole transactions between the two.
    pub transactions: u64,
    /// Records between the two.
    pub records: u64,
    /// Why it ends there.
    pub stop: Stop,
    /// Set if the log held more once: up to where a later record, out of reach, says that it was committed.
    pub lost_committed: Option<Lsn>,
}

/// Walks the log from its checkpoint. Reads only.
pub fn survey(log: &LogMap) -> Survey {
    let checkpoint = log.state().checkpoint;
    let mut scanner = Scanner::new(log, checkpoint);
    let mut found = Survey {
        checkpoint,
        end: checkpoint,
        committed: checkpoint.lsn,
        transactions: 0,
        records: 0,
        stop: Stop::Malformed(Malformed::Flags { bits: 0 }),
        lost_committed: None,
    };
    let mut records = 0;
    found.stop = loop {
        // More than a ring cannot follow a checkpoint; a log that says so has been tampered with.
        if scanner.position().lsn.distance_from(checkpoint.lsn) > log.geometry().ring_len() {
            break Stop::Invalid(farkeep_proto::redo::Invalid::Length { found: 0, room: 0 });
        }
        match scanner.next() {
            Ok(record) => {
                records += 1;
                if let Some(committed) = record.committed_lsn() {
                    found.committed = found.committed.max(Lsn::new(committed));
                }
                if ends_transaction(&record) {
                    (found.end, found.records) = (scanner.position(), records);
                    found.transactions += 1;
                }
            }
            Err(stop) => break stop,
        }
    };
    // What was about to reach the image was committed.
    found.committed = found.committed.max(log.replay_limit());
    let lost = committed_behind(log, scanner.next_start()).max(Some(log.replay_limit()));
    found.lost_committed = lost.filter(|&committed| committed > found.end.lsn);
    found.committed = found.committed.min(found.end.lsn);
    found
}

/// The highest `committed_lsn` told by records of the present lap and reign at or behind `from`, where the chain is
/// broken. A torn tail may well leave such records, but none of them can have known the lost part as committed,
/// since what was committed had been persistent before; so a position beyond the break means damage.
fn committed_behind(log: &LogMap, from: Lsn) -> Option<Lsn> {
    let geometry = log.geometry();
    let history = log.history();
    let told = |start: Lsn| -> Option<Lsn> {
        let bytes = log.segment_rest(start);
        let (header, _) = RawHeader::read_from_prefix(bytes).ok()?;
        if header.lsn.get() != start.get()
            || history.epoch_at(start).0 != Some(Epoch::new(header.epoch.get()))
        {
            return None;
        }
        validate(bytes, start.get(), header.prev_crc.get(), 0).ok()?.committed_lsn().map(Lsn::new)
    };
    let segment_end = from + geometry.room(from);
    let here = (from.get()..segment_end.get()).step_by(RECORD_ALIGN).filter_map(|at| told(Lsn::new(at)));
    let lap_end = segment_end.get() + geometry.ring_len() - geometry.segment_len();
    let later = (segment_end.get()..lap_end).step_by(geometry.segment_len() as usize);
    here.chain(later.filter_map(|at| told(Lsn::new(at)))).max()
}

/// The first position from which the ring holds the stream without a gap up to `end`, as far as the segments' first
/// headers tell. A power cut may have left less: what overwrites a segment reaches the medium in any order, so the header of
/// the earlier lap may have outlived the records behind it. [`check_kept`] reads them before somebody gets them.
fn oldest_kept(log: &LogMap, checkpoint: Lsn, end: Lsn, known: Lsn) -> Lsn {
    let geometry = log.geometry();
    let earliest = (end.get() + geometry.segment_len()).saturating_sub(geometry.ring_len());
    let mut oldest = checkpoint;
    let mut segment = checkpoint.get() / geometry.segment_len() * geometry.segment_len();
    while segment >= earliest && segment >= known.get() {
        let bytes = log.segment_rest(Lsn::new(segment));
        match RawHeader::read_from_prefix(bytes) {
            Ok((header, _)) if header.lsn.get() == segment => oldest = oldest.min(Lsn::new(segment)),
            _ => break,
        }
        match segment.checked_sub(geometry.segment_len()) {
            Some(previous) => segment = previous,
            None => break,
        }
    }
    oldest.max(known)
}

/// Reads what the ring holds before [`LogMap::checked`], segment by segment and backwards, until that is not behind `from` or
/// `max_len` bytes have been read (a segment at least). Where a record is not the one that belongs there, the ring counts as
/// kept only from behind that segment on ([`LogMap::oldest`]). Nothing may append meanwhile. Nothing is stored: after a crash
/// it is found again.
pub fn check_kept(log: &LogMap, from: Lsn, max_len: u64) {
    let mut len = 0;
    while log.checked() > from.max(log.oldest()) && len < max_len {
        let end = log.checked();
        let segment = (end.get() - 1) / log.geometry().segment_len() * log.geometry().segment_len();
        let start = Lsn::new(segment).max(log.oldest());
        if is_whole(log, start, end) {
            log.set_checked(start);
        } else {
            tracing::warn!(
                from = start.get(),
                to = end.get(),
                "the log is not whole here, and is kept from behind it only"
            );
            log.set_oldest(end);
        }
        len += end.distance_from(start);
    }
}

/// Whether the records from `start` to `end` are those that belong there, and are continued by the one at `end`.
fn is_whole(log: &LogMap, start: Lsn, end: Lsn) -> bool {
    let geometry = log.geometry();
    let (start, end) = (geometry.record_start(start), geometry.record_start(end));
    let Ok((first, _)) = RawHeader::read_from_prefix(log.segment_rest(start)) else { return false };
    let at = Position { lsn: start, crc: first.prev_crc.get(), epoch: Epoch::ZERO };
    let mut scanner = Scanner::new(log, at);
    while scanner.next_start() < end {
        if scanner.next().is_err() {
            return false;
        }
    }
    scanner.next_start() == end && (end >= log.appended() || scanner.next().is_ok())
}

/// What a leader works with.
#[derive(Debug)]
pub struct Leader {
    /// The working view. Not formatted if the dataset is new.
    pub heap: Heap,
    /// The end of the log, with the reign's first record already appended.
    pub appender: Appender,
    /// The background checkpoint.
    pub replayer: Replayer,
    /// The new reign.
    pub reign: Reign,
    /// The end of the reign's first record: nothing before it counts as committed until it is, or until the one after it where the
    /// reign is to be settled first ([`settle`]), except what was known to be.
    pub reign_begun: Lsn,
    /// Up to where the stream was known to be committed.
    pub committed: Lsn,
}

/// How to open a pool as a leader.
#[derive(Clone, Copy, Debug)]
pub struct LeaderOptions {
    /// Random bytes for the new reign.
    pub replid: Replid,
    /// Random bytes for a new dataset, if the pool is blank; `None`: that is an error.
    pub new_dataset_id: Option<[u8; 16]>,
    /// The reign's epoch must be at least this one. The claim is that of the promotion by which it begins, to which enough others have promised;
    /// [`Claim::NONE`]: whose number it is as far as this node knows, or else a new one.
    pub promise: Promise,
    /// Somebody who knows what the others hold has made this node the leader, so what it lacks is given up. Otherwise it leads because
    /// its configuration says so.
    pub promoted: bool,
    /// Lead even though committed records of this log are lost to damage.
    pub accept_loss: bool,
}

impl LeaderOptions {
    /// Lead what the pool holds, or a new dataset.
    pub fn new(replid: Replid, new_dataset_id: Option<[u8; 16]>) -> LeaderOptions {
        LeaderOptions {
            replid,
            new_dataset_id,
            promise: Promise::default(),
            promoted: false,
            accept_loss: false,
        }
    }
}

/// Recovers the pool and begins a new reign. Nothing else may be working on the pool.
pub fn open_leader(pool: &Pool, options: &LeaderOptions) -> Result<Leader, RecoverError> {
    let log = pool.log();
    if log.state().mid_sync {
        return Err(RecoverError::MidSync);
    }
    let founds = pool.is_blank();
    if founds {
        pool.found(options.new_dataset_id.ok_or(RecoverError::Blank)?)?;
    }
    let (found, mut replayer) = recover(pool)?;
    if let Some(committed) = found.lost_committed
        && !options.accept_loss
    {
        return Err(RecoverError::Damaged { end: found.end.lsn, committed });
    }
    replayer.checkpoint()?;
    let mut heap = Heap::open(Arc::<crate::pmem::image::Image>::clone(pool.image()), replayer.image_len())?;
    redo_uncommitted(log, &mut heap, replayer.position(), found.end.lsn)?;
    let how =
        if options.promoted || founds { Beginning::Promoted } else { resuming(log, found.end.lsn, options) };
    if how == Beginning::Contested && !heap.is_formatted() {
        return Err(RecoverError::Empty);
    }
    let reign = begin_reign(log, found.end.lsn, how, options)?;
    let floor = replayer.checkpoint_lsn();
    let mut appender = Appender::new(Arc::clone(log), found.end, reign.epoch, found.committed, floor);
    let reign_begun = appender.append_epoch_start()?;
    appender.persist();
    tracing::info!(epoch = %reign.epoch, lsn = found.end.lsn.get(), "a new reign begins");
    Ok(Leader { heap, appender, replayer, reign, reign_begun, committed: found.committed })
}

/// Makes the new reign persistent and returns it. Reigns that the log has heard of and has no record of are
/// forgotten, but their numbers are not used again.
fn begin_reign(
    log: &LogMap,
    start: Lsn,
    how: Beginning,
    options: &LeaderOptions,
) -> Result<Reign, RecoverError> {
    let state = log.state();
    let (reigned, promised) = (state.history.epoch(), state.promised.epoch);
    // What was promised to another promotion is that one's number, and whoever leads by it knows nothing of this reign.
    let is_anothers = !options.promoted && promised.promotions() > reigned.promotions();
    let above = if is_anothers { promised.next_promotion() } else { reigned.max(promised) };
    let epoch = above.next().max(options.promise.epoch);
    // The number's, whoever it is that has it: only who is promoted claims one for himself.
    let current = state.history.current().map(Promise::to);
    let known = [Some(options.promise), Some(state.promised), current];
    let is_the_numbers =
        |known: &Promise| known.claim != Claim::NONE && known.epoch.promotions() == epoch.promotions();
    let claim = known.into_iter().flatten().find(is_the_numbers).map(|known| known.claim);
    let replid = claim.map_or(options.replid, |claim| options.replid.of(claim)).beginning(how);
    let reign = Reign { epoch, replid, start };
    let kept = state.history.reigns().iter().copied().filter(|reign| reign.start <= start).collect();
    let mut history = EpochHistory::new(kept).unwrap_or_default();
    history.push(reign);
    log.update_state(|state| {
        state.history = Arc::new(history);
        state.promised = Promise::to(&reign);
        if options.promoted {
            state.followed = Epoch::ZERO;
        }
    })?;
    Ok(reign)
}

/// How the reign begins that is the next one of a log that ends at `end`, and to which nobody is promoted.
fn resuming(log: &LogMap, end: Lsn, options: &LeaderOptions) -> Beginning {
    let state = log.state();
    let has_followed = state.followed != Epoch::ZERO;
    let has_promised = options.promise.epoch.max(state.promised.epoch) > state.history.epoch();
    let is_contested =
        |last: &Reign| last.beginning() == Beginning::Contested && last.is_idle(&log.geometry(), end);
    let still = state.history.current().is_some_and(is_contested);
    if has_followed || has_promised || still { Beginning::Contested } else { Beginning::Resumed }
}

/// Has a reign count to which nobody was promoted, once the leader's rules say that enough followers have joined: appends its second record,
/// and forgets whom this node had followed before it. A crash in between leaves a reign that is still to be settled, or is.
///
/// # Errors
/// When the ring has no room, or the log is stopped.
pub fn settle(appender: &mut Appender) -> Result<Lsn, RecoverError> {
    let end = appender.append_settled()?;
    appender.persist();
    let log = appender.log();
    if log.state().followed != Epoch::ZERO {
        log.update_state(|state| state.followed = Epoch::ZERO)?;
    }
    Ok(end)
}

/// Puts the part of the log that is durable and not known to be committed into the working view.
pub(crate) fn redo_uncommitted(
    log: &LogMap,
    heap: &mut Heap,
    from: Position,
    end: Lsn,
) -> Result<(), RecoverError> {
    let mut scanner = Scanner::new(log, from);
    let mut pending = Vec::new();
    while scanner.position().lsn < end {
        let record = scanner.next().map_err(|stop| {
            let lsn = scanner.position().lsn;
            ReplayError::Missing { lsn, committed: end, stop }
        })?;
        pending.push(record);
        if !ends_transaction(&record) {
            continue;
        }
        let lsn = scanner.position().lsn;
        for record in pending.drain(..) {
            for range in record.ranges() {
                let range = range.map_err(|source| ReplayError::Malformed { lsn, source })?;
                redo(heap, range, lsn)?;
            }
        }
    }
    heap.redo_done()?;
    Ok(())
}

fn redo(heap: &mut Heap, range: Range<'_>, lsn: Lsn) -> Result<(), RecoverError> {
    let (offset, len) = match range {
        Range::Grow { image_len } => return Ok(heap.redo_grow(image_len)?),
        Range::Bytes { offset, bytes } => (offset, bytes.len() as u64),
        Range::Fill { offset, len } => (offset, u64::from(len)),
    };
    let image_len = heap.view().image_len();
    if offset + len > image_len {
        return Err(ReplayError::OutsideImage { lsn, offset, len, image_len }.into());
    }
    match range {
        Range::Bytes { bytes, .. } => heap.redo_bytes(Offset::new(offset), bytes, lsn),
        _ => heap.redo_fill(Offset::new(offset), len, lsn),
    }
    Ok(())
}

/// What a follower works with.
#[derive(Debug)]
pub struct Follower {
    /// Carries the image along.
    pub replayer: Replayer,
    /// The end of the log, which the leader moves.
    pub tail: Tail,
    /// The image as clients read it, between two steps of the replayer. After a step its length must be set to
    /// [`Replayer::image_len`].
    pub view: View,
    /// Up to where the stream is known to be committed.
    pub committed: Lsn,
    /// The image makes sense, and may be read, only when `applied_lsn` has come this far: a crash may have left it
    /// partly ahead. On persistent memory that is so at once; on a disk it may take a word from the leader. In the middle
    /// of a delta sync it is [`NEVER`]: the sync has to end first.
    pub consistent_at: Lsn,
}

/// A position that no log reaches.
pub const NEVER: Lsn = Lsn::new(u64::MAX);

impl Follower {
    /// The end of the last whole transaction in the log.
    pub fn durable(&self) -> Lsn {
        self.tail.end().lsn
    }
}

/// Recovers the pool as a follower's, which holds a dataset. Nothing else may be working on the pool.
pub fn open_follower(pool: &Pool) -> Result<Follower, RecoverError> {
    if pool.is_blank() {
        return Err(RecoverError::Blank);
    }
    let (found, replayer) = recover(pool)?;
    if let Some(committed) = found.lost_committed {
        tracing::warn!(
            lsn = found.end.lsn.get(),
            committed = committed.get(),
            "the log is damaged; the leader has to send it again"
        );
    }
    let view = View::of_image(pool.image().shared_memory(), replayer.image_len());
    let by_instructions = pool.log().region().persistence().by_instructions();
    let consistent_at = match pool.log().state().mid_sync {
        true => NEVER,
        false if by_instructions => replayer.applied(),
        false => found.end.lsn,
    };
    Ok(Follower { replayer, tail: Tail::new(found.end), view, committed: found.committed, consistent_at })
}

fn recover(pool: &Pool) -> Result<(Survey, Replayer), RecoverError> {
    let log = pool.log();
    let state = log.state();
    log.set_gate(0);
    if state.mid_sync {
        // Records make the image longer and expect zeroes there. What those behind the checkpoint have stored there since
        // is stored again; what another dataset or a dead leader has left is gone.
        pool.image().clear_from(state.image_len)?;
    } else if state.image_len > 0 {
        // Before anything is stored: a damaged or swapped image stays as it is.
        let image = pool.image();
        // A power cut may leave a file on a disk shorter than the image that it holds; replaying makes it longer again.
        let longest = if image.persistence().by_instructions() { image.allocated() } else { image.max_len() };
        let view = View::of_image(image.shared_memory(), state.image_len);
        Heap::check_identity(&view, longest, state.dataset_id)?;
    }
    let mut found = survey(log);
    if let Stop::Malformed(source) = found.stop {
        return Err(RecoverError::Malformed { lsn: found.end.lsn, source });
    }
    // The process may have died and the machine gone on: then records were found that are in the caches only. That
    // another node holds the committed ones does not help: what follows them would hang in the air here.
    log.persist_stream(state.checkpoint.lsn, found.end.lsn)?;
    log.reset_marks(found.end.lsn, oldest_kept(log, state.checkpoint.lsn, found.end.lsn, state.oldest));
    let mut replayer = Replayer::new(Arc::clone(log), Arc::clone(pool.image()))?;
    replayer.run(found.committed)?;
    // A position in the middle of a transaction could only come from a leader gone mad; the image never gets there.
    found.committed = replayer.applied();
    Ok((found, replayer))
}

/// Cuts the log off at `end`, which must be the end of a transaction at or behind the checkpoint, and takes over the
/// leader's history. Nothing else may be working on the pool; open it as a follower afterwards. A crash in between
/// leaves the log cut off and the old history, which is as good a follower as before.
pub fn join(pool: &Pool, end: Lsn, history: EpochHistory) -> Result<(), RecoverError> {
    let log = pool.log();
    let promised = log.state().promised;
    if !history.current().is_some_and(|reign| promised.admits(Promise::to(reign))) {
        return Err(RecoverError::StaleEpoch { wanted: history.epoch(), promised: promised.epoch });
    }
    continue_from(pool, end, history)
}

/// As [`join`], for a node that is about to be promoted and takes over what another one holds: it takes part in none of these
/// reigns, so what it has promised does not matter.
pub fn continue_from(pool: &Pool, end: Lsn, history: EpochHistory) -> Result<(), RecoverError> {
    let log = pool.log();
    truncate(log, end)?;
    log.update_state(|state| {
        if let Some(promise) =
            history.current().map(Promise::to).filter(|promise| state.promised.admits(*promise))
        {
            state.promised = promise;
        }
        state.followed = history.epoch();
        state.history = Arc::new(history);
    })?;
    Ok(())
}

/// Gives up the latest reign of this pool, which has led it alone: nothing of it was committed, so nobody was told of anything in
/// it, and without it this node is again a follower like any other. What lies before it stays, and so does the promise to
/// its epoch. With it go the idle reigns before it ([`Reign::is_idle`]). A first reign stays as well: without one a dataset belongs nowhere. Nothing else may be working on the pool. A crash in
/// between leaves the log cut off and the reign in the history, with no record.
pub fn disown_reign(pool: &Pool) -> Result<(), RecoverError> {
    let log = pool.log();
    let state = log.state();
    let (mut earlier, reign) = match state.history.reigns() {
        [earlier @ .., reign] if !earlier.is_empty() => (earlier.to_vec(), *reign),
        _ => return Ok(()),
    };
    let (geometry, mut start) = (log.geometry(), reign.start);
    while let [.., _, last] = earlier[..]
        && last.is_idle(&geometry, start)
        && last.start >= state.checkpoint.lsn
    {
        start = last.start;
        earlier.pop();
    }
    truncate(log, start)?;
    log.update_state(|state| {
        if state.promised.admits(Promise::to(&reign)) {
            state.promised = Promise::to(&reign);
        }
        if let Some(history) = EpochHistory::new(earlier) {
            // Whose the earlier reign was is not known any more.
            state.followed = history.epoch();
            state.history = Arc::new(history);
        }
    })?;
    tracing::info!(epoch = %reign.epoch, lsn = start.get(), "a reign that committed nothing is given up");
    Ok(())
}

/// Where a delta sync begins.
#[derive(Clone, Debug)]
pub struct SyncStart {
    /// Where the log begins anew, and what its first record will continue.
    pub at: Position,
    /// Length of the leader's image there, in bytes.
    pub image_len: u64,
    /// The leader's history.
    pub history: EpochHistory,
}

/// Gives up what image and log of this pool say, and begins a delta sync (I10): the log starts anew at a position of the
/// leader's, and the image keeps its bytes only to be compared. The pool must hold the leader's dataset. Nothing else may be
/// working on the pool; open it as a follower afterwards. A crash in between leaves the pool as it was, or in the
/// middle of a sync with nothing settled.
pub fn begin_sync(pool: &Pool, start: SyncStart) -> Result<(), RecoverError> {
    let log = pool.log();
    let promised = log.state().promised;
    let Some(promise) = start.history.current().map(Promise::to).filter(|promise| promised.admits(*promise))
    else {
        return Err(RecoverError::StaleEpoch { wanted: start.history.epoch(), promised: promised.epoch });
    };
    let SyncStart { at, image_len, history } = start;
    let history = Arc::new(history);
    log.update_state(|state| {
        state.promised = promise;
        state.followed = history.epoch();
        (state.checkpoint, state.oldest, state.image_len) = (at, at.lsn, image_len);
        (state.mid_sync, state.sync_cursor) = (true, 0);
        state.history = history;
    })?;
    // What the image was ahead of its log does not matter any more, and must not be taken for what it will be.
    log.set_replay_limit(at.lsn);
    erase_record(log, at.lsn)?;
    log.reset_marks(at.lsn, at.lsn);
    Ok(())
}

/// Makes what lies at `lsn`, the end of a record, no record. Where the ring is full from the checkpoint up to there, its place is
/// taken by what replaying begins with, and there is no record to be erased.
pub(crate) fn erase_record(log: &LogMap, lsn: Lsn) -> io::Result<()> {
    const _: () = assert!(MIN_ROOM as usize >= HEADER_LEN);
    let start = log.geometry().record_start(lsn);
    if start + HEADER_LEN as u64 > log.checkpoint() + log.geometry().ring_len() {
        return Ok(());
    }
    let at = log.file_offset(start);
    log.region().store(at, &[0; HEADER_LEN]);
    log.region().persist(at, HEADER_LEN)
}

/// Promises to take part in no epoch below this one (I11), and in no other promotion of that number, persistently, and closes the window to
/// a leader that stores into it itself.
pub fn promise(log: &LogMap, promise: Promise) -> Result<(), RecoverError> {
    let promised = log.state().promised;
    if !promised.admits(promise) {
        return Err(RecoverError::StaleEpoch { wanted: promise.epoch, promised: promised.epoch });
    }
    if promise != promised {
        if !promise.epoch.is_believable() {
            return Err(RecoverError::NoRoomAbove(promise.epoch));
        }
        log.update_state(|state| state.promised = promise)?;
    }
    log.set_gate(0);
    Ok(())
}

/// Cuts the log off at `end`: what lies behind will never validate again.
pub fn truncate(log: &LogMap, end: Lsn) -> Result<(), RecoverError> {
    let state = log.state();
    if end < state.checkpoint.lsn {
        let why = "the image holds more than that, up to the checkpoint";
        return Err(RecoverError::Cut { wanted: end, why, limit: state.checkpoint.lsn });
    }
    let mut scanner = Scanner::new(log, state.checkpoint);
    let mut last_end = state.checkpoint.lsn;
    while scanner.position().lsn < end {
        match scanner.next() {
            Ok(record) if ends_transaction(&record) => last_end = scanner.position().lsn,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    if last_end != end {
        return Err(RecoverError::Cut {
            wanted: end,
            why: "no transaction ends there; the last one before",
            limit: last_end,
        });
    }
    erase_record(log, end)?;
    log.reset_marks(end, log.oldest().min(end));
    Ok(())
}
