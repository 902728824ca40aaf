//! The follower's state machine, talked to as a leader would.

use farkeep_core::log::{Claim, Promise};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::{FabricKind, Identity};
use farkeep_follower::{Action, Config, Follower, Holdings, JoinError, Link, Progress, PromoteError};
use farkeep_proto::control::{BeginSync, Body, FabricOffer, Heartbeat, Refuse, Reign, Welcome};
use farkeep_proto::window::TailCell;

const DATASET: [u8; 16] = [9; 16];

/// A reign of the promotion that [`promise`] is to.
fn reign(epoch: u32, tag: u8, start_lsn: u64) -> Reign {
    Reign { epoch, replid: [[1; Claim::LEN].as_slice(), &[tag; 12]].concat(), start_lsn }
}

fn promise(epoch: u32) -> Promise {
    Promise { epoch: Epoch::new(epoch), claim: Claim([1; Claim::LEN]) }
}

fn identity(dataset_id: Option<[u8; 16]>) -> Identity {
    Identity {
        node_id: [2; 16],
        dataset_id,
        log_format: 1,
        ring_len: 1 << 20,
        segment_len: 1 << 16,
        software: "test".into(),
    }
}

fn progress(checkpoint: u64, applied: u64, committed: u64, durable: u64) -> Progress {
    let [checkpoint, applied, committed, durable] = [checkpoint, applied, committed, durable].map(Lsn::new);
    Progress { checkpoint, applied, committed, durable }
}

fn follower(history: Vec<Reign>, at: Progress) -> Follower {
    let offers = vec![FabricOffer { name: "tcp".into(), ..FabricOffer::default() }];
    let promised = promise(history.last().map_or(0, |reign| reign.epoch));
    let holdings = Holdings { history, promised, progress: at, ..Holdings::default() };
    Follower::new(Config::default(), identity(Some(DATASET)), offers, holdings)
}

fn welcome(history: Vec<Reign>, resume_lsn: u64, committed_lsn: u64) -> Welcome {
    Welcome {
        session: 77,
        node_id: vec![1; 16],
        dataset_id: DATASET.to_vec(),
        history,
        resume_lsn,
        committed_lsn,
        fabric: "tcp".into(),
        heartbeat_ms: 500,
        deadline_ms: 3000,
        ring_len: 1 << 20,
        segment_len: 1 << 16,
        ..Welcome::default()
    }
}

fn join(follower: &mut Follower, welcome: Welcome) -> Vec<Action> {
    assert_eq!(follower.follow(0).last(), Some(&Action::Connect));
    assert!(matches!(&follower.connected(0)[..], [Action::Send(Body::Hello(_))]));
    follower.message(0, Some(Body::Welcome(welcome)))
}

#[test]
fn a_new_reign_is_promised_to_and_its_history_taken_over_before_the_window_opens() {
    let ours = reign(1, 1, 0);
    let theirs = vec![ours.clone(), reign(2, 2, 3000)];
    let mut follower = follower(vec![ours], progress(1000, 2000, 2500, 4000));
    let actions = join(&mut follower, welcome(theirs.clone(), 3000, 2600));
    assert_eq!(
        actions[..4],
        [
            Action::Promise(promise(2)),
            Action::CloseWindow,
            Action::Rejoin { end: Lsn::new(3000), history: theirs.clone() },
            Action::OpenWindow { session: 77, fabric: FabricKind::Tcp },
        ]
    );
    let Action::Send(Body::Ready(ready)) = &actions[4] else { panic!("{actions:?}") };
    assert_eq!(ready.progress.durable_lsn, 3000);
    assert_eq!(follower.progress().durable, Lsn::new(4000), "believed only when it is done");
    follower.reopened(theirs, progress(1000, 1000, 2200, 3000));
    assert_eq!(follower.progress(), progress(1000, 1000, 2600, 3000), "known to be committed before");
    assert_eq!(follower.link(), Link::Following);
}

#[test]
fn a_resumed_session_of_the_same_reign_touches_nothing_in_the_pool() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(1000, 2000, 2500, 4000));
    let actions = join(&mut follower, welcome(history, 4000, 4000));
    assert_eq!(actions.len(), 3, "{actions:?}");
    assert_eq!(follower.replay_target(), Lsn::new(4000));
}

#[test]
fn an_empty_node_takes_over_dataset_and_geometry() {
    let offers = vec![FabricOffer { name: "tcp".into(), ..FabricOffer::default() }];
    let mut follower = Follower::new(Config::default(), identity(None), offers, Holdings::default());
    let actions = join(&mut follower, Welcome { ring_len: 1 << 21, ..welcome(vec![reign(1, 1, 0)], 0, 500) });
    assert!(actions.contains(&Action::Adopt {
        dataset_id: DATASET,
        ring_len: 1 << 21,
        segment_len: 1 << 16
    }));
    assert_eq!(follower.identity().dataset_id, None, "there may be no space for it");
    follower.adopted(DATASET, 1 << 21, 1 << 16);
    assert_eq!((follower.identity().dataset_id, follower.identity().ring_len), (Some(DATASET), 1 << 21));
    assert_eq!(follower.replay_target(), Lsn::ZERO, "nothing is held yet");
}

