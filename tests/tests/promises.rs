//! What a client is told, and when: held replies, WAIT and WAITAOF, too few followers.

use std::time::Duration;

use farkeep_tests::pair::{expect_link_trouble, wait_for_link};
use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, wait};

/// A leader with this many followers, all linked. `settings` are the leader's.
fn group(followers: usize, settings: &str) -> (Server, Vec<Server>) {
    let mut leader = ServerBuilder::farkeep().args(settings).start();
    expect_link_trouble(&mut leader);
    let address = format!("127.0.0.1 {}", leader.port());
    let followers: Vec<Server> = (0..followers)
        .map(|_| {
            let mut follower = ServerBuilder::farkeep().directive("replicaof", &address).start();
            expect_link_trouble(&mut follower);
            follower
        })
        .collect();
    wait_in_reach(&leader, followers.len());
    (leader, followers)
}

#[track_caller]
fn wait_in_reach(leader: &Server, count: usize) {
    wait::until("the followers to be in reach", || {
        leader.info("farkeep", "farkeep_followers_in_reach") == count.to_string()
    });
}

fn number(node: &Server, field: &str) -> u64 {
    node.info("farkeep", field).parse().unwrap_or(0)
}

/// Sends a SET whose reply is held, and waits until it is in the leader's log.
fn held_set(leader: &Server, key: &str) -> Client {
    let before = number(leader, "farkeep_appended_lsn");
    let mut writer = leader.client();
    writer.send(&["SET", key, "v"]).expect("it can be sent");
    wait::until("the write to be appended", || number(leader, "farkeep_appended_lsn") > before);
    writer
}

/// Whether nothing is said on this connection for a while, which is all one can see of a held reply.
fn is_silent(client: &mut Client) -> bool {
    client.set_reply_timeout(Duration::from_millis(50));
    let silent = client.reply_raw().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    client.set_reply_timeout(farkeep_tests::client::REPLY_TIMEOUT);
    silent
}

#[test]
fn a_write_that_no_follower_confirms_gets_an_error_and_never_ok() {
    let leader = ServerBuilder::farkeep().args("--commit-timeout 300");
    let Pair { leader, follower } = Pair::with(leader, ServerBuilder::farkeep()).expect_link_trouble();
    follower.freeze();
    let mut writer = leader.client();
    let reply = writer.words("SET k v");
    assert!(reply.is_error("NOREPLICAS") && reply.error().unwrap().contains("unknown"), "{reply:?}");
    // What came after on the same connection might rest on it: the connection ends.
    assert!(writer.try_command(&["PING"]).is_err());
    follower.thaw();
    wait_for_link(&leader, &follower);
}

#[test]
fn an_unconfirmed_write_shows_to_nobody_until_it_is_confirmed() {
    let leader = ServerBuilder::farkeep().args("--commit-timeout 60000");
    let Pair { leader, follower } = Pair::with(leader, ServerBuilder::farkeep()).expect_link_trouble();
    follower.freeze();
    let mut writer = held_set(&leader, "k");
    let mut reader = leader.client();
    reader.send(&["GET", "k"]).expect("it can be sent");
    assert!(is_silent(&mut reader) && is_silent(&mut writer));
    // INFO reads no key and is never held.
    assert_eq!(leader.info("replication", "role"), "master");
    follower.thaw();
    assert!(writer.reply().expect("a reply").is_ok());
    assert_eq!(reader.reply().expect("a reply").text().as_deref(), Some("v"));
}

#[test]
fn an_unconfirmed_write_shows_at_once_where_read_commit_is_off() {
    let leader = ServerBuilder::farkeep().args("--commit-timeout 60000 --read-commit no");
    let Pair { leader, follower } = Pair::with(leader, ServerBuilder::farkeep()).expect_link_trouble();
    follower.freeze();
    let mut writer = held_set(&leader, "k");
    assert_eq!(leader.client().words("GET k").text().as_deref(), Some("v"));
    assert!(is_silent(&mut writer));
    follower.thaw();
    assert!(writer.reply().expect("a reply").is_ok());
}

#[test]
fn held_replies_of_a_deposed_leader_are_errors_and_never_ok() {
    for threads in ["1", "2"] {
        let leader = ServerBuilder::farkeep().args("--commit-timeout 60000 --io-threads").args(threads);
        let Pair { leader, follower } = Pair::with(leader, ServerBuilder::farkeep()).expect_link_trouble();
        let elsewhere = Server::farkeep();
        elsewhere.client().expect_ok("SET other data");
        follower.freeze();
        let mut writers: Vec<Client> = (0..4).map(|at| held_set(&leader, &format!("k{at}"))).collect();
        leader.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", elsewhere.port()));
        for writer in &mut writers {
            let reply = writer.reply().expect("a reply");
            assert!(reply.is_error("UNBLOCKED"), "{reply:?}");
        }
        follower.thaw();
        let mut elsewhere = elsewhere;
        expect_link_trouble(&mut elsewhere);
    }
}

