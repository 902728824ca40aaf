//! Epoch histories between the pool, which stores them, and the handshake, which compares them.

use farkeep_core::log::{EpochHistory, Reign, Replid};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_proto::control;

/// A pool's history as it goes into a message.
pub fn to_message(history: &EpochHistory) -> Vec<control::Reign> {
    let reign = |reign: &Reign| control::Reign {
        epoch: reign.epoch.get(),
        replid: reign.replid.0.to_vec(),
        start_lsn: reign.start.get(),
    };
    history.reigns().iter().map(reign).collect()
}

/// The history in a message; `None` if there can be no such history, or one that leaves no room for what is to come.
pub fn from_message(reigns: &[control::Reign]) -> Option<EpochHistory> {
    let reign = |reign: &control::Reign| {
        let (epoch, start) = (Epoch::new(reign.epoch), Lsn::new(reign.start_lsn));
        let replid = Replid(reign.replid.as_slice().try_into().ok()?);
        (epoch.is_believable() && start.is_believable()).then_some(Reign { epoch, replid, start })
    };
    EpochHistory::new(reigns.iter().map(reign).collect::<Option<_>>()?)
}
