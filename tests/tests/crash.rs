//! kill -9 of real nodes under load: no acknowledged write is lost, no transaction is torn, no write is invented.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use farkeep_tests::load::{Ledger, Load};
use farkeep_tests::pair::wait_for_link;
use farkeep_tests::{Client, Pair, Server, ServerBuilder, seed, wait};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How often a node is killed in one test.
const KILLS: u64 = 20;

const WRITERS: u64 = 8;

/// A moment of the load that is another one each time: some acknowledged writes, then up to 30 ms more.
fn random_moment(load: &Load, rng: &mut SmallRng) {
    load.wait_for_more(rng.random_range(50..1_500));
    std::thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
}

fn rng(test: &str) -> SmallRng {
    let seed = seed::seeds(1).start;
    println!("{test}: FARKEEP_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

#[track_caller]
fn promote(node: &Server) {
    node.client().expect_ok("REPLICAOF NO ONE");
    wait::until("the node to say it leads", || node.info("replication", "role") == "master");
}

/// Reads may be held until what they read is committed, which takes a follower; without one, only a standalone node answers.
fn stand_alone(node: &Server) -> Client {
    let mut client = node.client();
    client.expect_ok("CONFIG SET sync-followers 0");
    client
}

/// The leader dies, the follower takes over, the old leader comes back as follower; twenty times, so each reigns ten times.
#[test]
fn no_acknowledged_write_is_lost_when_the_leader_is_killed_and_roles_swap() {
    let mut rng = rng("leader killed");
    let Pair { mut leader, mut follower } = Pair::start().expect_link_trouble();
    let mut ledger = Ledger::default();
    for round in 1..=KILLS {
        let load = Load::start(leader.port(), WRITERS, round);
        random_moment(&load, &mut rng);
        leader.kill();
        ledger.merge(load.stop());
        leader.verify_pool();
        promote(&follower);
        leader.follow(follower.port());
        leader.restart();
        wait_for_link(&follower, &leader);
        std::mem::swap(&mut leader, &mut follower);
        ledger.assert_kept_by(&format!("the new leader of round {round}"), &mut leader.client());
        ledger.settle(&mut leader.client());
    }
    Pair { leader, follower }.wait_until_applied();
}

/// The leader dies for good: what it acknowledged is read from the promoted follower at once.
#[test]
fn a_promoted_follower_holds_every_acknowledged_write() {
    let mut rng = rng("promotion");
    for round in 1..=5 {
        let Pair { mut leader, follower } = Pair::start().expect_link_trouble();
        let load = Load::start(leader.port(), WRITERS, round);
        random_moment(&load, &mut rng);
        leader.kill();
        let ledger = load.stop();
        promote(&follower);
        ledger.assert_kept_by("the promoted follower", &mut stand_alone(&follower));
        let mut client = follower.client();
        client.expect_ok("SET after promotion");
    }
}

/// The leader dies and restarts by itself, without any promotion; the follower finds it again.
#[test]
fn a_killed_leader_that_restarts_has_every_acknowledged_write() {
    let mut rng = rng("leader restarted");
    let mut pair = Pair::start().expect_link_trouble();
    let mut ledger = Ledger::default();
    for round in 1..=KILLS {
        let load = Load::start(pair.leader.port(), WRITERS, round);
        random_moment(&load, &mut rng);
        pair.leader.kill();
        ledger.merge(load.stop());
        pair.leader.verify_pool();
        pair.leader.restart();
        pair.wait_for_link();
        ledger.assert_kept_by(&format!("the leader after restart {round}"), &mut pair.leader.client());
        ledger.settle(&mut pair.leader.client());
    }
    pair.wait_until_applied();
    ledger.assert_kept_by("the follower in the end", &mut pair.follower.client());
}

/// The follower dies and comes back under load; the leader lives on and nothing that it acknowledged misses on either.
#[test]
fn a_killed_follower_resumes_under_load_and_misses_nothing() {
    let mut rng = rng("follower killed");
    let mut pair = Pair::start().expect_link_trouble();
    let load = Load::start(pair.leader.port(), WRITERS, 1);
    for _ in 0..KILLS {
        random_moment(&load, &mut rng);
        pair.follower.kill();
        pair.follower.verify_pool();
        std::thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        pair.follower.restart();
        wait::until("the follower's link to be up", || {
            pair.follower.info("replication", "master_link_status") == "up"
        });
    }
    load.wait_for_more(500);
    let ledger = load.stop();
    println!("refused: {:?}", ledger.errors);
    pair.wait_until_applied();
    ledger.assert_kept_by("the leader", &mut pair.leader.client());
    ledger.assert_kept_by("the follower", &mut pair.follower.client());
}

/// A standalone durable node, killed and restarted.
#[test]
fn a_killed_standalone_node_has_every_acknowledged_write_after_restart() {
    let mut rng = rng("standalone killed");
    let mut node = ServerBuilder::farkeep().args("--log-size 16mb").start();
    let mut ledger = Ledger::default();
    for round in 1..=KILLS {
        let load = Load::start(node.port(), WRITERS, round);
        random_moment(&load, &mut rng);
        node.kill();
        ledger.merge(load.stop());
        node.verify_pool();
        node.restart();
        ledger.assert_kept_by(&format!("the node after restart {round}"), &mut node.client());
        ledger.settle(&mut node.client());
    }
}

/// Two kills in a row: the node dies again while it recovers or right after.
#[test]
fn a_node_killed_again_while_it_recovers_has_every_acknowledged_write() {
    let mut rng = rng("killed in recovery");
    let mut node = Server::farkeep();
    let mut ledger = Ledger::default();
    for round in 1..=5 {
        let load = Load::start(node.port(), WRITERS, round);
        load.wait_for_more(2_000);
        node.kill();
        ledger.merge(load.stop());
        for _ in 0..4 {
            node.spawn_only();
            std::thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
            node.kill();
        }
        node.verify_pool();
        node.restart();
        ledger.assert_kept_by(&format!("the node after round {round}"), &mut node.client());
        ledger.settle(&mut node.client());
    }
}

/// SIGTERM is a clean end: both images are the same bytes then, and everything is there afterwards.
#[test]
fn a_stopped_pair_comes_back_whole() {
    let mut pair = Pair::start().expect_link_trouble();
    let load = Load::start(pair.leader.port(), WRITERS, 1);
    load.wait_for_more(3_000);
    let ledger = load.stop();
    pair.wait_until_applied();
    assert!(pair.leader.stop().success(), "SIGTERM ends the leader with success");
    assert!(pair.follower.stop().success(), "SIGTERM ends the follower with success");
    pair.leader.verify_pool();
    pair.follower.verify_pool();
    let images =
        [&pair.leader, &pair.follower].map(|node| fs::read(node.pool().join("image")).expect("an image"));
    assert!(images[0] == images[1], "equal logs, and images that differ");
    pair.leader.restart();
    pair.follower.restart();
    pair.wait_for_link();
    pair.wait_until_applied();
    ledger.assert_kept_by("the leader", &mut pair.leader.client());
    ledger.assert_kept_by("the follower", &mut pair.follower.client());
}

/// The harness itself: what the checker must notice, on a redis-server that is told to misbehave.
#[test]
fn the_checker_notices_lost_invented_and_torn_writes() {
    let server = Server::redis();
    let load = Load::start(server.port(), 2, 1);
    load.wait_for_more(2_000);
    let ledger = load.stop();
    let mut client = server.client();
    ledger.assert_kept_by("an honest server", &mut client);
    let notices = |client: &mut Client, word: &str| {
        let outcome = catch_unwind(AssertUnwindSafe(|| ledger.assert_kept_by("a dishonest server", client)));
        let message = outcome.expect_err("the checker saw nothing");
        let message = message.downcast_ref::<String>().expect("a panic with a message");
        assert!(message.contains(word), "{message}");
    };
    for (misdeed, word) in [
        ("DEL w0:3", "holds 0"),
        ("SET w1:4 99999999999", "holds 99999999999"),
        ("HDEL w0:hash f5", "holds 0"),
        ("DECRBY w1:counter:1:0 5", "counter"),
        ("SET w0:left:6 1", "torn"),
    ] {
        let before =
            ["w0:3", "w1:4", "w1:counter:1:0", "w0:left:6"].map(|key| (key, client.command(&["GET", key])));
        let field = client.words("HGET w0:hash f5");
        assert!(client.words(misdeed).error().is_none());
        notices(&mut client, word);
        for (key, value) in before {
            client.command(&["SET", key, &value.text().expect("a count")]);
        }
        client.command(&["HSET", "w0:hash", "f5", &field.text().expect("a count")]);
    }
    ledger.assert_kept_by("a repaired server", &mut client);
}