#[test]
fn wait_counts_the_followers_that_hold_the_write() {
    for count in 0..=2 {
        let (leader, _followers) = group(count, "--sync-followers 0");
        let mut client = leader.client();
        client.expect_ok("SET k v");
        let count = i64::try_from(count).expect("small");
        assert_eq!(client.words(&format!("WAIT {count} 0")), Value::Int(count));
        let more = count + 1;
        assert_eq!(client.words(&format!("WAIT {more} 50")), Value::Int(count), "it ends with its timeout");
        let pair = Value::Array(vec![Value::Int(1), Value::Int(count)]);
        assert_eq!(client.words(&format!("WAITAOF 1 {count} 0")), pair);
        assert_eq!(client.words(&format!("WAITAOF 1 {more} 50")), pair);
    }
}

#[test]
fn wait_in_one_packet_with_its_write_waits_for_that_write() {
    let (leader, _followers) = group(1, "--sync-followers 0");
    let mut client = leader.client();
    for round in 0..100 {
        client.send(&["SET", "k", &round.to_string()]).expect("it can be sent");
        client.send(&["WAIT", "1", "0"]).expect("it can be sent");
        client.send(&["GET", "k"]).expect("it can be sent");
        assert!(client.reply().expect("a reply").is_ok());
        assert_eq!(client.reply().expect("a reply"), Value::Int(1));
        assert_eq!(client.reply().expect("a reply").text(), Some(round.to_string()));
    }
}

#[test]
fn wait_inside_a_transaction_never_blocks() {
    let (leader, _followers) = group(0, "--sync-followers 0");
    let mut client = leader.client();
    client.expect_ok("MULTI");
    for line in ["SET k v", "WAIT 1 0", "WAITAOF 1 1 0"] {
        assert_eq!(client.words(line), Value::Simple("QUEUED".into()));
    }
    let replies = client.words("EXEC").elements().expect("an array");
    assert_eq!(replies[1], Value::Int(0));
    assert_eq!(replies[2].elements().expect("an array")[1], Value::Int(0));
}

#[test]
fn wait_with_bad_arguments_or_on_a_follower_is_refused() {
    let (leader, followers) = group(1, "--sync-followers 0");
    let mut client = leader.client();
    assert!(client.words("WAIT 1 -1").is_error("ERR timeout is negative"));
    assert!(client.words("WAIT x 1").is_error("ERR value is not an integer"));
    let beyond_an_int = format!("WAIT {} 0", i64::MAX);
    assert!(client.words(&beyond_an_int).int().is_some(), "it waits for nobody, as in redis-server");
    assert!(client.words("WAITAOF 2 0 0").is_error("ERR value is out of range"));
    let mut reader = followers[0].client();
    assert!(reader.words("WAIT 1 0").is_error("ERR WAIT cannot be used with replica instances"));
    assert!(reader.words("WAITAOF 1 1 0").is_error("ERR WAITAOF cannot be used with replica instances"));
}

#[test]
fn wait_without_end_ends_when_its_leader_is_deposed() {
    let (leader, followers) = group(1, "--sync-followers 0");
    let mut client = leader.client();
    client.expect_ok("SET k v");
    client.send(&["WAIT", "2", "0"]).expect("it can be sent");
    wait::until("the client to be blocked", || leader.info("clients", "blocked_clients") == "1");
    followers[0].client().expect_ok("REPLICAOF NO ONE");
    leader.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", followers[0].port()));
    let reply = client.reply().expect("a reply");
    assert!(reply.is_error("UNBLOCKED"), "{reply:?}");
    wait::until("nobody to be blocked", || leader.info("clients", "blocked_clients") == "0");
}

#[test]
fn writes_are_refused_at_once_while_one_of_two_needed_followers_is_gone() {
    let (leader, mut followers) = group(2, "--sync-followers 2");
    let mut client = leader.client();
    client.expect_ok("SET k v");
    followers[0].kill();
    wait_in_reach(&leader, 1);
    let refusal = client.words("SET k w");
    assert!(refusal.is_error("NOREPLICAS"), "{refusal:?}");
    assert_eq!(client.words("GET k").text().as_deref(), Some("v"));
    followers[0].restart();
    wait_in_reach(&leader, 2);
    client.expect_ok("SET k w");
    // The promise can be changed while it runs.
    followers[1].kill();
    wait_in_reach(&leader, 1);
    client.expect_ok("CONFIG SET sync-followers 1");
    client.expect_ok("SET k x");
    client.expect_ok("CONFIG SET sync-followers 2");
    assert!(client.words("SET k y").is_error("NOREPLICAS"));
    client.expect_ok("CONFIG SET sync-followers 0");
    client.expect_ok("SET k z");
}