#[test]
fn a_leader_of_an_earlier_epoch_or_a_twin_reign_is_turned_away() {
    for (theirs, stale) in [(reign(1, 1, 0), true), (reign(2, 7, 3000), false)] {
        let mut follower = follower(vec![reign(1, 1, 0), reign(2, 2, 3000)], progress(0, 0, 0, 4000));
        let actions = join(&mut follower, welcome(vec![theirs], 4000, 4000));
        assert!(matches!(&actions[0], Action::Send(Body::Goodbye(_))), "{actions:?}");
        let Some(Action::JoinFailed(error)) = actions.last() else { panic!("{actions:?}") };
        assert_eq!(matches!(error, JoinError::StaleLeader { .. }), stale, "{error}");
        assert_eq!(follower.link(), Link::Waiting);
    }
}

#[test]
fn who_has_promised_to_one_promotion_takes_part_in_no_other_of_that_number() {
    let number = Epoch::new(1).next_promotion();
    let history = vec![reign(1, 1, 0)];
    let theirs = |epoch: Epoch, tag| {
        vec![reign(1, 1, 0), Reign { epoch: epoch.get(), replid: vec![tag; 20], start_lsn: 100 }]
    };
    let joins = |theirs: Vec<Reign>| {
        let mut follower = follower(history.clone(), progress(0, 0, 100, 100));
        follower.fence(number, Claim([2; Claim::LEN])).unwrap();
        match join(&mut follower, welcome(theirs, 100, 100)).last() {
            Some(Action::JoinFailed(error)) => Err(error.clone()),
            _ => Ok(follower.promised()),
        }
    };
    let own = Promise { epoch: number.next(), claim: Claim([2; Claim::LEN]) };
    assert_eq!(joins(theirs(number.next(), 2)), Ok(own));
    for twin in [number, number.next(), number.next().next()] {
        assert_eq!(joins(theirs(twin, 3)), Err(JoinError::TwinReign(twin)));
    }
    let later = Promise { epoch: number.next_promotion(), claim: Claim([3; Claim::LEN]) };
    assert_eq!(joins(theirs(later.epoch, 3)), Ok(later));
    assert!(matches!(joins(theirs(Epoch::new(2), 2)), Err(JoinError::StaleLeader { .. })));
}

#[test]
fn what_no_leader_can_say_ends_the_attempt_and_is_written_nowhere() {
    let begin = |image_len| Some(BeginSync { image_len, ..BeginSync::default() });
    for welcome in [
        welcome(vec![reign(0xf000_0000, 1, 0)], 0, 0),
        welcome(vec![reign(1, 1, 1 << 62)], 0, 0),
        Welcome { begin_sync: begin(1 << 20), ..welcome(vec![reign(1, 1, 0)], 1 << 62, 0) },
        Welcome { begin_sync: begin(1 << 62), ..welcome(vec![reign(1, 1, 0)], 0, 0) },
    ] {
        let mut follower = follower(vec![reign(1, 1, 0)], progress(0, 0, 0, 0));
        let actions = join(&mut follower, welcome);
        assert_eq!(actions.last(), Some(&Action::JoinFailed(JoinError::Malformed)), "{actions:?}");
        assert!(!actions.iter().any(|action| matches!(action, Action::Promise(_))), "{actions:?}");
    }
}

#[test]
fn a_resume_point_below_what_is_committed_is_turned_away() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 0, 2500, 4000));
    let actions = join(&mut follower, welcome(history, 2000, 2000));
    assert!(matches!(actions.last(), Some(Action::JoinFailed(JoinError::Unreachable { .. }))), "{actions:?}");
    assert_eq!(follower.progress().durable, Lsn::new(4000));
}

#[test]
fn attempts_back_off_and_a_success_starts_over() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 0, 0, 0));
    follower.follow(0);
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        follower.disconnected(now, "refused");
        let since = now;
        while follower.tick(now) != [Action::Connect] {
            now += 1;
        }
        pauses.push(now - since);
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    follower.connected(now);
    // A welcome is none yet: what it asks for may be impossible.
    let mut pause_after = |now: u64, is_heard: bool| {
        follower.connected(now);
        follower.message(now, Some(Body::Welcome(welcome(history.clone(), 0, 0))));
        if is_heard {
            follower.heard(now);
        }
        follower.disconnected(now, "reset");
        (now..).find(|&at| follower.tick(at) == [Action::Connect]).unwrap() - now
    };
    assert_eq!(pause_after(now, false), 2000);
    assert_eq!(pause_after(now + 2000, true), 50);
}

