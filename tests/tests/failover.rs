//! FAILOVER, and other changes of a leader that is there; what follows from them for clients.

use std::time::Duration;

use farkeep_tests::group::{Group, assert_only_redirects, fail_over, promote_in_a_transaction, role, state};
use farkeep_tests::load::Load;
use farkeep_tests::pair::wait_for_link;
use farkeep_tests::server::free_port;
use farkeep_tests::sim::Rng;
use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, seed, wait};

const WRITERS: u64 = 4;

/// Failovers of the test that stops nodes.
const ROUNDS: u64 = 12;

#[track_caller]
fn wait_for_state(node: &Server, wanted: &str) {
    wait::until(&format!("the state {wanted}"), || state(node) == wanted);
}

/// Whether nothing is said on this connection for a while.
fn is_silent(client: &mut Client) -> bool {
    client.set_reply_timeout(Duration::from_millis(50));
    let silent = client.reply_raw().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    client.set_reply_timeout(farkeep_tests::client::REPLY_TIMEOUT);
    silent
}

#[test]
fn failover_back_and_forth_under_load_loses_nothing_and_shows_clients_only_redirects() {
    for threads in ["1", "2"] {
        let node = || ServerBuilder::farkeep().args("--io-threads").args(threads);
        let Pair { mut leader, mut follower } = Pair::with(node(), node()).expect_link_trouble();
        let load = Load::roaming(&[leader.port(), follower.port()], WRITERS, 1);
        for _ in 0..6 {
            load.wait_for_more(300);
            fail_over(&leader, &follower);
            std::mem::swap(&mut leader, &mut follower);
        }
        load.wait_for_more(300);
        let ledger = load.stop();
        assert_only_redirects(&ledger);
        ledger.assert_kept_by("the last leader", &mut leader.client());
        wait::until("the follower to have applied everything", || {
            follower.info("farkeep", "farkeep_applied_lsn") == leader.info("farkeep", "farkeep_appended_lsn")
        });
        ledger.assert_kept_by("the last follower", &mut follower.client());
    }
}

#[test]
fn the_other_follower_goes_along_to_the_new_leader_and_everybody_keeps_its_place_over_a_restart() {
    let mut group = Group::start(2);
    let load = Load::roaming(&group.ports(), WRITERS, 1);
    load.wait_for_more(300);
    fail_over(&group.0[0], &group.0[1]);
    wait_for_link(&group.0[1], &group.0[2]);
    assert_eq!(group.0[2].info("replication", "master_port"), group.0[1].port().to_string());
    load.wait_for_more(300);
    // Without a target, whoever is in sync first.
    group.0[1].client().expect_ok("FAILOVER");
    wait_for_state(&group.0[1], "no-failover");
    load.wait_for_more(300);
    let ledger = load.stop();
    assert_only_redirects(&ledger);
    let roles = |group: &Group| group.0.iter().map(role).collect::<Vec<_>>();
    let before = roles(&group);
    assert_eq!(before.iter().filter(|role| *role == "master").count(), 1, "{before:?}");
    wait::until("all links to be up", || {
        group.0.iter().filter(|node| node.info("replication", "master_link_status") == "up").count() == 2
    });
    for node in &mut group.0 {
        assert!(node.stop().success());
    }
    for node in &mut group.0 {
        node.restart();
    }
    assert_eq!(roles(&group), before);
    let leader = before.iter().position(|role| role == "master").expect("a leader");
    for follower in (0..3).filter(|at| *at != leader) {
        wait_for_link(&group.0[leader], &group.0[follower]);
    }
    ledger.assert_kept_by("the leader", &mut group.0[leader].client());
}

