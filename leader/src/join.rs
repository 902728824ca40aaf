//! Whether a follower may join, and from where.
//!
//! A pure decision over two epoch histories and a few numbers. The point from which a log can go on is the last one
//! that both logs have in common: up to it they hold the same records, because a record's place and epoch name it.

use farkeep_core::log::{self, Beginning, Claim, EpochHistory, Geometry, Promise};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::{FabricKind, Identity, history};
use farkeep_proto::control::{Hello, PROTOCOL_VERSION, Refuse, RefuseReason, Reign};

/// What is left to an operator whose follower holds records that its leader lacks.
const TO_DECIDE: &str =
    "have that node lead that holds the most, or give the follower's records up (replace-dataset yes on it)";

/// What the decision needs to know of the leader.
#[derive(Debug)]
pub(crate) struct Ours<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) history: &'a [Reign],
    /// The same, as the pool has it.
    pub(crate) past: &'a EpochHistory,
    pub(crate) followed: Epoch,
    /// Whether the reign counts; see [`Leader::may_settle`](crate::Leader::may_settle).
    pub(crate) settled: bool,
    /// Whether writes wait for followers.
    pub(crate) waits: bool,
    pub(crate) oldest: Lsn,
    pub(crate) checked: Lsn,
    pub(crate) appended: Lsn,
    pub(crate) fabrics: &'a [FabricKind],
    pub(crate) unusable: &'a [(FabricKind, String)],
}

/// What comes of a `Hello`.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Go on from here, over this fabric, and why over no better one.
    Resume { from: Lsn, fabric: FabricKind, fabric_reason: String },
    /// Go on from here, if the log is whole from here on: it has not been read yet.
    Check { from: Lsn },
    /// What the follower holds cannot be gone on from, for this reason: make its image ours.
    Sync { why: String, fabric: FabricKind, fabric_reason: String },
    /// The follower has promised to an epoch, or to a promotion of the same number, that is not ours, but holds nothing we lack: a reign
    /// above this epoch, with this claim to its number, or with a new one if there is none, can take it in.
    Renew { above: Promise },
    /// It cannot join.
    Refuse(Refuse),
}

