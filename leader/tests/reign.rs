//! The leader's state machine, talked to as a node and its followers would.

use std::sync::Arc;

use farkeep_core::log::{Beginning, Position, Replid};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::sim::{self, FarEnd, MemoryWindow};
use farkeep_fabric::window::Reported;
use farkeep_fabric::{Completion, FabricKind, Identity, LogMemory, Sending, Ticket, Window};
use farkeep_leader::{
    Action, Availability, Config, FollowerId, FollowerState, ImageAt, Join, Leader, LeaderError,
    LocalWatermarks, OnFollowerLoss, Peer, ResyncError, Shipment, Start, ship,
};
use farkeep_proto::control::{self, Body, FabricOffer, Hello, PROTOCOL_VERSION, RefuseReason, Reign, Status};
use farkeep_proto::window::{RING_AT, TAIL_CELL_AT, TailCell, window_len};

const RING_LEN: u64 = 64 << 10;

fn leader(config: Config) -> Leader {
    leader_beginning(Beginning::Promoted, config, 0)
}

fn reign(beginning: Beginning) -> Reign {
    Reign { epoch: 4, replid: Replid([4; 20]).beginning(beginning).0.to_vec(), start_lsn: 1000 }
}

fn leader_beginning(beginning: Beginning, config: Config, quorum: usize) -> Leader {
    let identity = Identity {
        node_id: [1; 16],
        dataset_id: Some([9; 16]),
        log_format: 1,
        ring_len: RING_LEN,
        segment_len: 4096,
        software: "test".into(),
    };
    let start = Start {
        history: vec![reign(beginning)],
        followed: Epoch::ZERO,
        committed: Lsn::new(600),
        quorum,
        established: Lsn::new(1032),
        durable: Lsn::new(1032),
        local: LocalWatermarks { checkpoint: Lsn::new(600), ..LocalWatermarks::default() },
    };
    Leader::new(config, identity, start)
}

fn with_sync(sync_followers: usize) -> Leader {
    leader(Config { sync_followers, ..Config::default() })
}

fn hello(node: u8, durable: u64) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        log_format: 1,
        node_id: vec![node; 16],
        dataset_id: vec![9; 16],
        history: vec![reign(Beginning::Promoted)],
        progress: control::Progress { durable_lsn: durable, applied_lsn: 600, checkpoint_lsn: 500 },
        promised_epoch: 4,
        ring_len: RING_LEN,
        segment_len: 4096,
        fabrics: vec![FabricOffer { name: "sim".into(), ..FabricOffer::default() }],
        listening_port: 7000 + u32::from(node),
        ..Hello::default()
    }
}

fn peer() -> Peer {
    Peer { address: "10.0.0.2".into(), fabrics: vec![FabricKind::Sim], unusable: vec![] }
}

fn join(leader: &mut Leader, node: u8, durable: u64) -> FollowerId {
    join_with(leader, &hello(node, durable))
}

fn join_with(leader: &mut Leader, hello: &Hello) -> FollowerId {
    let Join::Accepted { id, welcome, .. } = leader.join(0, hello, &peer(), || None) else { panic!() };
    assert_eq!(welcome.session, id.session());
    leader.ready(0, id).unwrap();
    id
}

/// Ships everything to a follower and has it acknowledge all of it.
fn ship(leader: &mut Leader, id: FollowerId, ticket: u64) -> Result<(), LeaderError> {
    let Some(Shipment { to, .. }) = leader.shipment(id, u64::MAX / 2) else { return Ok(()) };
    leader.posted(id, to, Ticket::new(ticket));
    leader.completed(0, id, Completion { ticket: Ticket::new(ticket), reported: None })
}

fn append(leader: &mut Leader, lsn: u64) {
    leader.set_appended(Lsn::new(lsn));
    leader.set_durable(Lsn::new(lsn));
}

#[test]
fn a_write_is_committed_when_it_is_durable_here_and_on_k_followers() {
    let mut leader = with_sync(2);
    let [a, b, c] = [2, 3, 4].map(|node| join(&mut leader, node, 1032));
    assert_eq!(leader.committed(), Lsn::new(1032), "all hold the first record of the reign");
    leader.set_appended(Lsn::new(2000));
    ship(&mut leader, a, 1).unwrap();
    ship(&mut leader, b, 1).unwrap();
    assert_eq!(leader.committed(), Lsn::new(1032), "not durable here yet");
    leader.set_durable(Lsn::new(2000));
    assert_eq!(leader.committed(), Lsn::new(2000));
    assert_eq!(leader.followers_durable_at(Lsn::new(2000)), 2);
    append(&mut leader, 3000);
    ship(&mut leader, c, 1).unwrap();
    assert_eq!(leader.committed(), Lsn::new(2000), "one of two");
    leader.leave(c);
    ship(&mut leader, a, 2).unwrap();
    assert_eq!(leader.committed(), Lsn::new(2000), "one that left does not count");
    ship(&mut leader, b, 2).unwrap();
    assert_eq!(leader.committed(), Lsn::new(3000));
}