/// Whom it has followed has been restarted meanwhile, and knows from its log alone that it has led.
#[test]
fn a_follower_that_has_missed_a_failover_is_told_whom_to_follow_even_after_a_restart() {
    let mut group = Group::start(2).0;
    group[2].freeze();
    fail_over(&group[0], &group[1]);
    group[0].kill();
    group[0].restart();
    wait_for_link(&group[1], &group[0]);
    group[2].thaw();
    wait_for_link(&group[1], &group[2]);
    assert_eq!(group[2].info("replication", "master_port"), group[1].port().to_string());
}

#[test]
fn a_failover_to_a_follower_that_stands_still_times_out_and_writes_go_on() {
    let group = Group::start(2);
    let [leader, target, _other] = &group.0[..] else { unreachable!() };
    let load = Load::roaming(&group.ports(), WRITERS, 1);
    load.wait_for_more(300);
    target.freeze();
    load.wait_for_more(100);
    leader.client().expect_ok(&format!("FAILOVER TO 127.0.0.1 {} TIMEOUT 300", target.port()));
    assert_eq!(state(leader), "waiting-for-sync");
    wait_for_state(leader, "no-failover");
    load.wait_for_more(300);
    target.thaw();
    wait_for_link(leader, target);
    assert_eq!(role(leader), "master");
    let ledger = load.stop();
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    ledger.assert_kept_by("the leader", &mut leader.client());
}

/// Whoever is stopped and whenever, at most one of the two believes that it may go on.
#[test]
fn failovers_in_which_somebody_is_stopped_at_any_moment_lose_nothing() {
    let group = Group::start(2);
    let load = Load::roaming(&group.ports(), WRITERS, 1);
    for seed in seed::seeds(ROUNDS) {
        let mut rng = Rng::new(seed);
        let leader = group.leader();
        let target = (leader + 1 + rng.index(2)) % 3;
        load.wait_for_more(50);
        group.0[leader].client().expect_ok(&format!("FAILOVER TO 127.0.0.1 {}", group.0[target].port()));
        let stopped = &group.0[if rng.chance(50) { leader } else { target }];
        // In the middle of what takes some ms, and for longer than an answer is waited for, or not.
        std::thread::sleep(Duration::from_micros(rng.below(25_000)));
        stopped.freeze();
        std::thread::sleep(Duration::from_millis(rng.below(900)));
        stopped.thaw();
        let over = Value::Error("ERR No failover in progress.".into());
        // Without TIMEOUT, a leader waits for its target for ever.
        wait::until("the failover to be over", || group.0[leader].client().words("FAILOVER ABORT") == over);
        wait::until("one of them to lead both others", || {
            let leaders = group.0.iter().filter(|node| role(node) == "master").count();
            let up = group.0.iter().filter(|node| node.info("replication", "master_link_status") == "up");
            let in_reach = |node: &Server| node.info("farkeep", "farkeep_followers_in_reach") == "2";
            leaders == 1 && up.count() == 2 && group.0.iter().any(in_reach)
        });
    }
    load.wait_for_more(50);
    let ledger = load.stop();
    assert_only_redirects(&ledger);
    let leader = &group.0[group.leader()];
    ledger.assert_kept_by("the last leader", &mut leader.client());
    for node in &group.0 {
        wait::until("everybody to have applied everything", || {
            node.info("farkeep", "farkeep_applied_lsn") == leader.info("farkeep", "farkeep_appended_lsn")
        });
        ledger.assert_kept_by("everybody", &mut node.client());
    }
}

/// FORCE is for a target that is behind, not for one that is gone.
#[test]
fn a_forced_failover_to_a_follower_that_does_not_answer_leads_on() {
    let group = Group::start(2);
    let [leader, target, _other] = &group.0[..] else { unreachable!() };
    target.freeze();
    leader.client().expect_ok("SET only here");
    leader.client().expect_ok(&format!("FAILOVER TO 127.0.0.1 {} FORCE TIMEOUT 100", target.port()));
    wait_for_state(leader, "failover-in-progress");
    wait_for_state(leader, "no-failover");
    leader.client().expect_ok("SET after that");
    target.thaw();
    // What was offered to it is void.
    wait_for_link(leader, target);
    assert_eq!((role(leader).as_str(), role(target).as_str()), ("master", "slave"));
}