/// `sync_asked_for`: an operator does not trust what the follower holds.
pub(crate) fn decide(ours: &Ours<'_>, hello: &Hello, sync_asked_for: bool) -> Decision {
    let epoch = ours.history.last().map_or(0, |reign| reign.epoch);
    let refuse =
        |reason: RefuseReason, text: String| Decision::Refuse(Refuse { reason: reason.into(), text, epoch });
    let identity = ours.identity;
    if (hello.protocol, hello.log_format) != (PROTOCOL_VERSION, identity.log_format) {
        return refuse(
            RefuseReason::Version,
            format!(
                "the follower ({}) speaks protocol {} and log format {}, the leader ({}) {PROTOCOL_VERSION} and {}",
                hello.software, hello.protocol, hello.log_format, identity.software, identity.log_format
            ),
        );
    }
    let empty = hello.dataset_id.is_empty();
    if !empty && identity.dataset_id.as_ref().map(|id| &id[..]) != Some(&hello.dataset_id[..]) {
        return refuse(
            RefuseReason::ForeignDataset,
            format!(
                "the follower's pool holds another dataset ({}) than the leader's ({}); start it with an empty pool",
                hex(&hello.dataset_id),
                identity.dataset_id.as_ref().map_or_else(|| "none".into(), |id| hex(id)),
            ),
        );
    }
    if !empty && (hello.ring_len, hello.segment_len) != (identity.ring_len, identity.segment_len) {
        return refuse(
            RefuseReason::Geometry,
            format!(
                "the follower's log is a ring of {} bytes in segments of {}, the leader's one of {} in segments of {}; \
                 both must be the same (log-size)",
                hello.ring_len, hello.segment_len, identity.ring_len, identity.segment_len
            ),
        );
    }
    let durable = Lsn::new(hello.progress.durable_lsn);
    let promised = Claim::from_bytes(&hello.promised_claim)
        .map(|claim| Promise { epoch: Epoch::new(hello.promised_epoch), claim })
        .filter(|promised| promised.epoch.is_believable() && durable.is_believable());
    let Some(promised) = promised else {
        return refuse(RefuseReason::Version, "the follower's promise or position makes no sense".into());
    };
    // What is in the image cannot be taken back. After a restart this is what recovery has replayed.
    let applied = Lsn::new(hello.progress.applied_lsn.max(hello.progress.checkpoint_lsn));
    let Some(theirs) = history::from_message(&hello.history) else {
        return refuse(RefuseReason::Version, "the follower's epoch history makes no sense".into());
    };
    // Without a remembered common reign nothing but the empty log is known to be common.
    let common = ours.past.common_point(ours.appended, &theirs, durable).unwrap_or(Lsn::ZERO);

    let last = hello.history.last();
    let Some(geometry) = Geometry::new(identity.ring_len, identity.segment_len) else {
        return refuse(RefuseReason::Geometry, "the leader's log is impossible".into());
    };
    // Idle reigns are nobody's: a leader that was ended before enough followers came has nothing to lose.
    let counted = theirs.standing(&geometry, theirs.epoch(), durable).1;
    // Nor has one that was promoted and took no write, where a commit says nothing of what others hold.
    let has_only_begun = !ours.waits && theirs.has_only_begun(&geometry, common, durable);
    let has_nothing_to_lose = counted <= common || has_only_begun || hello.replace_dataset;
    // Who has nothing to lose may help to settle a reign, and is then one of those who know of it.
    let beside = if has_nothing_to_lose { asked_for(ours) } else { undisputed(ours, &geometry) };
    let foreign_reign =
        last.is_some_and(|reign| Epoch::new(reign.epoch) >= beside && !ours.history.contains(reign));
    let is_foreign =
        foreign_reign || !ours.past.current().is_some_and(|reign| promised.admits(Promise::to(reign)));
    if is_foreign {
        if has_nothing_to_lose {
            return Decision::Renew { above: above(ours.past, &theirs, promised) };
        }
        let followed = promised.epoch.max(Epoch::new(last.map_or(0, |reign| reign.epoch)));
        let or_older = match followed.promotions() == Epoch::new(epoch).promotions() {
            true => ", or its pool is an older one",
            false => "",
        };
        return refuse(
            RefuseReason::StaleLeader,
            format!(
                "the follower has followed epoch {followed} and holds records up to LSN {durable} that this leader of epoch \
                 {} does not have (common up to {common}): this leader has been superseded{or_older}; {TO_DECIDE}",
                Epoch::new(epoch),
            ),
        );
    }
    let may_lose = has_nothing_to_lose || sync_asked_for || hello.mid_sync;
    if !may_lose && let Some(why) = lacks_what_may_be_committed(ours, last, common, applied) {
        return refuse(
            RefuseReason::StaleLeader,
            format!(
                "the follower holds records up to LSN {durable} that this leader of epoch {} does not have (common up to \
                 {common}), and {why}; {TO_DECIDE}",
                Epoch::new(epoch),
            ),
        );
    }
    let (fabric, fabric_reason) = match choose_fabric(ours, hello) {
        Ok(chosen) => chosen,
        Err(why) => return refuse(RefuseReason::NoFabric, why),
    };
    let why_not = if sync_asked_for {
        "an operator asked for it".to_owned()
    } else if common < applied {
        format!(
            "its image already holds LSN {applied}, but its log and the leader's are the same only up to {common}"
        )
    } else if common < ours.oldest {
        let oldest = ours.oldest;
        format!(
            "the leader's log no longer reaches back to LSN {common} (oldest_lsn {oldest}, the follower has {durable})"
        )
    } else if common < ours.checked {
        return Decision::Check { from: common };
    } else {
        return Decision::Resume { from: common, fabric, fabric_reason };
    };
    Decision::Sync { why: why_not, fabric, fabric_reason }
}