#[test]
fn an_earlier_epochs_tail_waits_for_the_first_record_of_the_reign() {
    let mut leader = with_sync(1);
    let id = join(&mut leader, 2, 1000);
    assert_eq!(
        leader.committed(),
        Lsn::new(600),
        "held by both up to 1000, but the reign's record is at 1000..1032"
    );
    ship(&mut leader, id, 1).unwrap();
    assert_eq!(leader.committed(), Lsn::new(1032));
}

#[test]
fn a_contested_reign_takes_more_followers_to_be_settled_than_to_go_on_and_its_first_record_counts_for_nothing()
 {
    let how = Beginning::Contested;
    let mut leader = leader_beginning(how, Config::default(), 2);
    let join = |leader: &mut Leader, node| {
        join_with(leader, &Hello { history: vec![reign(how)], ..hello(node, 1032) })
    };
    assert_eq!(leader.availability(), Availability::Refusing { in_reach: 0, wanted: 2 });
    let a = join(&mut leader, 2);
    assert!(leader.can_write().is_err());
    assert!(!leader.may_settle() && !leader.is_settled());
    let b = join(&mut leader, 3);
    leader.can_write().unwrap();
    assert!(leader.may_settle());
    assert_eq!(leader.committed(), Lsn::new(600), "both hold its first record");
    leader.settled(Lsn::new(1064));
    assert!(!leader.may_settle() && leader.is_settled());
    leader.set_durable(Lsn::new(1064));
    assert_eq!(leader.committed(), Lsn::new(600));
    leader.leave(b);
    leader.can_write().unwrap();
    ship(&mut leader, a, 1).unwrap();
    assert_eq!(leader.committed(), Lsn::new(1064), "one follower is enough from here on");
    // A restart of the leader that it was takes no more of them, but as many as any commit.
    let how = Beginning::Resumed;
    let mut leader = leader_beginning(how, Config::default(), 0);
    assert!(!leader.may_settle());
    join_with(&mut leader, &Hello { history: vec![reign(how)], ..hello(2, 1032) });
    assert!(leader.may_settle());
    assert_eq!(leader.committed(), Lsn::new(600));
    // Where writes do not wait for followers, neither does the reign.
    for config in [
        Config { on_follower_loss: OnFollowerLoss::Degrade, ..Config::default() },
        Config { sync_followers: 0, ..Config::default() },
    ] {
        let leader = leader_beginning(Beginning::Contested, config, 0);
        assert!(leader.is_settled() && leader.can_write().is_ok());
        assert_eq!(leader.committed(), Lsn::new(1032));
    }
    // Nor any more, when the operator says so.
    let mut leader = leader_beginning(Beginning::Contested, Config::default(), 2);
    leader.set_config(Config { on_follower_loss: OnFollowerLoss::Degrade, ..Config::default() });
    assert!(leader.may_settle());
}

#[test]
fn without_enough_followers_writes_are_refused_or_go_on_degraded() {
    let mut refusing = with_sync(1);
    assert_eq!(refusing.availability(), Availability::Refusing { in_reach: 0, wanted: 1 });
    assert!(refusing.can_write().unwrap_err().to_string().starts_with("NOREPLICAS "));
    assert_eq!(refusing.committed(), Lsn::new(600));
    let id = join(&mut refusing, 2, 1032);
    refusing.can_write().unwrap();
    refusing.leave(id);
    assert!(refusing.can_write().is_err());

    let mut degrading =
        leader(Config { on_follower_loss: OnFollowerLoss::Degrade, sync_followers: 1, ..Config::default() });
    assert_eq!(degrading.availability(), Availability::Degraded { waits_for: 0, wanted: 1 });
    degrading.can_write().unwrap();
    assert_eq!(degrading.committed(), Lsn::new(1032));
    let id = join(&mut degrading, 2, 600);
    assert_eq!(degrading.follower(id).unwrap().state, FollowerState::CatchingUp);
    append(&mut degrading, 2000);
    assert_eq!(
        degrading.committed(),
        Lsn::new(2000),
        "a follower that catches up does not hold commits back"
    );
    ship(&mut degrading, id, 1).unwrap();
    assert_eq!(degrading.availability(), Availability::Full);
    append(&mut degrading, 3000);
    assert_eq!(degrading.committed(), Lsn::new(2000), "one that has caught up does");
    degrading.leave(id);
    assert_eq!(degrading.committed(), Lsn::new(3000));
}