#[test]
fn a_silent_leader_is_given_up_and_a_heartbeat_is_answered() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 0, 0, 100));
    join(&mut follower, welcome(history, 100, 0));
    let beat =
        Heartbeat { session: 77, epoch: 1, appended_lsn: 100, committed_lsn: 100, ..Heartbeat::default() };
    assert!(matches!(
        &follower.message(2000, Some(Body::Heartbeat(beat)))[..],
        [Action::Send(Body::Status(_))]
    ));
    assert_eq!(follower.replay_target(), Lsn::new(100));
    assert_eq!(follower.message(2001, Some(Body::Heartbeat(Heartbeat { session: 76, ..beat }))), []);
    assert_eq!(follower.tick(4999), []);
    assert!(matches!(
        &follower.tick(5000)[..],
        [Action::CloseWindow, Action::Disconnect, Action::SessionLost(_)]
    ));
}

#[test]
fn a_log_that_lacks_what_its_leader_has_flushed_ends_the_session() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 0, 0, 100));
    join(&mut follower, welcome(history, 100, 0));
    let mut beat = |flushed_lsn, scanned| {
        follower.scanned(Lsn::new(scanned), Lsn::ZERO);
        let beat = Heartbeat { session: 77, epoch: 1, flushed_lsn, ..Heartbeat::default() };
        follower.message(0, Some(Body::Heartbeat(beat)))
    };
    for (flushed, scanned) in [(0, 100), (150, 150), (150, 200)] {
        let actions = beat(flushed, scanned);
        assert!(matches!(&actions[..], [Action::Send(Body::Status(_))]), "{flushed} {scanned}: {actions:?}");
    }
    let actions = beat(201, 200);
    let [Action::CloseWindow, Action::Disconnect, Action::SessionLost(why)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(why.contains("up to durable_lsn 200 only") && why.ends_with("up to 201"), "{why}");
}

#[test]
fn a_busy_follower_is_alive_and_does_not_take_its_leader_for_silent() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 0, 0, 100));
    assert_eq!(follower.busy(0), [], "there is nobody to tell");
    join(&mut follower, welcome(history, 100, 0));
    let told = follower.busy(2500);
    assert!(matches!(told[..], [Action::Send(Body::Status(status))] if status.session == 77), "{told:?}");
    assert!(matches!(&follower.tick(5499)[..], [] | [Action::Send(Body::Status(_))]));
    assert!(follower.tick(5500).contains(&Action::Disconnect));
}

#[test]
fn progress_is_reported_without_being_asked() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 0, 0, 100));
    join(&mut follower, welcome(history, 100, 100));
    follower.replayed(Lsn::new(100), Lsn::new(100));
    assert_eq!(follower.tick(19), []);
    assert!(matches!(&follower.tick(20)[..], [Action::Send(Body::Status(_))]));
    assert_eq!(follower.tick(40), []);
}

#[test]
fn a_refusal_is_kept_for_info() {
    let mut follower = follower(vec![reign(1, 1, 0)], progress(0, 0, 0, 100));
    follower.follow(0);
    follower.connected(0);
    let refuse = Refuse { text: "the leader's log no longer reaches back".into(), ..Refuse::default() };
    follower.message(0, Some(Body::Refuse(refuse)));
    let error = follower.standing().last_error.unwrap();
    assert_eq!(error.to_string(), "the leader refuses: the leader's log no longer reaches back");
}

#[test]
fn promotion_needs_a_fence_and_starts_where_the_log_ends_after_it() {
    let history = vec![reign(1, 1, 0)];
    let mut follower = follower(history.clone(), progress(0, 50, 100, 100));
    join(&mut follower, welcome(history, 100, 100));
    assert_eq!(follower.promote(), Err(PromoteError::NotFenced));
    let claim = Claim([2; Claim::LEN]);
    assert_eq!(follower.fence(Epoch::new(1), claim), Err(PromoteError::Outbid(Epoch::new(1))));
    let actions = follower.fence(follower.next_epoch(), claim).unwrap();
    let promoted = Promise { epoch: Epoch::new(1).next_promotion(), claim };
    assert_eq!(actions, [Action::Promise(promoted), Action::CloseWindow, Action::Disconnect]);
    // Bytes that arrived before the window was closed.
    follower.scanned(Lsn::new(180), Lsn::new(120));
    follower.tail_cell(TailCell { epoch: 1, appended_lsn: 500, committed_lsn: 180 });
    let promotion = follower.promote().unwrap();
    assert_eq!(promotion.promise, Promise { epoch: promoted.epoch.of_the_promoted(), ..promoted });
    assert_eq!(promotion.committed, Lsn::new(120), "a hint is not listened to after the fence");
}
