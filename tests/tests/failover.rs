//! FAILOVER, and what follows from it for clients; promotions, and the followers of a leader that is gone.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use farkeep_proto::logfile::WINDOW_AT;
use farkeep_proto::window::RING_AT;
use farkeep_tests::group::{Group, assert_only_redirects, known_peers, role, state};
use farkeep_tests::load::Load;
use farkeep_tests::pair::{expect_link_trouble, wait_for_link};
use farkeep_tests::server::{free_port, scratch_dir};
use farkeep_tests::sim::Rng;
use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, http, seed, wait};

const WRITERS: u64 = 4;
/// Failovers of the test that stops nodes.
const ROUNDS: u64 = 12;

#[track_caller]
fn wait_for_state(node: &Server, wanted: &str) {
    wait::until(&format!("the state {wanted}"), || state(node) == wanted);
}

fn is_error(value: &Value, prefix: &str) -> bool {
    value.error().is_some_and(|text| text.starts_with(prefix))
}

/// Promotes it as Sentinel does.
fn promote_in_a_transaction(node: &Server) -> Value {
    let mut client = node.client();
    client.expect_ok("MULTI");
    client.words("REPLICAOF NO ONE");
    client.words("EXEC")
}

/// FAILOVER from one to the other, to its end.
#[track_caller]
fn fail_over(from: &Server, to: &Server) {
    from.client().expect_ok(&format!("FAILOVER TO 127.0.0.1 {}", to.port()));
    wait::until("the failover to be over", || state(from) == "no-failover" && role(from) == "slave");
    assert_eq!(role(to), "master");
    assert_eq!(from.info("replication", "master_port"), to.port().to_string());
    assert_eq!(from.info("replication", "master_link_status"), "up");
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

/// What keeps a leader that is only out of sight from acknowledging anything behind a failover's back.
#[test]
fn a_leader_whose_followers_are_fenced_acknowledges_nothing_until_they_are_let_go() {
    let group = Group::start(2);
    let [leader, one, two] = &group.0[..] else { unreachable!() };
    let mut ends = Vec::new();
    for follower in [one, two] {
        let reply = follower.client().words("FARKEEP.FENCE").elements().expect("an array");
        ends.push(reply[1].int().expect("a position"));
        assert_eq!(follower.info("farkeep", "farkeep_fenced"), "1");
    }
    wait::until("the leader to refuse writes", || is_error(&leader.client().words("SET k v"), "NOREPLICAS"));
    for (follower, end) in [one, two].into_iter().zip(&ends) {
        assert_eq!(follower.info("farkeep", "farkeep_durable_lsn"), end.to_string(), "what it said is final");
        follower.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", leader.port()));
        wait_for_link(leader, follower);
    }
    assert!(is_error(&leader.client().words("FARKEEP.FENCE"), "ERR"));
}

/// The leader has not heard of the promotion and goes on with another follower. Nobody was told of anything in the reign that
/// leads nobody, so the operator can end it with one command.
#[test]
fn a_promoted_node_that_committed_nothing_follows_the_leader_that_went_on() {
    let group = Group::start(2);
    let [leader, promoted, _] = &group.0[..] else { unreachable!() };
    promoted.client().expect_ok("REPLICAOF NO ONE");
    leader.client().expect_ok("SET acknowledged yes");
    let mut alone = promoted.client();
    assert!(is_error(&alone.words("SET refused yes"), "NOREPLICAS"));
    promoted.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", leader.port()));
    wait_for_link(leader, promoted);
    wait::until("what was acknowledged to be there", || {
        promoted.client().words("GET acknowledged").text().as_deref() == Some("yes")
    });
    for node in &group.0 {
        assert!(node.client().words("GET refused").is_null());
    }
}

/// It has handed over once, and tells who missed that whom to follow instead. The leader that is taken for dead now is no such advice.
#[test]
fn who_comes_to_a_promotion_is_not_sent_back_to_the_leader_that_it_has_left() {
    for _ in 0..3 {
        let group = Group::start(2).0;
        let [first, second, other] = &group[..] else { unreachable!() };
        fail_over(first, second);
        wait::until("everybody to know everybody", || {
            second.info("farkeep", "farkeep_followers_in_reach") == "2"
                && known_peers(first) == 2
                && known_peers(other) == 2
        });
        second.freeze();
        let reply = promote_in_a_transaction(first);
        assert!(reply.error().is_none(), "{reply:?}");
        second.thaw();
        wait_for_link(first, other);
        wait::until("the old leader to lose its followers", || {
            second.info("farkeep", "farkeep_followers_in_reach") == "0"
        });
        assert!(is_error(&second.client().words("SET k v"), "NOREPLICAS"));
        assert_eq!(other.info("replication", "master_port"), first.port().to_string());
    }
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

/// The link's thread may be waiting for the leader all the while.
#[test]
fn a_follower_that_is_fenced_and_told_to_follow_the_same_leader_does() {
    let pair = Pair::start().expect_link_trouble();
    pair.leader.freeze();
    wait::until("the link to be down", || pair.follower.info("replication", "master_link_status") == "down");
    let mut client = pair.follower.client();
    for _ in 0..3 {
        assert!(client.words("FARKEEP.FENCE").error().is_none());
        client.expect_ok(&format!("REPLICAOF 127.0.0.1 {}", pair.leader.port()));
    }
    pair.leader.thaw();
    pair.wait_for_link();
}

#[test]
fn what_a_node_is_told_while_it_asks_its_peers_in_vain_stays() {
    let mut group = Group::start(2).0;
    group[0].kill();
    group[2].freeze();
    let asker = &mut group[1];
    asker.expect_log("a promotion is refused");
    let mut client = asker.client();
    client.expect_ok("MULTI");
    client.words("REPLICAOF NO ONE");
    client.send(&["EXEC"]).expect("it can be sent");
    wait::until("the fence", || asker.log().contains("following nobody until told whom"));
    let elsewhere = free_port();
    asker.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {elsewhere}"));
    let reply = client.reply().expect("an answer");
    assert!(is_error(&reply, "EXECABORT"), "{reply:?}");
    assert_eq!(asker.info("replication", "master_port"), elsewhere.to_string());
    group[2].thaw();
}

/// So many nodes without configuration files, the first of which is started as the leader, and has handed over to the second.
#[track_caller]
fn led_by_another_than_configured<const COUNT: usize>() -> [Server; COUNT] {
    let node = || ServerBuilder::farkeep().args("--sync-followers 1");
    let leader = node().start();
    let address = format!("127.0.0.1 {}", leader.port());
    let mut leader = Some(leader);
    let mut nodes = std::array::from_fn(|_| match leader.take() {
        Some(leader) => leader,
        None => node().directive("replicaof", &address).start(),
    });
    nodes.iter_mut().for_each(expect_link_trouble);
    let has_followers =
        |node: &Server| node.info("farkeep", "farkeep_followers_in_reach") == (COUNT - 1).to_string();
    wait::until("all followers", || has_followers(&nodes[0]));
    fail_over(&nodes[0], &nodes[1]);
    wait::until("all followers", || has_followers(&nodes[1]));
    wait::until("everybody to know everybody", || {
        let mut followers = nodes.iter().enumerate().filter(|(index, _)| *index != 1);
        followers.all(|(_, node)| known_peers(node) == COUNT - 1)
    });
    nodes
}

/// Waits for it to have so many followers.
#[track_caller]
fn wait_for_followers(leader: &Server, count: usize) {
    wait::until("the followers", || {
        leader.info("farkeep", "farkeep_followers_in_reach") == count.to_string()
    });
}

/// The one goes on, with one follower; the other one, which leads when it is started because it always did, has one as well.
#[test]
fn a_leader_by_configuration_takes_no_writes_beside_the_one_that_it_had_followed() {
    let [mut first, second, third, mut late] = led_by_another_than_configured();
    first.kill();
    late.kill();
    second.client().expect_ok("SET acknowledged yes");
    late.spawn_only();
    for _ in 0..2 {
        first.restart();
        wait_for_followers(&first, 1);
        let fields = ["farkeep_followers_wanted", "farkeep_refusing"];
        assert_eq!(fields.map(|field| first.info("farkeep", field)), ["2", "1"]);
        assert!(is_error(&first.client().words("SET acknowledged no"), "NOREPLICAS"));
        first.kill();
    }
    second.client().expect_ok("SET acknowledged again");
    // The others are lost, and somebody decides to go on with what is left.
    drop((second, third));
    first.restart();
    first.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", late.port()));
    first.client().expect_ok("REPLICAOF NO ONE");
    wait_for_link(&first, &late);
}

/// It was replaced without knowing, and somebody has told a follower that had been counted on to follow it again.
#[test]
fn a_leader_that_was_replaced_takes_no_writes_with_one_follower_that_comes_back() {
    let group = Group::start(3);
    let [zombie, back, promoted, other] = &group.0[..] else { unreachable!() };
    let claim = "00000000000000cc";
    for node in [back, promoted, other] {
        let reply = node.client().words(&format!("FARKEEP.FENCE 0 {claim}"));
        assert!(reply.error().is_none(), "{reply:?}");
    }
    promoted.client().expect_ok(&format!("FARKEEP.PROMOTE {claim}"));
    other.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", promoted.port()));
    back.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", zombie.port()));
    wait::until("it to begin a reign above what the follower has promised", || {
        zombie.info("farkeep", "farkeep_epoch_shown") == "<1.1"
    });
    wait_for_followers(zombie, 1);
    assert!(is_error(&zombie.client().words("SET acknowledged no"), "NOREPLICAS"));
    wait_for_link(promoted, other);
    promoted.client().expect_ok("SET acknowledged yes");
    // All the others come back as well: it was not replaced after all.
    for node in [promoted, other] {
        node.client().expect_ok("CONFIG SET replace-dataset yes");
        node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", zombie.port()));
    }
    wait_for_link(zombie, promoted);
    wait_for_link(zombie, other);
}

/// As long as enough of them have come.
#[test]
fn a_group_that_is_started_as_configured_goes_on() {
    let mut group: [Server; 4] = led_by_another_than_configured();
    group.iter_mut().for_each(Server::kill);
    for node in [0, 3] {
        group[node].restart();
    }
    wait_for_followers(&group[0], 1);
    assert!(is_error(&group[0].client().words("SET key value"), "NOREPLICAS"));
    let remembered = |node: &Server| std::fs::read(node.pool().join("peers")).expect("a file");
    let before = remembered(&group[0]);
    group[2].restart();
    wait_for_link(&group[0], &group[2]);
    // From here on one is enough.
    group[2].kill();
    wait_for_followers(&group[0], 1);
    group[0].client().expect_ok("SET key value");
    assert_eq!(group[0].info("farkeep", "farkeep_followers_wanted"), "1");
    // Once it remembers its own followers, also after a restart.
    wait::until("it to remember them", || remembered(&group[0]) != before);
    group[0].kill();
    group[0].restart();
    wait_for_link(&group[0], &group[3]);
}

/// Nobody has seen to it that it holds what the others have acknowledged.
#[test]
fn a_follower_that_is_started_as_a_leader_takes_no_writes_away_from_the_others() {
    let [mut first, mut second, mut other] = led_by_another_than_configured();
    first.kill();
    second.client().expect_ok("SET acknowledged yes");
    second.kill();
    other.kill();
    // As they were started at first.
    for node in [&mut first, &mut second, &mut other] {
        node.restart();
    }
    for node in [&second, &other] {
        wait::until("the refusal", || {
            node.info("farkeep", "farkeep_link_down_reason").contains("was not promoted")
        });
    }
    second.client().expect_ok("REPLICAOF NO ONE");
    for node in [&first, &other] {
        node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", second.port()));
        wait_for_link(&second, node);
        wait::until("what was acknowledged to be there", || {
            node.client().words("GET acknowledged").text().as_deref() == Some("yes")
        });
    }
}

/// Each start as a leader begins a reign of its own, of a higher number than that in which the others go on.
#[test]
fn a_node_that_is_started_as_a_leader_again_and_again_is_not_the_most_advanced_one_for_it() {
    let [mut first, mut second, other] = led_by_another_than_configured();
    for _ in 0..3 {
        first.kill();
        first.restart();
    }
    first.client().expect_ok("REPLICAOF 127.0.0.1 1");
    second.client().expect_ok("SET acknowledged yes");
    second.kill();
    let position = |node: &Server| {
        ["farkeep_log_epoch", "farkeep_log_end_lsn"]
            .map(|field| node.info("farkeep", field).parse::<u64>().expect("a number"))
    };
    assert!(position(&first) < position(&other), "{:?} {:?}", position(&first), position(&other));
    let mut command = std::process::Command::new(farkeep_tests::binary::farkeep());
    command.args(["failover", "--force"]);
    for node in [&first, &other] {
        command.args(["--node", &format!("127.0.0.1:{}", node.port())]);
    }
    let output = command.output().expect("farkeep can be started");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(other.client().words("GET acknowledged").text().as_deref(), Some("yes"), "{said}");
}

/// A backup that was put back, or a machine whose disk has lied.
#[test]
fn a_leader_with_an_older_pool_takes_no_committed_writes_away_from_its_follower() {
    let mut pair = Pair::start().expect_link_trouble();
    pair.leader.client().expect_ok("SET key old");
    pair.wait_until_applied();
    pair.leader.kill();
    let copy = scratch_dir();
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        for file in ["image", "log"] {
            std::fs::copy(from.join(file), to.join(file)).expect("a copy");
        }
    };
    copied(&pair.leader.pool(), copy.path());
    pair.leader.restart();
    pair.wait_for_link();
    pair.leader.client().expect_ok("SET key new");
    pair.wait_until_applied();
    pair.leader.kill();
    copied(copy.path(), &pair.leader.pool());
    // The second start has a later epoch than the one that the follower knows.
    pair.leader.restart();
    pair.leader.kill();
    pair.leader.restart();
    wait::until("the refusal", || {
        pair.follower.info("farkeep", "farkeep_link_down_reason").contains("pool is an older one")
    });
    assert_eq!(pair.follower.client().words("GET key").text().as_deref(), Some("new"));
}

#[test]
fn a_promotion_that_fails_leaves_the_follower_that_it_was() {
    let mut pair = Pair::start().expect_link_trouble();
    pair.leader.client().expect_ok("SET k v");
    pair.wait_until_applied();
    assert!(pair.follower.stop().success());
    // Where the keystore says where its tables are.
    let path = pair.follower.pool().join("image");
    let image = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut good = [0; 8];
    image.read_exact_at(&mut good, 64).unwrap();
    image.write_all_at(&good.map(|byte| byte ^ 0x40), 64).unwrap();
    pair.follower.expect_log("this node has nothing to serve");
    pair.follower.restart();
    let why = || pair.follower.info("farkeep", "farkeep_link_down_reason");
    wait::until("the reason", || why().contains("the image is damaged"));
    let refusal = pair.follower.client().words("REPLICAOF NO ONE");
    assert!(is_error(&refusal, "ERR promotion failed"), "{refusal:?}");
    assert_eq!(role(&pair.follower), "slave");
    wait::until("the scrub", || pair.leader.client().words("FARKEEP SCRUB").error().is_none());
    wait::until("the image to be mended", || {
        pair.follower.client().words("GET k").text().as_deref() == Some("v")
    });
}

/// What a follower remembers of the others belongs to the address that it has for its leader.
#[test]
fn who_came_to_a_promotion_in_vain_goes_back_to_its_leader_by_its_own_address() {
    let mut group = Group::start(3);
    let port = group.0[0].port();
    group.0[2].client().expect_ok(&format!("REPLICAOF localhost {port}"));
    wait_for_link(&group.0[0], &group.0[2]);
    wait::until("everybody to know everybody", || group.0[1..].iter().all(|node| known_peers(node) == 3));
    let peers = group.0[2].info("farkeep", "farkeep_peers");
    group.0[0].kill();
    group.0[3].kill();
    // One of the two others is not enough.
    let replies = promote_in_a_transaction(&group.0[1]);
    let refused = replies.error().is_some() || replies.elements().is_some_and(|all| !all[0].is_ok());
    assert!(refused, "{replies:?}");
    assert!(group.0[2].log().contains(&format!("now following leader=127.0.0.1:{}", group.0[1].port())));
    wait::until("the one that came to be back", || {
        group.0[2].info("replication", "master_host") == "localhost"
    });
    assert_eq!(group.0[2].info("farkeep", "farkeep_peers"), peers);
}

/// What only the other one holds would be lost. Sentinel tells nobody why it fails, so the node does.
#[test]
fn a_promotion_that_could_lose_a_write_is_refused_and_the_node_says_why() {
    let mut group = Group::start(2).0;
    group[0].kill();
    group[2].freeze();
    let refusal = promote_in_a_transaction(&group[1]);
    let absent = format!("127.0.0.1:{}", group[2].port());
    let says_why =
        |text: &str| text.contains("too few of the other followers answer") && text.contains(&absent);
    assert!(is_error(&refusal, "EXECABORT") && says_why(refusal.error().unwrap_or_default()), "{refusal:?}");
    assert!(group[1].log().lines().any(|line| line.contains("a promotion is refused") && says_why(line)));
    assert_eq!(role(&group[1]), "slave");
    group[2].thaw();
    wait::until("the promotion", || promote_in_a_transaction(&group[1]).error().is_none());
    assert_eq!(role(&group[1]), "master");
}

/// The node that is promoted lacks what a peer was killed with. It fetches that, and takes none of it unless it is whole: else it
/// would lead, and what was acknowledged would be gone.
#[test]
fn what_a_promoted_node_lacks_is_taken_from_a_peer_only_if_it_is_whole() {
    let mut group = Group::start(2).0;
    group[1].freeze();
    let mut client = group[0].client();
    let value = "x".repeat(1000);
    for key in 0..2000 {
        client.expect_ok(&format!("SET key:{key} {value}"));
    }
    let position =
        |node: &Server, which: &str| -> u64 { node.info("farkeep", which).parse().expect("a number") };
    let committed = position(&group[0], "farkeep_committed_lsn");
    wait::until("the checkpoint", || position(&group[2], "farkeep_checkpoint_lsn") >= committed);
    group[0].kill();
    group[2].kill();
    let path = group[2].pool().join("log");
    let log = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let damaged_at = WINDOW_AT + RING_AT + committed / 2;
    let mut good = [0; 8];
    log.read_exact_at(&mut good, damaged_at).unwrap();
    log.write_all_at(&good.map(|byte| !byte), damaged_at).unwrap();
    group[2].restart();
    group[2].expect_log("the log is not whole here");
    group[1].expect_log("a promotion is refused");
    group[1].thaw();
    assert!(position(&group[1], "farkeep_durable_lsn") < committed / 2);
    let refusal = promote_in_a_transaction(&group[1]);
    assert!(refusal.error().is_some_and(|text| text.contains("the log holds LSN")), "{refusal:?}");
    assert_eq!(role(&group[1]), "slave");
    // The damage is gone, as if it had never been.
    group[2].kill();
    log.write_all_at(&good, damaged_at).unwrap();
    group[2].restart();
    wait::until("the promotion", || promote_in_a_transaction(&group[1]).error().is_none());
    assert_eq!(role(&group[1]), "master");
    wait_for_link(&group[1], &group[2]);
    let mut client = group[1].client();
    for key in 0..2000 {
        assert_eq!(client.words(&format!("GET key:{key}")).text().as_deref(), Some(&value[..]), "key:{key}");
    }
}

#[test]
fn a_follower_that_does_not_know_its_peers_is_not_promoted_and_says_so() {
    let nobody = format!("127.0.0.1 {}", free_port());
    let port = free_port();
    let builder = ServerBuilder::farkeep().args(&format!("--sync-followers 1 --http-port {port}"));
    let mut node = builder.directive("replicaof", &nobody).start();
    expect_link_trouble(&mut node);
    node.expect_log("a promotion is refused");
    let refusal = promote_in_a_transaction(&node);
    let why = "the leader has not said yet who else follows it";
    assert!(refusal.error().is_some_and(|text| text.contains(why)), "{refusal:?}");
    let events = http::get(port, "/api/v1/events").json();
    let says_why = |event: &serde_json::Value| {
        event["kind"] == "role" && event["text"].as_str().is_some_and(|text| text.contains(why))
    };
    assert!(events.as_array().is_some_and(|events| events.iter().any(says_why)), "{events}");
    let ask = || http::get(port, "/api/v1/status");
    wait::until("the first look at the node", || ask().status == 200);
    let status = ask().json();
    assert!(status["last_failover"].is_null(), "there was none: {status}");
}

/// Stopped while it is asked, it comes when nobody waits for it any more. Whoever then stays with a node that does not lead knows no peers,
/// and is not promoted itself.
#[test]
fn who_comes_to_a_promotion_too_late_goes_back_to_its_leader() {
    let mut group = Group::start(2);
    let former = group.0[0].port().to_string();
    let peers = group.0[2].info("farkeep", "farkeep_peers");
    group.0[0].kill();
    let [_, asker, late] = &group.0[..] else { unreachable!() };
    late.freeze();
    let refused = promote_in_a_transaction(asker);
    assert!(!refused.elements().is_some_and(|all| all[0].is_ok()), "{refused:?}");
    late.thaw();
    let came = format!("now following leader=127.0.0.1:{}", asker.port());
    wait::until("it to come and to go back", || {
        late.log().contains(&came) && late.info("replication", "master_port") == former
    });
    assert_eq!(late.info("farkeep", "farkeep_peers"), peers);
    wait::until("the promotion", || promote_in_a_transaction(late).error().is_none());
    wait_for_link(late, asker);
}

/// Nobody who came again, and is counted on, may be taken away by what belongs to an earlier time.
#[test]
fn a_dismissal_counts_for_its_own_coming_only() {
    let mut group = Group::start(2);
    let former = group.0[0].port().to_string();
    let peers = group.0[2].info("farkeep", "farkeep_peers");
    group.0[0].kill();
    let successor = group.0[1].port().to_string();
    let mut client = group.0[2].client();
    let follows = || group.0[2].info("replication", "master_port");
    for _ in 0..2 {
        let came = client.words(&format!("FARKEEP.MUSTER 127.0.0.1 {successor} 0 00000000000000ff"));
        assert!(came.error().is_none(), "{came:?}");
    }
    assert_eq!((client.words("FARKEEP.DISMISS 1"), follows()), (Value::Int(0), successor));
    assert_eq!(group.0[2].info("farkeep", "farkeep_peers"), "");
    assert_eq!((client.words("FARKEEP.DISMISS 2"), follows()), (Value::Int(1), former.clone()));
    assert_eq!(group.0[2].info("farkeep", "farkeep_peers"), peers, "as it was before the first time");
    client.words(&format!("FARKEEP.MUSTER 127.0.0.1 {} 0 00000000000000ff", group.0[1].port()));
    client.expect_ok("REPLICAOF 127.0.0.1 1");
    assert_eq!((client.words("FARKEEP.DISMISS 3"), follows()), (Value::Int(0), "1".to_owned()));
    assert!(is_error(&client.words("FARKEEP.DISMISS x"), "ERR value is not an integer"));
}

/// What came of its promotion nobody asks for any more.
#[test]
fn a_node_whose_promotion_has_failed_comes_to_another_one() {
    let mut group = Group::start(2);
    group.0[0].kill();
    let [_, given_up, next] = &group.0[..] else { unreachable!() };
    next.freeze();
    let mut asked = given_up.client();
    asked.send_raw(b"MULTI\r\nREPLICAOF NO ONE\r\nEXEC\r\n").expect("it can be sent");
    wait::until("the peers to be asked", || given_up.log().contains("fenced: following nobody"));
    drop(asked);
    wait::until("it to fail", || given_up.log().contains("a promotion is refused"));
    next.thaw();
    // It may come to the other one first, and be dismissed.
    wait::until("the promotion", || promote_in_a_transaction(next).error().is_none());
    assert_eq!(role(next), "master");
    wait_for_link(next, given_up);
}

/// Two promotions of the same number must not be taken for one, so all who are counted on have promised the same one.
#[test]
fn who_is_mustered_promises_the_number_that_the_reign_gets() {
    let mut group = Group::start(3);
    let former = group.0[0].port();
    group.0[0].kill();
    let [_, asker, ahead, behind] = &group.0[..] else { unreachable!() };
    // Somebody has tried to promote another node, and come as far as this one.
    let fence = format!("FARKEEP.FENCE {} 00000000000000ab", 5 << 16);
    assert_eq!(ahead.client().words(&fence).elements().expect("an array")[2], Value::Int(5 << 16));
    ahead.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {former}"));
    wait::until("the promotion", || promote_in_a_transaction(asker).error().is_none());
    assert_eq!(asker.info("farkeep", "farkeep_epoch_shown"), "6.1");
    let fenced = behind.log().matches("fenced: following nobody").count();
    assert_eq!(fenced, 2, "once for each number");
    for peer in [ahead, behind] {
        wait_for_link(asker, peer);
    }
    assert!(!asker.log().contains("renewing the reign"));
}

/// A group that Sentinel tries to give a leader for weeks must not run out of numbers.
#[test]
fn a_promotion_that_is_tried_again_has_the_same_number() {
    let mut group = Group::start(3);
    group.0[0].kill();
    group.0[3].kill();
    let [_, asker, peer, _] = &group.0[..] else { unreachable!() };
    let mut tried = 0;
    while tried < 3 {
        let refused = promote_in_a_transaction(asker);
        assert!(refused.error().is_some_and(|text| text.contains("too few")), "{refused:?}");
        tried = peer.log().matches("fenced: following nobody").count();
        assert_eq!(peer.info("farkeep", "farkeep_promised_epoch"), "1.0");
    }
    assert_eq!(asker.info("farkeep", "farkeep_promised_epoch"), "0.1", "it follows its leader as before");
}

#[test]
fn a_promotion_for_which_a_node_was_not_fenced_last_does_not_promote_it() {
    let pair = Pair::start().expect_link_trouble();
    let mut client = pair.follower.client();
    let [mine, other] = ["00000000000000aa", "00000000000000bb"];
    let mut fence = |epoch: u32, claim: &str| {
        let reply = client.words(&format!("FARKEEP.FENCE {epoch} {claim}")).elements().expect("an array");
        reply[2].int().expect("an epoch")
    };
    assert_eq!(fence(0, mine), 1 << 16);
    assert_eq!(fence(0, mine), 1 << 16, "the same promotion");
    assert_eq!(fence(3 << 16, mine), 3 << 16, "which wants more");
    assert_eq!(fence(0, other), 4 << 16, "and another one, which others may follow");
    let refused = client.words(&format!("FARKEEP.PROMOTE {mine}"));
    assert!(refused.error().is_some_and(|text| text.contains("another promotion meanwhile")), "{refused:?}");
    assert_eq!(role(&pair.follower), "slave");
    client.expect_ok(&format!("FARKEEP.PROMOTE {other}"));
    assert_eq!(pair.follower.info("farkeep", "farkeep_epoch_shown"), "4.1");
    client.expect_ok(&format!("FARKEEP.PROMOTE {other}"));
    for wrong in [
        format!("FARKEEP.PROMOTE {mine}"),
        "FARKEEP.PROMOTE x".to_owned(),
        "FARKEEP.FENCE 1".to_owned(),
        format!("FARKEEP.FENCE -1 {mine}"),
        "FARKEEP.FENCE 1 0000000000000000".to_owned(),
        format!("FARKEEP.FENCE {} {mine}", u32::MAX),
        "FARKEEP.MUSTER 127.0.0.1 1 x y".to_owned(),
    ] {
        assert!(is_error(&client.words(&wrong), "ERR"), "{wrong}");
    }
    // The leader that it had finds out when it asks to follow.
    pair.leader.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", pair.follower.port()));
    wait_for_link(&pair.follower, &pair.leader);
}

/// With three followers and two acknowledgements, two promotions can be made by nodes that know nothing of each other. The first one here comes to
/// nothing; what the second one has acknowledged counts for more, however often the first one's leader was started again.
#[test]
fn of_two_promotions_that_know_nothing_of_each_other_only_one_acknowledges() {
    let mut group = Group::start(3);
    for node in &group.0 {
        node.client().expect_ok("CONFIG SET sync-followers 2");
        node.client().expect_ok("CONFIG REWRITE");
    }
    let [old, first, second, shared] = &mut group.0[..] else { unreachable!() };
    old.client().expect_ok("SET before both");
    old.kill();
    let fence = |node: &Server, claim: &str| {
        let reply = node.client().words(&format!("FARKEEP.FENCE 0 {claim}")).elements().expect("an array");
        (reply[0].int(), reply[1].int(), reply[2].int().expect("a promise"))
    };
    let number = 1 << 16;
    let [a, b] = ["00000000000000aa", "00000000000000bb"];
    assert_eq!([fence(first, a).2, fence(shared, a).2], [number; 2]);
    first.client().expect_ok(&format!("FARKEEP.PROMOTE {a}"));
    first.client().expect_ok("CONFIG REWRITE");
    for _ in 0..2 {
        first.kill();
        first.restart();
    }
    assert_eq!(first.info("farkeep", "farkeep_epoch_shown"), "1.3");
    first.kill();
    old.follow(second.port());
    old.restart();
    assert_eq!([fence(second, b).2, fence(old, b).2], [number; 2]);
    second.client().expect_ok(&format!("FARKEEP.PROMOTE {b}"));
    for node in [&mut *old, &mut *shared] {
        node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", second.port()));
    }
    wait::until("a write that two followers hold", || second.client().words("SET after both").is_ok());
    assert!(
        second.log().contains("renewing the reign"),
        "one of them had promised that number to somebody else"
    );

    second.kill();
    first.follow(second.port());
    first.restart();
    let [nothing, acknowledged] = [fence(first, a), fence(shared, a)];
    assert!((acknowledged.0, acknowledged.1) > (nothing.0, nothing.1), "{acknowledged:?} {nothing:?}");
}