#[test]
fn a_standalone_leader_commits_what_is_durable_here() {
    let mut leader = with_sync(0);
    leader.set_appended(Lsn::new(2000));
    assert_eq!(leader.committed(), Lsn::new(1032));
    leader.set_durable(Lsn::new(2000));
    assert_eq!(leader.committed(), Lsn::new(2000));
    assert_eq!(leader.availability(), Availability::Full);
}

#[test]
fn a_follower_is_never_sent_what_would_overwrite_its_unchecked_log() {
    let mut leader = with_sync(1);
    let id = join(&mut leader, 2, 1032);
    assert_eq!(leader.floor(), Lsn::new(500), "the follower's checkpoint, below our own");
    append(&mut leader, 500 + RING_LEN);
    let to = Lsn::new(500 + RING_LEN);
    assert_eq!(leader.shipment(id, 1000), Some(Shipment { from: Lsn::new(1032), to: Lsn::new(2032) }));
    assert_eq!(leader.shipment(id, u64::MAX / 2), Some(Shipment { from: Lsn::new(1032), to }));
    leader.posted(id, to, Ticket::new(1));
    append(&mut leader, 600 + RING_LEN);
    assert_eq!(leader.shipment(id, u64::MAX / 2), None, "no credit");
    let reported = Reported { durable: to, applied: Lsn::new(900), checkpoint: Lsn::new(550) };
    leader.completed(0, id, Completion { ticket: Ticket::new(1), reported: Some(reported) }).unwrap();
    assert_eq!(leader.shipment(id, u64::MAX / 2), Some(Shipment { from: to, to: Lsn::new(550 + RING_LEN) }));
}

/// Fills the ring and has the local image carried along, so that only followers hold anything back.
fn fill_ring(leader: &mut Leader) {
    append(leader, RING_LEN);
    leader.set_local(LocalWatermarks { checkpoint: Lsn::new(1032), ..LocalWatermarks::default() });
}

/// A sign of life on the control channel.
fn say(leader: &mut Leader, now_ms: u64, id: FollowerId, durable: u64, applied: u64, checkpoint: u64) {
    let progress =
        control::Progress { durable_lsn: durable, applied_lsn: applied, checkpoint_lsn: checkpoint };
    leader.status(now_ms, id, &Status { session: id.session(), progress }).unwrap();
}

fn dropped(actions: impl IntoIterator<Item = Action>) -> Vec<(FollowerId, String, String)> {
    let drops = actions.into_iter().filter_map(|action| match action {
        Action::Dropped { id, name, reason } => Some((id, name, reason)),
        Action::Send(..) => None,
    });
    drops.collect()
}

/// Lets time pass while the followers say where they stand, until one is dropped.
fn first_drop(leader: &mut Leader, standing: &[FollowerId]) -> (u64, FollowerId, String, String) {
    for now in (0..60_000).step_by(50) {
        for &id in standing {
            say(leader, now, id, 1032, 600, 500);
        }
        if let [(id, name, reason)] = &dropped(leader.tick(now))[..] {
            return (now, *id, name.clone(), reason.clone());
        }
    }
    panic!("nobody was dropped")
}

#[test]
fn a_follower_that_holds_the_full_ring_back_is_dropped_before_a_writer_is_refused() {
    // A writer is refused after 1000 ms; a follower that no write waits for goes long before.
    let config = Config { hold_limit_ms: 500, needed_hold_limit_ms: 750, ..Config::default() };
    for (sync_followers, on_follower_loss, limit_ms) in [
        (0, OnFollowerLoss::Refuse, 500),
        (1, OnFollowerLoss::Refuse, 750),
        (1, OnFollowerLoss::Degrade, 500),
    ] {
        let mut leader = leader(Config { sync_followers, on_follower_loss, ..config.clone() });
        let id = join(&mut leader, 2, 1032);
        fill_ring(&mut leader);
        let (at_ms, who, name, reason) = first_drop(&mut leader, &[id]);
        assert_eq!((at_ms, who, name.as_str()), (limit_ms, id, "10.0.0.2:7002"));
        assert!(reason.contains("held the log back at checkpoint_lsn 500"), "{reason}");
        assert_eq!(leader.floor(), Lsn::new(1032));
    }
}