#[test]
fn during_a_failover_reads_are_answered_and_writes_wait_until_it_is_aborted() {
    let pair = Pair::start().expect_link_trouble();
    let (leader, target) = (&pair.leader, &pair.follower);
    leader.client().expect_ok("SET k v");
    target.freeze();
    let failover = format!("FAILOVER TO 127.0.0.1 {}", target.port());
    let mut client = leader.client();
    let appended = || leader.info("farkeep", "farkeep_appended_lsn");
    client.expect_ok(&failover);
    let end = appended();
    let mut writer = leader.client();
    writer.send(&["SET", "k", "w"]).expect("it can be sent");
    assert!(is_silent(&mut writer));
    assert_eq!(client.words("GET k").text().as_deref(), Some("v"));
    assert_eq!(client.words(&failover), Value::Error("ERR FAILOVER already in progress.".into()));
    assert_eq!(
        client.words("REPLICAOF NO ONE"),
        Value::Error("ERR REPLICAOF not allowed while failing over.".into())
    );
    assert_eq!(appended(), end, "nothing is written meanwhile");
    client.expect_ok("FAILOVER ABORT");
    assert_eq!(state(leader), "no-failover");
    target.thaw();
    assert!(writer.reply().expect("a reply").is_ok());
    assert_eq!(client.words("GET k").text().as_deref(), Some("w"));
    assert_eq!(client.words("FAILOVER ABORT"), Value::Error("ERR No failover in progress.".into()));
}

#[test]
fn what_waited_during_a_failover_is_redirected_and_a_multi_is_aborted() {
    let pair = Pair::start().expect_link_trouble();
    let (leader, target) = (&pair.leader, &pair.follower);
    let mut watcher = leader.client();
    watcher.expect_ok("WATCH k");
    let mut queued = leader.client();
    queued.expect_ok("MULTI");
    queued.words("SET k queued");
    target.freeze();
    let mut early = leader.client();
    early.send(&["SET", "early", "v"]).expect("it can be sent");
    wait::until("the write to be appended", || {
        leader.info("farkeep", "farkeep_appended_lsn") > leader.info("farkeep", "farkeep_committed_lsn")
    });
    leader.client().expect_ok("FAILOVER");
    let mut writer = leader.client();
    writer.send(&["SET", "k", "waiting"]).expect("it can be sent");
    let mut executing = leader.client();
    executing.expect_ok("MULTI");
    executing.words("SET k executing");
    executing.send(&["EXEC"]).expect("it can be sent");
    assert!(is_silent(&mut writer) && is_silent(&mut executing));
    target.thaw();
    assert!(early.reply().expect("a reply").is_ok(), "what was executed before is committed first");
    let refusal = "READONLY You can't write against a read only replica.";
    let aborted = format!("EXECABORT Transaction discarded because of: {refusal}");
    assert_eq!(writer.reply().expect("a reply"), Value::Error(refusal.into()));
    assert_eq!(executing.reply().expect("a reply"), Value::Error(aborted.clone()));
    assert_eq!(queued.words("EXEC"), Value::Error(aborted));
    // Nobody was disconnected.
    assert_eq!(writer.words("GET k"), Value::NullBulk);
    // Back again: what became of a watched key meanwhile, nobody here saw.
    wait::until("the failover to be over", || state(leader) == "no-failover" && role(target) == "master");
    target.client().expect_ok("SET k elsewhere");
    fail_over(target, leader);
    watcher.expect_ok("MULTI");
    watcher.words("SET k watched");
    assert!(watcher.words("EXEC").is_null());
}

