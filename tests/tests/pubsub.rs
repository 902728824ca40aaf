//! Publish and subscribe: the bytes are Redis's, and messages cross workers and nodes.

use std::time::Duration;

use farkeep_tests::client::encode;
use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, wait};

/// What one connection sends before it is another's turn.
struct Step {
    connection: usize,
    lines: &'static [&'static str],
}

const fn step(connection: usize, lines: &'static [&'static str]) -> Step {
    Step { connection, lines }
}

fn send_line(client: &mut Client, line: &str) {
    client.send(&line.split(' ').collect::<Vec<_>>()).expect("the server reads");
}

/// Plays the steps on so many connections, of which `resp3` speak RESP3, and returns all that each of them was told. A step
/// ends when the connection has got the answer to a PING of its own.
fn play(server: &Server, connections: usize, resp3: &[usize], steps: &[Step]) -> Vec<String> {
    let mut clients: Vec<Client> = (0..connections).map(|_| server.client()).collect();
    for &at in resp3 {
        assert!(clients[at].words("HELLO 3").error().is_none());
    }
    let mut told = vec![Vec::new(); connections];
    let last = (0..connections).map(|connection| Step { connection, lines: &[] });
    for (number, step) in
        steps.iter().map(|s| Step { connection: s.connection, lines: s.lines }).chain(last).enumerate()
    {
        let client = &mut clients[step.connection];
        for line in step.lines {
            send_line(client, line);
        }
        let marker = format!("end-of-step-{number}");
        send_line(client, &format!("PING {marker}"));
        loop {
            let frame = client.reply_raw().unwrap_or_else(|error| panic!("{:?}: {error}", step.lines));
            let ended = String::from_utf8_lossy(&frame).contains(&marker);
            told[step.connection].extend(frame);
            if ended {
                break;
            }
        }
    }
    told.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

#[track_caller]
fn assert_same(connections: usize, resp3: &[usize], steps: &[Step]) {
    let (redis, farkeep) = (Server::redis(), ServerBuilder::farkeep().args("--io-threads 3").start());
    let theirs = play(&redis, connections, resp3, steps);
    let ours = play(&farkeep, connections, resp3, steps);
    for at in 0..connections {
        assert_eq!(ours[at], theirs[at], "connection {at}");
    }
}

#[test]
fn subscriptions_and_messages_have_the_bytes_of_redis() {
    let steps = [
        step(0, &["SUBSCRIBE a a b", "PSUBSCRIBE a* [bs]", "SSUBSCRIBE a s"]),
        step(1, &["SUBSCRIBE a", "SSUBSCRIBE a"]),
        step(
            2,
            &["PUBLISH a one", "PUBLISH b two", "PUBLISH nobody three", "SPUBLISH a four", "PUBLISH s five"],
        ),
        step(
            2,
            &["PUBSUB NUMSUB a b nosuch", "PUBSUB NUMPAT", "PUBSUB SHARDNUMSUB a s b", "PUBSUB CHANNELS a*"],
        ),
        step(2, &["PUBSUB SHARDCHANNELS s", "PUBSUB CHANNELS nosuch*", "PUBSUB NUMSUB", "PUBSUB HELP"]),
        step(
            2,
            &[
                "PUBSUB CHANNELS a b",
                "PUBSUB NUMPAT x",
                "PUBSUB nosuch",
                "PUBSUB",
                "PUBLISH a",
                "SPUBLISH a b c",
            ],
        ),
        step(
            0,
            &["UNSUBSCRIBE nosuch", "PUNSUBSCRIBE", "PUNSUBSCRIBE", "UNSUBSCRIBE b", "SUNSUBSCRIBE s nosuch"],
        ),
        step(2, &["PUBLISH a six", "PUBLISH b seven", "SPUBLISH s eight"]),
        step(0, &["UNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE", "SUNSUBSCRIBE"]),
        step(2, &["PUBLISH a nine", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"]),
        step(1, &["PING", "PING x"]),
    ];
    assert_same(3, &[], &steps);
    assert_same(3, &[0], &steps);
    assert_same(3, &[0, 1, 2], &steps);
}

#[test]
fn a_subscriber_in_resp2_may_send_no_more_than_redis_lets_it() {
    let refused = &[
        "GET k",
        "SET k v",
        "CLIENT LIST",
        "MULTI",
        "EXEC",
        "PUBLISH a x",
        "PUBSUB NUMPAT",
        "HELLO 3",
        "CONFIG GET x",
        "SELECT 1",
        "ECHO x",
        "NOSUCH",
        "GET",
        "CLIENT nosuch",
        "PING x y",
    ];
    let steps = [
        step(0, &["SUBSCRIBE a"]),
        step(0, refused),
        step(1, &["SSUBSCRIBE a", "GET k", "SUNSUBSCRIBE a", "GET k"]),
        step(1, &["PSUBSCRIBE a", "GET k", "RESET", "GET k", "PUBSUB NUMPAT"]),
        step(1, &["PUBLISH a last"]),
        step(0, &["UNSUBSCRIBE a", "GET k"]),
    ];
    assert_same(2, &[], &steps);
    assert_same(
        2,
        &[0, 1],
        &[step(0, &["SUBSCRIBE a"]), step(0, &["GET k", "SET k v", "PUBLISH a x", "PING x"])],
    );
    for lines in [&["SUBSCRIBE a"][..], &[]] {
        for server in [Server::redis(), Server::farkeep()] {
            let mut client = server.client();
            lines.iter().for_each(|line| drop(client.words(line)));
            client.expect_ok("QUIT");
            assert!(client.reply().is_err(), "the connection is closed");
        }
    }
}

#[test]
fn a_transaction_subscribes_and_publishes_as_in_redis() {
    let steps = [
        step(1, &["SUBSCRIBE a"]),
        step(0, &["MULTI", "SUBSCRIBE a", "PUBLISH a x", "GET k", "SSUBSCRIBE s", "UNSUBSCRIBE a", "EXEC"]),
        step(0, &["MULTI", "SET k v", "PUBLISH a y", "INCR n", "PSUBSCRIBE p*", "PUBLISH px z", "EXEC"]),
        step(0, &["RESET", "MULTI", "PUBLISH", "EXEC"]),
        step(0, &["MULTI", "PUBLISH a discarded", "DISCARD"]),
    ];
    assert_same(2, &[], &steps);
    assert_same(2, &[0, 1], &steps);
}

#[test]
fn who_wants_no_replies_still_gets_messages() {
    let steps = [
        step(
            0,
            &["CLIENT REPLY OFF", "SUBSCRIBE a", "PUBLISH a x", "GET k", "UNSUBSCRIBE b", "CLIENT REPLY ON"],
        ),
        step(0, &["CLIENT REPLY SKIP", "PUBLISH a y", "CLIENT REPLY SKIP", "PSUBSCRIBE q", "GET k"]),
    ];
    assert_same(1, &[0], &steps);
}

/// Every message reaches every subscriber once and in order, whichever workers own the connections.
#[test]
fn messages_cross_workers_in_order() {
    const SUBSCRIBERS: usize = 12;
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 500;
    let node = ServerBuilder::farkeep().args("--io-threads 4").start();
    let mut subscribers: Vec<Client> = (0..SUBSCRIBERS).map(|_| node.client()).collect();
    for subscriber in &mut subscribers {
        subscriber.words("SUBSCRIBE news");
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| {
            let mut client = node.client();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                for message in 0..MESSAGES {
                    encode(&["PUBLISH", "news", &format!("{number} {message}")], &mut bytes);
                }
                client.send_raw(&bytes).expect("the node reads");
                for _ in 0..MESSAGES {
                    assert_eq!(client.reply().expect("an answer"), Value::Int(SUBSCRIBERS as i64));
                }
            })
        })
        .collect();
    for subscriber in &mut subscribers {
        let mut next = [0; PUBLISHERS];
        for _ in 0..PUBLISHERS * MESSAGES {
            let message = subscriber.reply().expect("a message").elements().expect("an array")[2].text();
            let message = message.expect("a text");
            let (publisher, number) = message.split_once(' ').expect("two words");
            let next = &mut next[publisher.parse::<usize>().expect("a number")];
            assert_eq!(number.parse::<usize>().expect("a number"), *next);
            *next += 1;
        }
    }
    publishers.into_iter().for_each(|publisher| publisher.join().expect("a publisher does not panic"));
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_nobody_waits_for_it() {
    let mut node = ServerBuilder::farkeep().args("--io-threads 2").start();
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0"];
    assert!(node.client().command(&limit).is_ok());
    node.expect_log("reads too slowly");
    node.expect_log("output buffer limits");
    let (mut slow, mut other) = (node.client(), node.client());
    slow.words("SUBSCRIBE a");
    other.words("SUBSCRIBE b");
    let mut publisher = node.client();
    let payload = "x".repeat(256 * 1024);
    wait::until("the slow subscriber to be closed", || {
        publisher.command(&["PUBLISH", "a", &payload]) == Value::Int(0)
    });
    assert_eq!(publisher.words("PUBLISH b still"), Value::Int(1));
    assert_eq!(
        other.reply().expect("a message").elements().expect("an array")[2].text().as_deref(),
        Some("still")
    );
}

/// It is told nothing more, and is closed for what it has not read for too long.
#[test]
fn a_subscriber_that_stops_reading_is_closed_when_the_time_of_the_soft_limit_is_over() {
    let mut node = Server::farkeep();
    node.expect_log("output buffer limits");
    let mut publisher = node.client();
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 1mb 1"];
    assert!(publisher.command(&limit).is_ok());
    let mut slow = node.client();
    slow.words("SUBSCRIBE a");
    let payload = "x".repeat(1024 * 1024);
    for _ in 0..24 {
        publisher.command(&["PUBLISH", "a", &payload]);
    }
    wait::until("the slow subscriber to be closed", || node.info("stats", "pubsub_channels") == "0");
}

#[test]
fn subscribers_are_listed_counted_and_killed_as_such_and_leave_no_trace_in_the_log() {
    let node = Server::farkeep();
    let mut client = node.client();
    let before = node.info("farkeep", "farkeep_appended_lsn");
    let mut subscriber = node.client();
    subscriber.words("SUBSCRIBE a");
    subscriber.words("PSUBSCRIBE a*");
    subscriber.words("SSUBSCRIBE s");
    let listed = client.words("CLIENT LIST TYPE pubsub").text().expect("a text");
    assert_eq!(listed.lines().count(), 1);
    assert!(listed.contains(" flags=P ") && listed.contains(" sub=1 psub=1 ssub=1 "), "{listed}");
    let counts = ["pubsub_channels", "pubsub_patterns", "pubsubshard_channels"];
    assert_eq!(counts.map(|field| node.info("stats", field)), ["1", "1", "1"]);
    assert_eq!(client.words("PUBLISH a x"), Value::Int(2));
    assert_eq!(client.words("CLIENT KILL TYPE normal"), Value::Int(0));
    assert_eq!(client.words("CLIENT KILL TYPE pubsub"), Value::Int(1));
    wait::until("nobody to subscribe", || counts.map(|field| node.info("stats", field)) == ["0", "0", "0"]);
    assert_eq!(client.words("PUBLISH a x"), Value::Int(0));
    assert_eq!(node.info("farkeep", "farkeep_appended_lsn"), before);
}

fn message(client: &mut Client) -> (String, usize) {
    let parts = client.reply().expect("a message").elements().expect("an array");
    (parts[1].text().expect("a text"), parts[2].text().expect("a text").len())
}

#[test]
fn what_is_published_on_the_leader_reaches_subscribers_on_its_follower() {
    let pair = Pair::start();
    let mut subscriber = pair.follower.client();
    subscriber.words("SUBSCRIBE news");
    let mut sharded = pair.follower.client();
    sharded.words("SSUBSCRIBE news");
    let mut publisher = pair.leader.client();
    for len in [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000] {
        let payload = "x".repeat(len);
        assert_eq!(
            publisher.command(&["PUBLISH", "news", &payload]),
            Value::Int(0),
            "the leader counts its own"
        );
        assert_eq!(message(&mut subscriber), ("news".to_owned(), len));
    }
    publisher.words("SPUBLISH news sharded");
    assert_eq!(message(&mut sharded), ("news".to_owned(), 7));
    let mut on_leader = pair.leader.client();
    on_leader.words("SUBSCRIBE news");
    let mut local = pair.follower.client();
    assert_eq!(local.words("PUBLISH news here"), Value::Int(1), "a follower takes messages");
    assert_eq!(message(&mut subscriber), ("news".to_owned(), 4));
    publisher.words("PUBLISH news everywhere");
    // What was published on the follower has not come this way.
    assert_eq!(message(&mut on_leader), ("news".to_owned(), 10));
    assert_eq!(message(&mut subscriber), ("news".to_owned(), 10));
}

#[test]
fn messages_for_a_follower_that_stands_still_are_dropped_and_counted() {
    let pair = Pair::start().expect_link_trouble();
    pair.leader.client().expect_ok("CONFIG SET sync-followers 0");
    let mut subscriber = pair.leader.client();
    subscriber.words("SUBSCRIBE news");
    let mut publisher = pair.leader.client();
    let payload = "x".repeat(256 * 1024);
    pair.follower.freeze();
    wait::until("messages to be dropped", || {
        assert_eq!(publisher.command(&["PUBLISH", "news", &payload]), Value::Int(1));
        assert_eq!(message(&mut subscriber).1, payload.len());
        pair.leader.info("farkeep", "farkeep_published_lost") != "0"
    });
    pair.follower.thaw();
    pair.wait_for_link();
    let mut far = pair.follower.client();
    far.words("SUBSCRIBE later");
    wait::until("messages to arrive again", || {
        publisher.words("PUBLISH later x");
        far.set_reply_timeout(Duration::from_millis(100));
        far.reply().is_ok()
    });
}

/// A message from within a transaction may speak of it: nobody is told before the transaction is safe.
#[test]
fn a_message_of_a_transaction_waits_for_its_commit() {
    let pair = Pair::start().expect_link_trouble();
    let (mut near, mut far) = (pair.leader.client(), pair.follower.client());
    near.words("SUBSCRIBE news");
    far.words("SUBSCRIBE news");
    let mut publisher = pair.leader.client();
    pair.follower.freeze();
    for line in ["MULTI", "SET k v", "PUBLISH news k", "EXEC"] {
        send_line(&mut publisher, line);
    }
    wait::until("the transaction to be in the leader's log only", || {
        let number = |field: &str| pair.leader.info("farkeep", field).parse::<u64>().unwrap_or(0);
        number("farkeep_appended_lsn") > number("farkeep_committed_lsn")
    });
    near.set_reply_timeout(Duration::from_millis(300));
    assert!(near.reply().is_err(), "told of a write that may yet be lost");
    near.set_reply_timeout(wait::PATIENCE);
    pair.follower.thaw();
    assert_eq!(message(&mut near), ("news".to_owned(), 1));
    assert_eq!(message(&mut far), ("news".to_owned(), 1));
}