/// The latest of our reigns that asks others before it counts, or has asked them.
fn asked_for(ours: &Ours<'_>) -> Epoch {
    let asks = |reign: &&log::Reign| reign.beginning() != Beginning::Resumed;
    ours.past.reigns().iter().rev().find(asks).map_or(Epoch::ZERO, |reign| reign.epoch)
}

/// The latest of our reigns that enough others knew of before it counted: nobody has gone on beside it from an earlier one. From this one
/// on, somebody may have who was not promoted either, whatever numbers this node's restarts have had since.
fn undisputed(ours: &Ours<'_>, geometry: &Geometry) -> Epoch {
    let reigns = ours.past.reigns();
    let is_undisputed = |&index: &usize| match reigns[index].beginning() {
        Beginning::Promoted => true,
        Beginning::Resumed => false,
        Beginning::Contested => match reigns.get(index + 1) {
            Some(next) => !reigns[index].is_idle(geometry, next.start),
            None => ours.settled,
        },
    };
    (0..reigns.len()).rev().find(is_undisputed).map_or(Epoch::ZERO, |index| reigns[index].epoch)
}

/// What a reign has to be above that takes in a follower with another promise. The number of somebody else's promotion is that one's, who may lead by it
/// still: with a number below it this leader would acknowledge what whoever leads by it does not know of. So it takes the next one.
fn above(ours: &EpochHistory, theirs: &EpochHistory, promised: Promise) -> Promise {
    let own = ours.current().map(Promise::to).unwrap_or_default();
    let followed = theirs.current().map(Promise::to).unwrap_or(promised);
    let highest = promised.epoch.max(followed.epoch).max(own.epoch);
    let is_twin = |known: Promise| {
        known.epoch.promotions() == own.epoch.promotions() && ![own.claim, Claim::NONE].contains(&known.claim)
    };
    if highest.promotions() > own.epoch.promotions() || is_twin(promised) || is_twin(followed) {
        Promise { epoch: highest.next_promotion(), claim: Claim::NONE }
    } else {
        Promise { epoch: highest, claim: own.claim }
    }
}

/// Why records that a follower has and this leader has not may have been acknowledged to somebody, if nobody has decided to give them
/// up. A promotion is such a decision: whoever makes it has seen what the others hold.
fn lacks_what_may_be_committed(
    ours: &Ours<'_>,
    last: Option<&Reign>,
    common: Lsn,
    applied: Lsn,
) -> Option<String> {
    let shared = last.filter(|reign| ours.history.contains(reign)).map(|reign| Epoch::new(reign.epoch));
    if ours.followed > Epoch::ZERO && shared.is_none_or(|epoch| epoch <= ours.followed) {
        return Some(format!(
            "it leads because its configuration says so: it had followed epoch {} and was not promoted",
            ours.followed
        ));
    }
    // What was committed under a leader is durable on it, and only that gets into an image.
    let [ours, theirs] =
        [ours.history.last(), last].map(|reign| Epoch::new(reign.map_or(0, |reign| reign.epoch)));
    (applied > common && ours.promotions() == theirs.promotions()).then(|| {
        format!(
            "they were committed up to LSN {applied}, as its image shows: this leader's pool is an older one"
        )
    })
}