/// A reply that is held for two followers is released when one suffices from now on.
#[test]
fn a_held_reply_is_released_when_fewer_followers_are_asked_for() {
    let (leader, followers) = group(2, "--sync-followers 2 --commit-timeout 60000");
    followers[0].freeze();
    let mut writer = held_set(&leader, "k");
    assert!(is_silent(&mut writer));
    leader.client().expect_ok("CONFIG SET sync-followers 1");
    assert!(writer.reply().expect("a reply").is_ok());
    followers[0].thaw();
}

#[test]
fn a_leader_that_may_degrade_goes_on_alone_and_says_so() {
    let (leader, mut followers) = group(1, "--sync-followers 1 --on-follower-loss degrade");
    let mut client = leader.client();
    client.expect_ok("SET k v");
    wait::until("the follower to have caught up", || leader.info("farkeep", "farkeep_degraded") == "0");
    followers[0].kill();
    wait_in_reach(&leader, 0);
    client.expect_ok("SET k w");
    assert_eq!(leader.info("farkeep", "farkeep_degraded"), "1");
    followers[0].restart();
    wait::until("the promise to be kept again", || leader.info("farkeep", "farkeep_degraded") == "0");
    client.expect_ok("SET k x");
    wait::until("the follower to have it", || {
        followers[0].client().words("GET k").text().as_deref() == Some("x")
    });
    // A held reply is not left hanging when the follower goes silent.
    followers[0].freeze();
    client.expect_ok("SET k y");
    followers[0].thaw();
}

/// Runs `writers` of big values until the ring has been gone over more than once; every write must succeed.
#[track_caller]
fn write_over_the_ring(leader: &Server, ring_len: u64) {
    let value = "x".repeat(300_000);
    let from = number(leader, "farkeep_appended_lsn");
    let mut writer = leader.client();
    while number(leader, "farkeep_appended_lsn") < from + 2 * ring_len {
        let reply = writer.command(&["SET", "big", &value]);
        assert!(reply.is_ok(), "{reply:?}");
    }
}

/// It stalls, and stays silent for less than its deadline would allow: nobody must be refused a write for a follower that
/// no write waits for.
#[test]
fn a_stalled_follower_that_nobody_waits_for_refuses_no_writer() {
    for (followers, settings) in [(1, "--sync-followers 0"), (2, "--sync-followers 1")] {
        // Four segments, three of which are used: a ring that is full long before seven eighths of it.
        let settings = format!("{settings} --log-size 4mb --log-full-timeout 1500 --repl-timeout 60");
        let (leader, followers) = group(followers, &settings);
        let stalled = &followers[0];
        stalled.freeze();
        write_over_the_ring(&leader, 4 << 20);
        assert_eq!(leader.info("errorstats", "errorstat_OOM"), "");
        wait_in_reach(&leader, followers.len() - 1);
        let name = format!("follower=127.0.0.1:{} reason=it has ", stalled.port());
        let lost = leader
            .log()
            .lines()
            .filter(|line| line.contains("lost a follower"))
            .collect::<Vec<_>>()
            .join("\n");
        assert!(lost.contains(&name), "{lost}");
        stalled.thaw();
    }
}

/// A follower that writes wait for is not missing room, it is missing: that is what the writers are told.
#[test]
fn a_stalled_follower_that_is_needed_makes_writers_say_so() {
    let (leader, followers) =
        group(1, "--sync-followers 1 --log-size 4mb --log-full-timeout 1500 --commit-timeout 60000");
    followers[0].freeze();
    let value = "x".repeat(300_000);
    let mut writers: Vec<Client> = (0..16).map(|_| leader.client()).collect();
    for writer in &mut writers {
        writer.send(&["SET", "big", &value]).expect("it can be sent");
    }
    wait::until("the ring to be full", || number(&leader, "farkeep_log_full_waits") > 0);
    wait_in_reach(&leader, 0);
    followers[0].thaw();
    let mut refused = 0;
    for writer in &mut writers {
        let reply = writer.reply().expect("a reply");
        assert!(reply.is_ok() || reply.is_error("NOREPLICAS"), "{reply:?}");
        refused += usize::from(!reply.is_ok());
    }
    assert!(refused > 0);
}
