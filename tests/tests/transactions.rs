//! MULTI and EXEC as one transaction of the log, also where commands that are not the keystore's stand among the data commands.
//! That a crash does not tear one is in crash.rs, whose load writes such transactions all the time.

use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, wait};

/// Queues these commands and sends EXEC, without waiting for its reply.
fn send_exec(client: &mut Client, commands: &[&[&[u8]]]) {
    client.expect_ok("MULTI");
    for command in commands {
        assert_eq!(client.command(command), Value::Simple("QUEUED".into()));
    }
    client.send(&["EXEC"]).expect("the node reads");
}

fn exec(client: &mut Client, commands: &[&str]) -> Value {
    let words: Vec<Vec<&[u8]>> =
        commands.iter().map(|line| line.split(' ').map(str::as_bytes).collect()).collect();
    let words: Vec<&[&[u8]]> = words.iter().map(Vec::as_slice).collect();
    send_exec(client, &words);
    client.reply().expect("EXEC answers")
}

fn transactions(node: &Server) -> u64 {
    node.info("farkeep", "farkeep_transactions_total").parse().expect("a number")
}

/// Replies stand in the order of the commands, and each SELECT and HELLO holds for what comes behind it.
#[test]
fn an_exec_is_one_transaction_whatever_stands_between_its_writes() {
    let node = Server::farkeep();
    let mut client = node.client();
    let before = transactions(&node);
    let replies = exec(
        &mut client,
        &[
            "PING first",
            "SET k zero",
            "SELECT 1",
            "GET k",
            "SET k one",
            "ECHO middle",
            "SELECT 99",
            "INCR k",
            "HELLO 3",
            "HGETALL nothing",
            "HELLO 9",
            "WAIT 0 1",
            "GET k",
            "PING last",
        ],
    );
    assert_eq!(transactions(&node), before + 1);
    let replies = replies.elements().expect("an array");
    let ok = || Value::Simple("OK".into());
    let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
    let error = |text: &str| Value::Error(text.into());
    let until_hello = [
        bulk("first"),
        ok(),
        ok(),
        Value::NullBulk,
        ok(),
        bulk("middle"),
        error("ERR DB index is out of range"),
        error("ERR value is not an integer or out of range"),
    ];
    assert_eq!(replies[..8], until_hello);
    assert!(matches!(&replies[8], Value::Map(fields) if fields.contains(&(bulk("proto"), Value::Int(3)))));
    let after_hello = [
        Value::Map(Vec::new()),
        error("NOPROTO unsupported protocol version"),
        Value::Int(0),
        bulk("one"),
        bulk("last"),
    ];
    assert_eq!(replies[9..], after_hello);
    assert_eq!(client.words("GET k"), Value::Bulk(b"one".to_vec()), "SELECT 1 outlives the transaction");
    client.expect_ok("SELECT 0");
    assert_eq!(client.words("GET k"), Value::Bulk(b"zero".to_vec()));
}

/// More writes than the ring has room for, none of which is ever acknowledged: the follower is frozen.
fn fill_the_ring(pair: &Pair) -> Vec<Client> {
    let before = log_full_waits(pair);
    let value = vec![b'x'; 600_000];
    let writers: Vec<Client> = (0..40)
        .map(|number| {
            let mut writer = pair.leader.client();
            writer.send(&[b"SET", format!("large:{number}").as_bytes(), &value]).expect("the node reads");
            writer
        })
        .collect();
    wait::until("the ring to be full", || log_full_waits(pair) > before);
    writers
}

fn log_full_waits(pair: &Pair) -> u64 {
    pair.leader.info("farkeep", "farkeep_log_full_waits").parse().expect("a number")
}

/// Of a transaction that found no room nothing is there; one that found it later has run once.
#[test]
fn an_exec_that_finds_no_room_in_the_log_leaves_nothing_behind_and_runs_once_when_there_is_some() {
    let settings = "--log-size 16mb --log-full-timeout 300";
    let pair =
        Pair::with(ServerBuilder::farkeep().args(settings), ServerBuilder::farkeep().args("--log-size 16mb"));
    let pair = pair.expect_link_trouble();
    let value = vec![b'y'; 600_000];
    let commands: [&[&[u8]]; 5] =
        [&[b"INCR", b"n"], &[b"SELECT", b"1"], &[b"PING"], &[b"SET", b"big", &value], &[b"INCR", b"m"]];

    pair.follower.freeze();
    let writers = fill_the_ring(&pair);
    let mut client = pair.leader.client();
    send_exec(&mut client, &commands);
    let refusal = client.reply().expect("an answer").error().map(str::to_owned);
    pair.follower.thaw();
    pair.wait_for_link();
    pair.wait_until_applied();
    drop(writers);
    // That there is no room, or no follower any more, depending on who is given up first.
    assert!(refusal.is_some(), "the follower was frozen, yet the transaction is acknowledged");
    println!("refused: {refusal:?}");
    client.expect_ok("SELECT 0");
    assert_eq!(client.words("EXISTS n big m"), Value::Int(0));
    client.expect_ok("SELECT 1");
    assert_eq!(client.words("EXISTS n big m"), Value::Int(0));

    client.expect_ok("CONFIG SET log-full-timeout 60000");
    client.expect_ok("SELECT 0");
    pair.follower.freeze();
    let writers = fill_the_ring(&pair);
    let waits = log_full_waits(&pair);
    send_exec(&mut client, &commands);
    wait::until("the transaction to find no room", || log_full_waits(&pair) > waits);
    pair.follower.thaw();
    let replies = client.reply().expect("an answer").elements().expect("an array");
    drop(writers);
    let ok = || Value::Simple("OK".into());
    assert_eq!(replies, [Value::Int(1), ok(), Value::Simple("PONG".into()), ok(), Value::Int(1)]);
    assert_eq!(client.words("GET m"), Value::Bulk(b"1".to_vec()));
    client.expect_ok("SELECT 0");
    assert_eq!(client.words("GET n"), Value::Bulk(b"1".to_vec()));
}