/// Where nothing is committed nothing is replayed here either, so the follower's checkpoint is as good as ours.
#[test]
fn a_needed_follower_without_which_nothing_commits_holds_the_ring_back_too() {
    let mut leader = leader(Config { needed_hold_limit_ms: 750, ..Config::default() });
    let id = join(&mut leader, 2, 1032);
    append(&mut leader, RING_LEN);
    leader.set_local(LocalWatermarks { checkpoint: Lsn::new(500), ..LocalWatermarks::default() });
    let (at_ms, ..) = first_drop(&mut leader, &[id]);
    assert_eq!(at_ms, 750);
    assert!(leader.can_write().unwrap_err().to_string().starts_with("NOREPLICAS "));
}

#[test]
fn of_two_that_stand_still_the_one_that_can_be_spared_goes_first_and_the_needed_one_later() {
    let config = Config { hold_limit_ms: 500, needed_hold_limit_ms: 750, ..Config::default() };
    let mut leader = leader(config);
    let ids = [2, 3].map(|node| join(&mut leader, node, 1032));
    fill_ring(&mut leader);
    let (at_ms, first, ..) = first_drop(&mut leader, &ids);
    assert_eq!(at_ms, 500);
    leader.can_write().unwrap();
    let rest: Vec<FollowerId> = ids.into_iter().filter(|&id| id != first).collect();
    for now in (550..750).step_by(50) {
        say(&mut leader, now, rest[0], 1032, 600, 500);
        assert_eq!(dropped(leader.tick(now)), []);
    }
    assert_eq!(dropped(leader.tick(750)).len(), 1);
    assert!(leader.can_write().unwrap_err().to_string().starts_with("NOREPLICAS "));
}

#[test]
fn a_follower_that_gets_further_is_slow_and_not_dropped() {
    let mut leader = leader(Config { sync_followers: 0, hold_limit_ms: 500, ..Config::default() });
    let id = join(&mut leader, 2, 1032);
    fill_ring(&mut leader);
    leader.posted(id, Lsn::new(RING_LEN), Ticket::new(1));
    leader.completed(0, id, Completion { ticket: Ticket::new(1), reported: None }).unwrap();
    leader.set_local(LocalWatermarks { checkpoint: Lsn::new(RING_LEN), ..LocalWatermarks::default() });
    // A byte at a time, now in the image, now in the checkpoint, and always just in time.
    let (mut now, mut applied, mut checkpoint) = (0, 600, 500);
    for step in 0..400 {
        if step % 2 == 0 {
            applied += 1
        } else {
            checkpoint += 1
        }
        say(&mut leader, now, id, RING_LEN, applied, checkpoint);
        assert_eq!(dropped(leader.tick(now)), [], "after {now} ms");
        assert_eq!(leader.out_of_room(now + 499), None);
        now += 499;
    }
    // Then it stands still.
    let stands_since = now - 499;
    say(&mut leader, now, id, RING_LEN, applied, checkpoint);
    assert_eq!(dropped(leader.tick(stands_since + 499)), []);
    assert_eq!(dropped(leader.tick(stands_since + 500)).len(), 1);
}

#[test]
fn a_transaction_that_finds_no_room_starts_the_clock_of_who_holds_it_back() {
    let mut leader = leader(Config { sync_followers: 0, hold_limit_ms: 500, ..Config::default() });
    let id = join(&mut leader, 2, 1032);
    // Half of the ring is free, but the transaction takes more.
    append(&mut leader, RING_LEN / 2);
    leader.set_local(LocalWatermarks { checkpoint: Lsn::new(RING_LEN / 2), ..LocalWatermarks::default() });
    let quiet = |leader: &mut Leader, now| {
        say(leader, now, id, 1032, 600, 500);
        assert_eq!(dropped(leader.tick(now)), []);
    };
    (0..=10_000).step_by(100).for_each(|now| quiet(&mut leader, now));
    assert_eq!(leader.out_of_room(10_000), None);
    (10_100..10_500).step_by(100).for_each(|now| quiet(&mut leader, now));
    let drop = leader.out_of_room(10_500);
    assert!(matches!(&drop, Some(Action::Dropped { id: dropped, .. }) if *dropped == id), "{drop:?}");
    assert_eq!(leader.floor(), Lsn::new(RING_LEN / 2));
}