/// Words for which Redis has an answer that does not depend on replicas.
#[test]
fn failover_refuses_in_redis_words() {
    let (redis, node) = (Server::redis(), Server::farkeep());
    for words in [
        "FAILOVER",
        "FAILOVER ABORT",
        "FAILOVER ABORT TIMEOUT 3",
        "FAILOVER TIMEOUT 3 ABORT",
        "FAILOVER TO",
        "FAILOVER TO a",
        "FAILOVER TO a b",
        "FAILOVER TO a 1",
        "FAILOVER TO a 1 TO b 2",
        "FAILOVER TO a 1 FORCE",
        "FAILOVER FORCE",
        "FAILOVER FORCE FORCE",
        "FAILOVER TIMEOUT",
        "FAILOVER TIMEOUT 0",
        "FAILOVER TIMEOUT -1",
        "FAILOVER TIMEOUT x",
        "FAILOVER TIMEOUT 1 TIMEOUT 1",
        "failover to a 1 timeout 5 nonsense",
    ] {
        assert_eq!(node.client().words(words), redis.client().words(words), "{words}");
    }
    let pair = Pair::start();
    for (words, text) in [
        ("FAILOVER TO 127.0.0.1 1", "ERR FAILOVER target HOST and PORT is not a replica."),
        (
            "FAILOVER FORCE TIMEOUT 5",
            "ERR FAILOVER with force option requires both a timeout and target HOST and IP.",
        ),
    ] {
        assert_eq!(pair.leader.client().words(words), Value::Error(text.into()));
    }
    let refusal = pair.follower.client().words("FAILOVER");
    assert_eq!(refusal, Value::Error("ERR FAILOVER is not valid when server is a replica.".into()));
}

#[test]
fn a_leader_that_is_told_to_follow_its_own_follower_waits_until_that_leads() {
    let group = Group::start(1).0;
    let [first, second] = &group[..] else { unreachable!() };
    fail_over(first, second);
    second.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", first.port()));
    wait::until("the refusal", || {
        second.info("farkeep", "farkeep_link_down_reason").contains("is a follower itself")
    });
    assert_eq!(second.info("replication", "master_port"), first.port().to_string());
    first.client().expect_ok("REPLICAOF NO ONE");
    wait_for_link(first, second);
    first.client().expect_ok("SET k v");
}

/// Has a follower ask for its leader's place as Sentinel does, for a client that is gone when the leader stands down for it.
#[track_caller]
fn ask_and_go_away(leader: &Server, follower: &Server) {
    leader.freeze();
    let mut client = follower.client();
    client.expect_ok("MULTI");
    client.words("REPLICAOF NO ONE");
    client.send(&["EXEC"]).expect("it can be sent");
    drop(client);
    wait::until("the client to be gone", || follower.info("clients", "connected_clients") == "1");
    leader.thaw();
    wait::until("the leader to stand down", || leader.log().contains("standing down for a follower"));
}

/// The leader has led on, and so what has been granted once is no reason to ask nobody.
#[test]
fn a_grant_is_good_for_a_moment_only() {
    let group = Group::start(2).0;
    let [leader, asker, other] = &group[..] else { unreachable!() };
    ask_and_go_away(leader, asker);
    asker.freeze();
    leader.client().expect_ok("SET acknowledged yes");
    leader.freeze();
    asker.thaw();
    wait::until("the promotion", || promote_in_a_transaction(asker).error().is_none());
    assert_eq!(role(asker), "master");
    wait_for_link(asker, other);
    assert_eq!(asker.client().words("GET acknowledged").text().as_deref(), Some("yes"));
    leader.thaw();
}

#[test]
fn a_follower_that_does_not_take_the_place_granted_to_it_leaves_it_to_the_leader() {
    let group = Group::start(2).0;
    let [leader, asker, other] = &group[..] else { unreachable!() };
    ask_and_go_away(leader, asker);
    asker.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", free_port()));
    wait_for_link(leader, other);
    leader.client().expect_ok("SET k v");
    assert_eq!(role(leader), "master");
}
