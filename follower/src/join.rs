//! Introducing oneself, and looking at the welcome.

use farkeep_core::log::Promise;
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::{FabricKind, Identity, history};
use farkeep_proto::control::{FabricOffer, Hello, PROTOCOL_VERSION, Reign, Welcome};

use crate::apply::Progress;

/// Why a follower does not accept a leader's welcome, or does not get one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The leader said no.
    #[error("the leader refuses: {0}")]
    Refused(String),
    /// The leader said no because the dataset of this node's pool is another one.
    #[error("the leader refuses: {0}")]
    RefusedDataset(String),
    /// The leader reigns in an epoch below the one this node has promised to.
    #[error(
        "the leader is of epoch {theirs}, but this node has promised to take part in none below {promised}"
    )]
    StaleLeader {
        /// The leader's epoch.
        theirs: Epoch,
        /// What this node has promised.
        promised: Epoch,
    },
    /// Two reigns, or two promotions, bear the same number.
    #[error(
        "the leader's reign of epoch {0} is not the one of that number that this node has followed, or has promised to"
    )]
    TwinReign(Epoch),
    /// The leader's dataset is another one.
    #[error("the leader's dataset is not the one in this node's pool")]
    ForeignDataset,
    /// The rings differ.
    #[error(
        "the leader's log is a ring of {ring_len} bytes in segments of {segment_len}, this node's is not"
    )]
    Geometry {
        /// The leader's ring.
        ring_len: u64,
        /// The leader's segments.
        segment_len: u64,
    },
    /// The leader wants to go on from where this node cannot.
    #[error(
        "the leader wants to go on from LSN {resume}, but this node holds {durable} and has committed {committed}"
    )]
    Unreachable {
        /// From where.
        resume: Lsn,
        /// What the log holds.
        durable: Lsn,
        /// What cannot be taken back.
        committed: Lsn,
    },
    /// The welcome makes no sense.
    #[error("the leader's welcome is incomplete or names an unknown fabric")]
    Malformed,
}

/// What the pool says about past reigns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) history: Vec<Reign>,
    pub(crate) promised: Promise,
}

impl Past {
    /// The highest epoch that this node has anything to do with.
    pub(crate) fn highest(&self) -> Epoch {
        let last = self.history.last().map_or(0, |reign| reign.epoch);
        self.promised.epoch.max(Epoch::new(last))
    }
}

/// The part of a hello that is about the pool.
pub(crate) fn hello(
    identity: &Identity,
    past: &Past,
    progress: Progress,
    fabrics: Vec<FabricOffer>,
) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        log_format: identity.log_format,
        node_id: identity.node_id.to_vec(),
        dataset_id: identity.dataset_id.map_or_else(Vec::new, |id| id.to_vec()),
        history: past.history.clone(),
        progress: progress.message(),
        promised_epoch: past.promised.epoch.get(),
        promised_claim: past.promised.claim.0.to_vec(),
        ring_len: identity.ring_len,
        segment_len: identity.segment_len,
        fabrics,
        software: identity.software.clone(),
        ..Hello::default()
    }
}

/// A welcome that can be accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) promise: Promise,
    pub(crate) resume: Lsn,
    pub(crate) fabric: FabricKind,
    pub(crate) dataset_id: [u8; 16],
}

pub(crate) fn examine(
    identity: &Identity,
    past: &Past,
    progress: Progress,
    welcome: &Welcome,
) -> Result<Accepted, JoinError> {
    let current = welcome.history.last().ok_or(JoinError::Malformed)?;
    let fabric = FabricKind::from_name(&welcome.fabric).ok_or(JoinError::Malformed)?;
    // What would overflow some day, or be found impossible in the pool.
    let history = history::from_message(&welcome.history).ok_or(JoinError::Malformed)?;
    let promise = history.current().map(Promise::to).ok_or(JoinError::Malformed)?;
    let epoch = promise.epoch;
    let lengths = [welcome.resume_lsn, welcome.begin_sync.map_or(0, |begin| begin.image_len)];
    if !lengths.iter().all(|&number| Lsn::new(number).is_believable()) {
        return Err(JoinError::Malformed);
    }
    let dataset_id: [u8; 16] = welcome.dataset_id.as_slice().try_into().map_err(|_| JoinError::Malformed)?;
    if epoch < past.highest() {
        return Err(JoinError::StaleLeader { theirs: epoch, promised: past.highest() });
    }
    let is_twin = past.history.last().is_some_and(|last| last.epoch == current.epoch && last != current);
    if is_twin || !past.promised.admits(promise) {
        return Err(JoinError::TwinReign(epoch));
    }
    match identity.dataset_id {
        Some(ours) if ours != dataset_id => return Err(JoinError::ForeignDataset),
        Some(_) if (identity.ring_len, identity.segment_len) != (welcome.ring_len, welcome.segment_len) => {
            return Err(JoinError::Geometry { ring_len: welcome.ring_len, segment_len: welcome.segment_len });
        }
        _ => {}
    }
    let (resume, durable, committed) = (Lsn::new(welcome.resume_lsn), progress.durable, progress.committed);
    // A sync begins anew wherever the leader says.
    if welcome.begin_sync.is_none() && (resume > durable || resume < committed) {
        return Err(JoinError::Unreachable { resume, durable, committed });
    }
    Ok(Accepted { promise, resume, fabric, dataset_id })
}