/// The follower's first offer that is usable and that the leader can use too, and why the better ones are not.
fn choose_fabric(ours: &Ours<'_>, hello: &Hello) -> Result<(FabricKind, String), String> {
    let mut reasons = Vec::new();
    for offer in &hello.fabrics {
        match FabricKind::from_name(&offer.name) {
            _ if !offer.unusable.is_empty() => reasons.push(format!("{}: {}", offer.name, offer.unusable)),
            Some(kind) if ours.fabrics.contains(&kind) => return Ok((kind, reasons.join("; "))),
            Some(kind) => match ours.unusable.iter().find(|(unusable, _)| *unusable == kind) {
                Some((_, why)) => reasons.push(format!("{kind}: {why}")),
                None => reasons.push(format!("{kind}: not usable on the leader")),
            },
            None => reasons.push(format!("{}: unknown to the leader", offer.name)),
        }
    }
    Err(format!("no fabric that both sides can use ({})", reasons.join("; ")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use farkeep_core::log::Replid;
    use farkeep_proto::control::{FabricOffer, Progress};

    fn reign(epoch: u32, tag: u8, start_lsn: u64) -> Reign {
        Reign { epoch, replid: vec![tag; 20], start_lsn }
    }

    fn identity() -> Identity {
        Identity {
            node_id: [1; 16],
            dataset_id: Some([9; 16]),
            log_format: 1,
            ring_len: 1 << 20,
            segment_len: 1 << 16,
            software: "test".into(),
        }
    }

    fn hello(history: Vec<Reign>, durable: u64, checkpoint: u64) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            log_format: 1,
            node_id: vec![2; 16],
            dataset_id: vec![9; 16],
            promised_epoch: history.last().map_or(0, |reign| reign.epoch),
            history,
            progress: Progress { durable_lsn: durable, applied_lsn: checkpoint, checkpoint_lsn: checkpoint },
            ring_len: 1 << 20,
            segment_len: 1 << 16,
            fabrics: vec![
                FabricOffer { name: "rdma".into(), unusable: "no device".into(), ..FabricOffer::default() },
                FabricOffer { name: "tcp".into(), ..FabricOffer::default() },
            ],
            ..Hello::default()
        }
    }

    /// Goes on with a number, and whose it is.
    fn renews(epoch: u32, tag: u8) -> Decision {
        Decision::Renew { above: Promise { epoch: Epoch::new(epoch), claim: Claim([tag; Claim::LEN]) } }
    }

    /// Takes the number after that of this epoch.
    fn renews_in_the_next(epoch: u32) -> Decision {
        let epoch = Epoch::new(epoch).next_promotion();
        Decision::Renew { above: Promise { epoch, claim: Claim::NONE } }
    }

    fn decide_at(history: &[Reign], oldest: u64, appended: u64, hello: &Hello) -> Decision {
        decide_as(Epoch::ZERO, true, history, oldest, appended, hello)
    }

    fn decide_as(
        followed: Epoch,
        settled: bool,
        history: &[Reign],
        oldest: u64,
        appended: u64,
        hello: &Hello,
    ) -> Decision {
        let identity = identity();
        let ours = Ours {
            identity: &identity,
            history,
            past: &history::from_message(history).unwrap(),
            followed,
            settled,
            waits: true,
            oldest: Lsn::new(oldest),
            checked: Lsn::new(oldest),
            appended: Lsn::new(appended),
            fabrics: &[FabricKind::Tcp],
            unusable: &[],
        };
        decide(&ours, hello, false)
    }

    #[track_caller]
    fn assert_chooses(
        usable: &[FabricKind],
        unusable: &[(FabricKind, String)],
        offers: &[(&str, &str)],
        expected: Result<(FabricKind, &str), &str>,
    ) {
        let identity = identity();
        let history = [reign(1, 1, 0)];
        let ours = Ours {
            identity: &identity,
            history: &history,
            past: &history::from_message(&history).unwrap(),
            followed: Epoch::ZERO,
            settled: true,
            waits: true,
            oldest: Lsn::ZERO,
            checked: Lsn::ZERO,
            appended: Lsn::ZERO,
            fabrics: usable,
            unusable,
        };
        let offer = |&(name, unusable): &(&str, &str)| FabricOffer {
            name: name.into(),
            unusable: unusable.into(),
            ..FabricOffer::default()
        };
        let hello = Hello { fabrics: offers.iter().map(offer).collect(), ..hello(history.to_vec(), 0, 0) };
        let expected = expected.map(|(kind, why)| (kind, why.to_owned())).map_err(ToOwned::to_owned);
        assert_eq!(choose_fabric(&ours, &hello), expected);
    }

    #[test]
    fn rdma_is_chosen_where_both_can_and_otherwise_tcp_with_the_reason() {
        let both = [FabricKind::Rdma, FabricKind::Tcp];
        let offers = [("rdma", ""), ("tcp", "")];
        assert_chooses(&both, &[], &offers, Ok((FabricKind::Rdma, "")));
        let why = "rdma: the follower has no device";
        let unusable = [("rdma", "the follower has no device"), ("tcp", "")];
        assert_chooses(&both, &[], &unusable, Ok((FabricKind::Tcp, why)));
        let broken = [(FabricKind::Rdma, "the connection broke, tried again in 2 s".to_owned())];
        let why = "rdma: the connection broke, tried again in 2 s";
        assert_chooses(&[FabricKind::Tcp], &broken, &offers, Ok((FabricKind::Tcp, why)));
        let why = "no fabric that both sides can use (rdma: the connection broke, tried again in 2 s)";
        assert_chooses(&[FabricKind::Tcp], &broken, &offers[..1], Err(why));
        // A follower of an older version, or one that is not to use it, does not list it.
        assert_chooses(&both, &[], &offers[1..], Ok((FabricKind::Tcp, "")));
    }

    #[track_caller]
    fn assert_resumes(decision: Decision, at: u64) {
        match decision {
            Decision::Resume { from, fabric: FabricKind::Tcp, fabric_reason } => {
                assert_eq!(from, Lsn::new(at));
                assert_eq!(fabric_reason, "rdma: no device");
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn assert_refused(decision: Decision, why: RefuseReason, says: &str) {
        match decision {
            Decision::Refuse(refuse) => {
                assert_eq!(refuse.reason(), why, "{}", refuse.text);
                assert!(refuse.text.contains(says), "{}", refuse.text);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_follower_of_the_same_reign_goes_on_where_it_stands() {
        let history = [reign(1, 1, 0)];
        assert_resumes(decide_at(&history, 0, 5000, &hello(history.to_vec(), 4000, 1000)), 4000);
    }

    #[test]
    fn an_ex_leaders_suffix_is_cut_where_the_next_reign_began() {
        let ours = [reign(1, 1, 0), reign(2, 2, 3000)];
        assert_resumes(decide_at(&ours, 0, 5000, &hello(vec![reign(1, 1, 0)], 4000, 1000)), 3000);
    }

    #[test]
    fn a_promoted_node_that_lost_against_another_is_cut_where_the_two_parted() {
        // Both were promoted from the same reign; the follower wrote in epoch 2 from 2000, we in epoch 3 from 3000.
        let ours = [reign(1, 1, 0), reign(3, 3, 3000)];
        let theirs = vec![reign(1, 1, 0), reign(2, 2, 2000)];
        assert_resumes(decide_at(&ours, 0, 5000, &hello(theirs, 9000, 1000)), 2000);
    }

    #[test]
    fn a_follower_that_took_over_a_history_but_not_yet_its_records_is_not_ahead() {
        let ours = [reign(1, 1, 0), reign(2, 2, 3000)];
        assert_resumes(decide_at(&ours, 0, 5000, &hello(ours.to_vec(), 2500, 1000)), 2500);
    }

    #[track_caller]
    fn assert_syncs(decision: Decision, says: &str) {
        match decision {
            Decision::Sync { why, .. } => assert!(why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_log_no_longer_holds_is_synced_with_the_numbers_that_say_why() {
        let history = [reign(1, 1, 0)];
        let decision = decide_at(&history, 2000, 5000, &hello(history.to_vec(), 1500, 1000));
        assert_syncs(decision, "oldest_lsn 2000, the follower has 1500");
    }

    #[test]
    fn an_image_beyond_the_common_point_is_synced() {
        let ours = [reign(1, 1, 0), reign(1 << 16, 2, 3000)];
        let decision = decide_at(&ours, 0, 5000, &hello(vec![reign(1, 1, 0)], 4000, 3500));
        assert_syncs(decision, "same only up to 3000");
    }

    #[test]
    fn a_foreign_dataset_another_version_and_another_geometry_are_refused() {
        let history = [reign(1, 1, 0)];
        let good = hello(history.to_vec(), 4000, 1000);
        let foreign = Hello { dataset_id: vec![8; 16], ..good.clone() };
        assert_refused(
            decide_at(&history, 0, 5000, &foreign),
            RefuseReason::ForeignDataset,
            "another dataset",
        );
        let version = Hello { protocol: 99, ..good.clone() };
        assert_refused(decide_at(&history, 0, 5000, &version), RefuseReason::Version, "protocol 99");
        let geometry = Hello { ring_len: 7 << 20, ..good.clone() };
        assert_refused(decide_at(&history, 0, 5000, &geometry), RefuseReason::Geometry, "log-size");
        let fabrics = Hello { fabrics: vec![], ..good };
        assert_refused(decide_at(&history, 0, 5000, &fabrics), RefuseReason::NoFabric, "no fabric");
    }

    #[test]
    fn an_empty_follower_needs_no_sync_as_long_as_the_log_reaches_back_to_the_start() {
        let history = [reign(1, 1, 0)];
        let empty = Hello { dataset_id: vec![], ring_len: 0, ..hello(vec![], 0, 0) };
        assert_resumes(decide_at(&history, 0, 5000, &empty), 0);
        assert_syncs(decide_at(&history, 64, 5000, &empty), "oldest_lsn 64");
    }

    #[test]
    fn a_superseded_leader_takes_nobody_in_and_is_told_so() {
        let ours = [reign(1, 1, 0)];
        let theirs = vec![reign(1, 1, 0), reign(2, 2, 3000)];
        assert_refused(
            decide_at(&ours, 0, 5000, &hello(theirs, 4000, 1000)),
            RefuseReason::StaleLeader,
            "superseded",
        );
    }

    #[test]
    fn a_promoted_node_gives_its_records_up_only_where_the_operator_says_so() {
        let ours = [reign(1, 1, 0)];
        let theirs = vec![reign(1, 1, 0), reign(2, 2, 3000)];
        let told = Hello { replace_dataset: true, ..hello(theirs.clone(), 4000, 1000) };
        assert_eq!(decide_at(&ours, 0, 5000, &told), renews_in_the_next(2));
        let renewed = [reign(1, 1, 0), reign(3, 3, 5000)];
        let told = Hello { replace_dataset: true, ..hello(theirs, 4000, 3500) };
        let synced = decide_at(&renewed, 0, 5100, &told);
        assert_syncs(synced, "same only up to 3000");
    }

    #[test]
    fn a_leader_that_was_not_promoted_takes_no_records_away_from_those_it_had_followed() {
        // It followed epoch 2 up to 3000, and was then started as a leader: epoch 3.
        let ours = [reign(1, 1, 0), reign(2, 2, 2000), reign(3, 3, 3000)];
        let decide = |followed, hello: &Hello| decide_as(Epoch::new(followed), false, &ours, 0, 5000, hello);
        let ahead = hello(ours[..2].to_vec(), 4000, 1000);
        assert_refused(decide(2, &ahead), RefuseReason::StaleLeader, "was not promoted");
        // A reign that it has never heard of, and that was not promoted either.
        let other = hello(vec![reign(1, 1, 0), reign(2, 7, 2500)], 4000, 1000);
        assert_refused(decide(2, &other), RefuseReason::StaleLeader, "was not promoted");
        // With a promotion in between it may.
        assert!(matches!(decide(0, &ahead), Decision::Resume { from, .. } if from == Lsn::new(3000)));
        // Those that hold no more, that are told to, or that have followed this very reign.
        for willing in [
            hello(ours[..2].to_vec(), 3000, 1000),
            Hello { replace_dataset: true, ..ahead.clone() },
            hello(ours.to_vec(), 5200, 1000),
        ] {
            assert!(matches!(decide(2, &willing), Decision::Resume { .. }), "{willing:?}");
        }
    }

    /// The same reign of a leader that goes on by itself.
    fn beginning(how: Beginning, mut reign: Reign) -> Reign {
        reign.replid = Replid([reign.replid[0]; 20]).beginning(how).0.to_vec();
        reign
    }

    #[test]
    fn no_restart_supersedes_who_has_gone_on_beside_a_leader() {
        let decide =
            |settled, ours: &[Reign], hello: &Hello| decide_as(Epoch::ZERO, settled, ours, 0, 5000, hello);
        let promoted = [reign(1, 1, 0), reign(4, 4, 2000)];
        for (how, settled) in [(Beginning::Resumed, true), (Beginning::Contested, false)] {
            let ours = [&promoted[..], &[beginning(how, reign(6, 6, 3000))]].concat();
            let beside = |durable| hello([&promoted[..], &[reign(5, 7, 2900)]].concat(), durable, 1000);
            assert_refused(
                decide(settled, &ours, &beside(4000)),
                RefuseReason::StaleLeader,
                "has been superseded",
            );
            // It has written nothing there, but may have helped whom it has followed to settle his reign.
            match decide(settled, &ours, &beside(2900)) {
                Decision::Renew { .. } => assert_eq!(how, Beginning::Resumed),
                decision => {
                    assert_eq!(how, Beginning::Contested);
                    assert_resumes(decision, 2900);
                }
            }
            // Of what was before its promotion a leader has whatever counts, and of its own.
            let before = hello(vec![reign(1, 1, 0), reign(3, 7, 1900)], 4000, 1000);
            assert_resumes(decide(settled, &ours, &before), 1900);
            assert_resumes(decide(settled, &ours, &hello(promoted.to_vec(), 4000, 1000)), 3000);
        }
        // Enough have joined, so what they lack does not count.
        let ours = [&promoted[..], &[beginning(Beginning::Contested, reign(6, 6, 3000))]].concat();
        let beside = hello([&promoted[..], &[reign(5, 7, 2900)]].concat(), 4000, 1000);
        assert_resumes(decide(true, &ours, &beside), 2900);
        for (restarted_at, had_settled) in [(3032, false), (3064, true)] {
            let restarted = beginning(Beginning::Resumed, reign(7, 6, restarted_at));
            let decision = decide(true, &[&ours[..], &[restarted]].concat(), &beside);
            assert_eq!(matches!(decision, Decision::Resume { .. }), had_settled, "{decision:?}");
        }
    }

    #[test]
    fn reigns_that_nobody_was_promoted_to_and_that_were_not_settled_are_nothing_to_lose() {
        let ours = [reign(1, 1, 0), reign(3, 3, 3000)];
        let idle = |epoch, at| beginning(Beginning::Contested, reign(epoch, 5, at));
        let twice = [ours[0].clone(), idle(4, 3000), idle(5, 3032)];
        assert!(matches!(
            decide_at(&ours, 0, 5000, &hello(twice.to_vec(), 3064, 1000)),
            Decision::Renew { .. }
        ));
        let settled = decide_at(&ours, 0, 5000, &hello(twice.to_vec(), 3096, 1000));
        assert_refused(settled, RefuseReason::StaleLeader, "has been superseded");
        let before = [ours[0].clone(), reign(4, 4, 2500), idle(5, 3032)];
        let refused = decide_at(&ours, 0, 5000, &hello(before.to_vec(), 3064, 1000));
        assert_refused(refused, RefuseReason::StaleLeader, "has been superseded");
    }

    #[test]
    fn a_leader_that_has_only_restarted_lacks_nothing_that_was_committed() {
        let restarted = Epoch::new(1).next_promotion().next();
        let ours = [reign(1, 1, 0), reign(restarted.get(), 2, 2000), reign(restarted.next().get(), 3, 3000)];
        // What nobody was told of may have been lost with the power, ...
        let hello = |applied| hello(ours[..2].to_vec(), 4000, applied);
        assert!(matches!(decide_at(&ours, 0, 5000, &hello(3000)), Decision::Resume { .. }));
        // ... and what was told of may not: somebody has put an old copy of the pool in its place.
        let decision = decide_at(&ours, 0, 5000, &hello(3500));
        assert_refused(decision, RefuseReason::StaleLeader, "committed up to LSN 3500");
        // It does not get any newer by being restarted.
        let mut twin = hello(3500);
        twin.history.push(reign(restarted.next().get(), 7, 3000));
        let mut again = ours.to_vec();
        again.push(reign(restarted.next().next().get(), 4, 3100));
        assert_refused(decide_at(&again, 0, 5000, &twin), RefuseReason::StaleLeader, "pool is an older one");
        // A promotion may give it up.
        let mut ours = ours.clone();
        ours[2].epoch = restarted.next_promotion().get();
        assert_syncs(decide_at(&ours, 0, 5000, &hello(3500)), "same only up to 3000");
    }

    #[test]
    fn an_epoch_that_leaves_no_room_for_promotions_is_not_outbid() {
        let ours = [reign(1, 1, 0)];
        for epoch in [0xf000_0000, 0xffff_0000, 0xffff_fffe, u32::MAX] {
            let promised = Hello { promised_epoch: epoch, ..hello(ours.to_vec(), 4000, 1000) };
            assert_refused(decide_at(&ours, 0, 5000, &promised), RefuseReason::Version, "makes no sense");
            let reigned = hello(vec![reign(1, 1, 0), reign(epoch, 2, 3000)], 4000, 1000);
            assert_refused(decide_at(&ours, 0, 5000, &reigned), RefuseReason::Version, "makes no sense");
        }
    }

    #[test]
    fn a_promise_to_an_epoch_that_left_no_record_that_counts_is_outbid_by_a_new_reign() {
        let ours = [reign(1, 1, 0)];
        let fenced = Hello { promised_epoch: 5, ..hello(ours.to_vec(), 4000, 1000) };
        assert_eq!(decide_at(&ours, 0, 5000, &fenced), renews(5, 1));
        // It welcomed a leader of epoch 2 but got none of its records.
        let welcomed = hello(vec![reign(1, 1, 0), reign(2, 2, 4500)], 4000, 1000);
        assert_eq!(decide_at(&ours, 0, 5000, &welcomed), renews_in_the_next(2));
        // It was promoted, or has followed who was: that counts from the first record on.
        let begun = hello(vec![reign(1, 1, 0), reign(2, 2, 4000)], 4032, 1000);
        assert_refused(decide_at(&ours, 0, 5000, &begun), RefuseReason::StaleLeader, "superseded");
        // Two reigns of the same number.
        let twin = hello(vec![reign(1, 1, 0), reign(2, 7, 4500)], 4000, 1000);
        let ours = [reign(1, 1, 0), reign(2, 2, 4200)];
        assert_eq!(decide_at(&ours, 0, 5000, &twin), renews_in_the_next(2));
    }

    #[test]
    fn a_promise_to_another_promotion_of_the_same_number_is_outbid_by_one_of_a_higher_number() {
        let (number, restarted) =
            (Epoch::new(1).next_promotion(), Epoch::new(1).next_promotion().next().next());
        let ours = [reign(1, 1, 0), reign(number.next().get(), 2, 3000)];
        let promised = |epoch: Epoch, claim: u8| Hello {
            promised_epoch: epoch.get(),
            promised_claim: vec![claim; Claim::LEN],
            ..hello(ours[..1].to_vec(), 3000, 1000)
        };
        let decide = |hello: &Hello| decide_at(&ours, 0, 5000, hello);
        assert_resumes(decide(&promised(number, 2)), 3000);
        let next = number.next_promotion();
        assert_eq!(decide(&promised(number, 3)), renews_in_the_next(number.get()));
        assert_eq!(decide(&promised(restarted, 3)), renews_in_the_next(restarted.get()));
        assert_eq!(decide(&promised(next, 3)), renews_in_the_next(next.get()), "somebody may lead by it");
        // This node's pool is an older copy of what that follower knows.
        assert_eq!(decide(&promised(restarted, 2)), renews(restarted.get(), 2));
        // Who holds a record of the other promotion is not gone on from.
        let mut twin = promised(number.next(), 3);
        (twin.history, twin.progress.durable_lsn) =
            (vec![reign(1, 1, 0), reign(number.next().get(), 3, 3000)], 3100);
        assert_refused(decide(&twin), RefuseReason::StaleLeader, "superseded");
        let malformed = Hello { promised_claim: vec![2; 7], ..promised(number, 2) };
        assert_refused(decide(&malformed), RefuseReason::Version, "makes no sense");
    }
}