/// Each promotion that commits nothing adds a record, and only a follower's joining ends it: so it must be able to.
#[test]
fn a_follower_joins_however_full_the_ring_is_of_what_nobody_has_committed() {
    let mut leader = with_sync(1);
    append(&mut leader, 550 + RING_LEN);
    let id = join(&mut leader, 2, 1032);
    assert!(leader.follower(id).unwrap().in_reach());
}

/// The appender never uses one of the segments, which in a short ring is more than an eighth.
#[test]
fn a_short_ring_is_full_when_nothing_more_fits() {
    let capacity = RING_LEN - 4096;
    let mut leader = leader(Config { sync_followers: 0, hold_limit_ms: 500, ..Config::default() });
    let id = join(&mut leader, 2, 1032);
    append(&mut leader, 500 + capacity / 8 * 7 + 1);
    leader.set_local(LocalWatermarks { checkpoint: Lsn::new(1032), ..LocalWatermarks::default() });
    assert_eq!(first_drop(&mut leader, &[id]).0, 500);
}

#[test]
fn a_silent_follower_is_dropped_and_a_living_one_gets_heartbeats() {
    let mut leader = with_sync(1);
    let id = join(&mut leader, 2, 1032);
    assert_eq!(leader.tick(499), []);
    let actions = leader.tick(500);
    let [Action::Send(to, Body::Heartbeat(beat))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((*to, beat.session, beat.epoch, beat.committed_lsn), (id, id.session(), 4, 1032));
    assert_eq!(leader.tick(501), []);
    leader.status(2000, id, &Status::default()).unwrap();
    assert_eq!(dropped(leader.tick(4999)), []);
    let reason = "it has been silent for 3000 ms".to_owned();
    assert_eq!(dropped(leader.tick(5000)), [(id, "10.0.0.2:7002".to_owned(), reason)]);
    assert!(leader.can_write().is_err());
    assert!(matches!(leader.status(5001, id, &Status::default()), Err(LeaderError::NoSession(_))));
}

/// `lag` in INFO is whole seconds, and so is `min-replicas-max-lag`.
#[test]
fn a_follower_is_good_once_it_counts_and_as_long_as_it_is_heard_from() {
    let mut leader = leader(Config { good_followers: 1, good_silence_s: 1, ..Config::default() });
    let Join::Accepted { id, .. } = leader.join(0, &hello(2, 1032), &peer(), || None) else { panic!() };
    assert!(leader.lacks_good_followers(), "it is not ready");
    leader.ready(0, id).unwrap();
    let mut at = |ms: u64, heard: bool| {
        leader.set_now(ms * 1000);
        if heard {
            leader.status(ms, id, &Status::default()).unwrap();
        }
        (leader.good_followers(), leader.lacks_good_followers())
    };
    assert_eq!(at(1999, false), (1, false));
    assert_eq!(at(2000, false), (0, true));
    assert_eq!(at(2001, true), (1, false));
    // Nothing is demanded, or more than there are.
    let demands = |good_followers| Config { good_followers, good_silence_s: 1, ..Config::default() };
    leader.set_now(9_000_000);
    leader.set_config(demands(0));
    assert_eq!((leader.good_followers(), leader.lacks_good_followers()), (0, false));
    leader.status(9000, id, &Status::default()).unwrap();
    leader.set_config(demands(2));
    assert_eq!((leader.good_followers(), leader.lacks_good_followers()), (1, true));
}

#[test]
fn a_follower_in_mid_sync_is_not_good() {
    let mut leader = leader(Config { good_followers: 1, ..Config::default() });
    let mut hello = hello(2, 1032);
    hello.mid_sync = true;
    let Join::Accepted { id, .. } = leader.join(0, &hello, &peer(), || None) else { panic!() };
    leader.ready(0, id).unwrap();
    assert_eq!(leader.follower(id).unwrap().state, FollowerState::Syncing);
    assert!(leader.lacks_good_followers());
}

#[test]
fn a_heartbeat_says_up_to_which_transaction_a_followers_log_is_flushed() {
    let mut leader = with_sync(1);
    let id = join(&mut leader, 2, 1032);
    let mut now_ms = 0;
    let mut flushed = |leader: &mut Leader| {
        now_ms += 500;
        let actions = leader.tick(now_ms);
        let [Action::Send(_, Body::Heartbeat(beat))] = &actions[..] else { panic!("{actions:?}") };
        beat.flushed_lsn
    };
    assert_eq!(flushed(&mut leader), 0, "nothing has been flushed in this session");
    append(&mut leader, 2000);
    ship(&mut leader, id, 1).unwrap();
    assert_eq!(flushed(&mut leader), 2000);
    // A piece of a transaction, which the follower cannot read yet.
    append(&mut leader, 3000);
    leader.posted(id, Lsn::new(2500), Ticket::new(2));
    leader.completed(0, id, Completion { ticket: Ticket::new(2), reported: None }).unwrap();
    assert_eq!((leader.follower(id).unwrap().durable, flushed(&mut leader)), (Lsn::new(2500), 2000));
    ship(&mut leader, id, 3).unwrap();
    assert_eq!(flushed(&mut leader), 3000);
}

#[test]
fn a_follower_that_takes_long_to_get_ready_is_kept_as_long_as_it_says_that_it_is_alive() {
    let mut leader = with_sync(1);
    let Join::Accepted { id, .. } = leader.join(0, &hello(2, 1032), &peer(), || None) else { panic!() };
    leader.status(2900, id, &Status::default()).unwrap();
    assert_eq!(dropped(leader.tick(5800)), []);
    assert!(leader.can_write().is_err(), "it is not ready");
    leader.ready(5801, id).unwrap();
    leader.can_write().unwrap();
}

#[test]
fn a_node_that_joins_again_replaces_its_session() {
    let mut leader = with_sync(1);
    let old = join(&mut leader, 2, 1032);
    let Join::Accepted { id, replaces, .. } = leader.join(10, &hello(2, 1032), &peer(), || None) else {
        panic!()
    };
    assert_eq!(replaces, Some(old));
    assert!(leader.can_write().is_err(), "the new session is not ready");
    leader.ready(11, id).unwrap();
    leader.can_write().unwrap();
    assert!(matches!(leader.ready(11, old), Err(LeaderError::NoSession(_))));
    assert_eq!(leader.followers().len(), 1);
}

#[test]
fn a_follower_that_the_ring_went_over_while_it_got_ready_is_told_so() {
    let mut leader = with_sync(0);
    let Join::Accepted { id, .. } = leader.join(0, &hello(2, 1032), &peer(), || None) else { panic!() };
    append(&mut leader, 1032 + RING_LEN);
    leader.set_local(LocalWatermarks { checkpoint: Lsn::new(1032 + RING_LEN), ..LocalWatermarks::default() });
    assert!(matches!(leader.ready(1, id), Err(LeaderError::FellBehind { .. })));
    let Join::Refused(refuse) = leader.join(2, &hello(2, 1032), &peer(), || None) else { panic!() };
    assert_eq!(refuse.reason(), RefuseReason::TryAgain, "though nobody has told that the ring has moved on");
}

#[test]
fn a_follower_is_not_sent_what_nobody_has_read() {
    let mut leader = with_sync(1);
    let local = |oldest, checked| LocalWatermarks {
        oldest: Lsn::new(oldest),
        checked: Lsn::new(checked),
        checkpoint: Lsn::new(1032),
    };
    let behind = Hello {
        progress: control::Progress { durable_lsn: 700, applied_lsn: 600, checkpoint_lsn: 500 },
        ..hello(2, 700)
    };
    leader.set_local(local(0, 1032));
    let Join::Unchecked { from, refuse } = leader.join(0, &behind, &peer(), || None) else { panic!() };
    assert_eq!((from, refuse.reason()), (Lsn::new(700), RefuseReason::TryAgain));
    assert_eq!(leader.followers().len(), 0);
    leader.set_local(local(0, 700));
    let Join::Accepted { welcome, .. } = leader.join(0, &behind, &peer(), || None) else { panic!() };
    assert_eq!((welcome.resume_lsn, welcome.begin_sync), (700, None));
    // It was read, and was not what belongs there.
    leader.set_local(local(800, 800));
    let at =
        ImageAt { position: Position { lsn: Lsn::new(1032), crc: 1, epoch: Epoch::new(4) }, image_len: 4096 };
    let Join::Accepted { welcome, .. } = leader.join(0, &behind, &peer(), || Some(at)) else { panic!() };
    assert!(welcome.begin_sync.is_some());
}

#[test]
fn a_follower_cannot_claim_what_it_was_not_sent() {
    let mut leader = with_sync(1);
    let id = join(&mut leader, 2, 1032);
    append(&mut leader, 2000);
    let claim = |durable, applied, checkpoint| Completion {
        ticket: Ticket::new(0),
        reported: Some(Reported {
            durable: Lsn::new(durable),
            applied: Lsn::new(applied),
            checkpoint: Lsn::new(checkpoint),
        }),
    };
    assert!(matches!(leader.completed(0, id, claim(2001, 0, 0)), Err(LeaderError::ClaimsTooMuch { .. })));
    leader.completed(0, id, claim(2000, 2000, 2000)).unwrap();
    let durable = leader.follower(id).unwrap().durable;
    assert_eq!(durable, Lsn::new(1032), "what this session has not flushed does not count");
    assert!(matches!(leader.completed(0, id, claim(1032, 700, 800)), Err(LeaderError::OutOfOrder { .. })));
    assert_eq!(leader.committed(), Lsn::new(1032));
    leader.posted(id, Lsn::new(2000), Ticket::new(1));
    let unvalidated = Completion { ticket: Ticket::new(1), ..claim(1900, 600, 500) };
    assert!(matches!(leader.completed(0, id, unvalidated), Err(LeaderError::DoesNotValidate { .. })));
    assert_eq!(leader.committed(), Lsn::new(1032));
}

#[test]
fn a_promise_to_another_epoch_is_answered_with_a_renewal() {
    let mut leader = with_sync(1);
    let Join::Renew { above, refuse } =
        leader.join(0, &Hello { promised_epoch: 9, ..hello(2, 1032) }, &peer(), || None)
    else {
        panic!()
    };
    assert_eq!(above.epoch, Epoch::new(9));
    assert_eq!(refuse.reason(), RefuseReason::TryAgain);
    assert_eq!(leader.followers().len(), 0);
}

#[test]
fn pumping_brings_log_and_tail_cell_into_the_window_at_the_same_places() {
    let mut leader = with_sync(1);
    let id = join(&mut leader, 2, 1032);
    let ring: Vec<u8> = (0..RING_LEN).map(|i| (i * 7 + i / 256) as u8).collect();
    let log: Arc<dyn LogMemory> = Arc::new(ring.clone());
    let (mut remote, mut far): (_, FarEnd) = sim::link();
    let mut window = MemoryWindow::new(window_len(RING_LEN) as usize);
    let mut done = Vec::new();
    let mut shipped = 1032;
    // Twice around the ring in uneven steps, with the follower checkpointing all it has.
    for turn in 0..300u64 {
        let lsn = shipped + 1 + (turn * 97) % 900;
        append(&mut leader, lsn);
        assert_eq!(ship::pump(&mut leader, id, &mut remote, &log, true).unwrap(), Sending::Done);
        far.deliver(&mut window, usize::MAX).unwrap();
        far.complete(usize::MAX);
        ship::collect(&mut leader, turn, id, &mut remote, &mut done).unwrap();
        assert_eq!(leader.committed(), Lsn::new(lsn));
        let progress = control::Progress { durable_lsn: lsn, applied_lsn: lsn, checkpoint_lsn: lsn };
        leader.status(turn, id, &Status { session: id.session(), progress }).unwrap();
        for at in shipped..lsn {
            let mut byte = [0];
            window.read(RING_AT + at % RING_LEN, &mut byte);
            assert_eq!(byte[0], ring[(at % RING_LEN) as usize], "LSN {at}");
        }
        shipped = lsn;
    }
    assert!(shipped > 2 * RING_LEN);
    ship::pump(&mut leader, id, &mut remote, &log, true).unwrap();
    far.deliver(&mut window, usize::MAX).unwrap();
    let mut cell = [0; 64];
    window.read(TAIL_CELL_AT, &mut cell);
    let expected = TailCell { epoch: 4, appended_lsn: shipped, committed_lsn: shipped };
    assert_eq!(TailCell::from_bytes(&cell), Some(expected));
}

/// Times are in microseconds of the leader's own clock: from what was appended to what is acknowledged.
#[test]
fn every_stage_of_a_follower_lags_by_its_own_time_and_an_idle_group_by_none() {
    let mut leader = with_sync(1);
    leader.set_now(1_000_000);
    let id = join(&mut leader, 2, 1032);
    let lags = |leader: &Leader| {
        let follower = leader.follower(id).unwrap();
        [follower.shipped, follower.durable, follower.applied].map(|at| leader.lag().appends.lag(at, 0))
    };
    leader.set_now(2_000_000);
    leader.set_appended(Lsn::new(1100));
    leader.set_durable(Lsn::new(1100));
    leader.set_now(2_000_700);
    assert_eq!(lags(&leader)[0].us, 700, "it is not posted yet");
    leader.posted(id, Lsn::new(1100), Ticket::new(1));
    leader.set_now(2_001_500);
    assert_eq!(lags(&leader)[0].us, 0);
    assert_eq!((lags(&leader)[1].us, lags(&leader)[1].bytes), (1_500, 68));
    assert_eq!(leader.lag().appends.lag(leader.committed(), 0).us, 1_500);
    let reported = |applied| {
        let [durable, applied, checkpoint] = [1100, applied, 500].map(Lsn::new);
        Completion { ticket: Ticket::new(1), reported: Some(Reported { durable, applied, checkpoint }) }
    };
    leader.completed(0, id, reported(1032)).unwrap();
    leader.set_now(2_004_000);
    assert_eq!((lags(&leader)[1].us, lags(&leader)[2].us), (0, 4_000));
    leader.completed(0, id, reported(1100)).unwrap();
    leader.set_now(99_000_000);
    assert_eq!(lags(&leader), [farkeep_leader::lag::Lag::default(); 3]);
    let stages = &leader.follower(id).unwrap().stages;
    let sums = [&stages.posted, &stages.durable, &stages.applied, &leader.lag().committed]
        .map(|stage| stage.report().sum_us);
    assert_eq!(sums, [700, 1_500, 4_000, 1_500]);
}

#[test]
fn an_operators_resync_begins_anew_with_what_could_have_gone_on_unless_the_follower_is_needed() {
    let mut leader = with_sync(1);
    let [a, b] = [2, 3].map(|node| join(&mut leader, node, 1032));
    append(&mut leader, 2000);
    ship(&mut leader, a, 1).unwrap();
    assert_eq!(leader.committed(), Lsn::new(2000));
    assert_eq!(leader.resync(a, false), Err(ResyncError::Needed { others: 0, needed: 1 }), "b lacks it");
    ship(&mut leader, b, 1).unwrap();
    assert!(matches!(leader.resync(a, false), Ok(Some(Action::Dropped { id, .. })) if id == a));
    assert_eq!(leader.resync(a, false), Err(ResyncError::NotInReach));
    let position = Position { lsn: Lsn::new(1500), crc: 7, epoch: Epoch::new(4) };
    let at = ImageAt { position, image_len: 1 << 20 };
    for _ in 0..2 {
        // The first attempt may come to nothing.
        let Join::Accepted { id, welcome, why_sync, .. } =
            leader.join(0, &hello(2, 2000), &peer(), || Some(at))
        else {
            panic!()
        };
        assert_eq!(why_sync.as_deref(), Some("an operator asked for it"));
        assert_eq!((welcome.resume_lsn, welcome.begin_sync.is_some()), (1500, true));
        assert_eq!(leader.resync(id, true), Err(ResyncError::NotInReach), "it has not begun yet");
    }
    let joining = leader.followers().find(|follower| follower.state == FollowerState::Joining).unwrap().id;
    leader.ready(0, joining).unwrap();
    assert_eq!(leader.follower(joining).unwrap().state, FollowerState::Syncing);
    leader.leave(joining);
    let Join::Accepted { welcome, .. } = leader.join(0, &hello(2, 2000), &peer(), || Some(at)) else {
        panic!()
    };
    assert!(welcome.begin_sync.is_none(), "once is enough");
    assert_eq!(leader.resync(b, false), Err(ResyncError::Needed { others: 0, needed: 1 }));
    assert!(leader.resync(b, true).is_ok());
}

#[test]
fn what_a_follower_has_in_its_image_was_committed_also_if_a_new_leader_does_not_know() {
    let mut leader = with_sync(1);
    assert_eq!(leader.committed(), Lsn::new(600));
    let mut hello = hello(2, 1000);
    hello.progress.applied_lsn = 900;
    hello.mid_sync = true;
    let Join::Accepted { id, welcome, .. } = leader.join(0, &hello, &peer(), || None) else { panic!() };
    assert_eq!((leader.committed(), welcome.committed_lsn), (Lsn::new(900), 900));
    leader.ready(0, id).unwrap();
    ship(&mut leader, id, 1).unwrap();
    assert_eq!(leader.committed(), Lsn::new(900), "in the middle of a sync it counts for no commit");
}
