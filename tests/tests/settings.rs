//! A pair under other settings than the tests' usual ones, and clients' connections as Redis handles them.

use std::process::Command;

use farkeep_tests::load::Load;
use farkeep_tests::pair::wait_for_link;
use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, binary, wait};

/// Load, kill -9 of the leader, promotion, load, and the old leader joins again: the story every setting has to survive.
#[track_caller]
fn survives_the_death_of_its_leader(settings: &str) -> Pair {
    let builder = || ServerBuilder::farkeep().args(settings);
    survives_with(builder(), builder())
}

#[track_caller]
fn survives_with(leader: ServerBuilder, follower: ServerBuilder) -> Pair {
    let Pair { mut leader, mut follower } = Pair::with(leader, follower).expect_link_trouble();
    let mut ledger = farkeep_tests::load::Ledger::default();
    for round in 1..=2 {
        let load = Load::start(leader.port(), 4, round);
        load.wait_for_more(300);
        leader.kill();
        ledger.merge(load.stop());
        follower.client().expect_ok("REPLICAOF NO ONE");
        leader.follow(follower.port());
        leader.restart();
        wait_for_link(&follower, &leader);
        std::mem::swap(&mut leader, &mut follower);
        ledger.assert_kept_by(&format!("the leader of round {round}"), &mut leader.client());
        ledger.settle(&mut leader.client());
    }
    let pair = Pair { leader, follower };
    pair.wait_until_applied();
    ledger.assert_kept_by("the follower", &mut pair.follower.client());
    pair
}

#[test]
fn a_pair_over_shared_memory_loses_nothing_when_its_leader_is_killed() {
    let pair = survives_the_death_of_its_leader("--fabric shm");
    assert_eq!(pair.follower.info("farkeep", "farkeep_fabric"), "shm");
}

#[test]
fn a_pair_with_two_io_threads_loses_nothing_when_its_leader_is_killed() {
    survives_the_death_of_its_leader("--io-threads 2");
}

/// The directory is the system's temporary one: on most machines a real disk, at the least another file system.
#[test]
fn a_pair_on_disk_loses_nothing_when_its_leader_is_killed() {
    let pools = tempfile::tempdir().expect("a temporary directory");
    let builder =
        |name: &str| ServerBuilder::farkeep().pool(&pools.path().join(name)).args("--durability disk");
    let pair = survives_with(builder("one"), builder("two"));
    assert_eq!(pair.leader.info("farkeep", "farkeep_durability"), "disk");
}

/// Or nobody could read what came before the restart and was not known to be committed.
#[test]
fn a_leader_on_disk_that_is_restarted_settles_its_reign_without_a_write() {
    let pools = tempfile::tempdir().expect("a temporary directory");
    let builder =
        |name: &str| ServerBuilder::farkeep().pool(&pools.path().join(name)).args("--durability disk");
    let mut pair = Pair::with(builder("one"), builder("two")).expect_link_trouble();
    pair.leader.client().expect_ok("SET k v");
    pair.leader.kill();
    pair.leader.restart();
    wait::until("all to be committed", || {
        let positions = ["farkeep_committed_lsn", "farkeep_appended_lsn"];
        let [committed, appended] = positions.map(|field| pair.leader.info("farkeep", field));
        committed == appended
    });
}

#[test]
fn a_pair_with_passwords_links_with_masterauth_only() {
    let mut leader = ServerBuilder::farkeep().args("--requirepass secret --sync-followers 0").start();
    farkeep_tests::pair::expect_link_trouble(&mut leader);
    let address = format!("127.0.0.1 {}", leader.port());
    let mut stranger = ServerBuilder::farkeep().directive("replicaof", &address).start();
    farkeep_tests::pair::expect_link_trouble(&mut stranger);
    wait::until("the reason", || stranger.info("farkeep", "farkeep_link_down_reason").contains("NOAUTH"));
    let friend =
        ServerBuilder::farkeep().args("--masterauth secret").directive("replicaof", &address).start();
    wait::until("the link", || friend.info("replication", "master_link_status") == "up");
    // The stranger learns the password while it runs.
    stranger.client().expect_ok("CONFIG SET masterauth secret");
    wait::until("the link", || stranger.info("replication", "master_link_status") == "up");

    let mut client = leader.client();
    assert!(client.words("SET k v").is_error("NOAUTH"));
    assert!(client.words("AUTH wrong").is_error("WRONGPASS"));
    client.expect_ok("AUTH secret");
    client.expect_ok("SET k v");
    assert_eq!(client.words("WAIT 2 0"), Value::Int(2));
}

const TOO_FEW: &str = "NOREPLICAS Not enough good replicas to write.";

/// As redis-server 7.0 answers each of these.
#[test]
fn a_leader_with_too_few_good_followers_refuses_writes_and_nothing_else() {
    let leader = ServerBuilder::farkeep().args("--min-slaves-to-write 1").start();
    let mut client = leader.client();
    let mut other = leader.client();
    for write in ["SET k v", "DEL nosuch", "FLUSHALL"] {
        assert_eq!(client.words(write).error(), Some(TOO_FEW), "{write}");
    }
    assert!(client.words("GET k").is_null());
    assert_eq!(client.words("PUBLISH channel message"), Value::Int(0));
    assert!(client.words("SET k").is_error("ERR wrong number"), "that is found first");
    assert_eq!(leader.info("replication", "min_slaves_good_slaves"), "0");

    // In a MULTI it is found when a write is queued, or at EXEC if it has come about since.
    client.expect_ok("MULTI");
    client.words("GET k");
    assert_eq!(client.words("SET k v").error(), Some(TOO_FEW));
    assert!(client.words("EXEC").is_error("EXECABORT Transaction discarded because of previous errors."));
    other.expect_ok("CONFIG SET min-replicas-to-write 0");
    client.expect_ok("MULTI");
    client.words("SET k v");
    other.expect_ok("CONFIG SET min-replicas-to-write 1");
    let aborted = client.words("EXEC");
    let why = format!("EXECABORT Transaction discarded because of: {TOO_FEW}");
    assert_eq!(aborted.error(), Some(why.as_str()));
    client.expect_ok("MULTI");
    client.words("GET k");
    assert_eq!(client.words("EXEC").elements().map(|replies| replies.len()), Some(1), "nothing is written");

    // What the two directives say holds from the next command on, also in one pipeline, and 0 for either demands nothing.
    client.send_raw(b"CONFIG SET min-replicas-max-lag 0\r\nSET k v\r\n").expect("it can be sent");
    assert!(client.reply().expect("a reply").is_ok());
    assert!(client.reply().expect("a reply").is_ok());
    assert_eq!(leader.info("replication", "min_slaves_good_slaves"), "");
}

#[test]
fn a_follower_counts_as_good_while_it_is_heard_from() {
    let pair = Pair::start().expect_link_trouble();
    let mut client = pair.leader.client();
    client.expect_ok("CONFIG SET sync-followers 0 min-replicas-to-write 1 min-replicas-max-lag 1");
    let good = || pair.leader.info("replication", "min_slaves_good_slaves");
    client.expect_ok("SET k v");
    assert_eq!((good().as_str(), pair.leader.info("farkeep", "farkeep_refusing").as_str()), ("1", "0"));
    client.expect_ok("CONFIG SET min-replicas-to-write 2");
    assert_eq!(client.words("SET k v").error(), Some(TOO_FEW));
    assert_eq!(pair.leader.info("farkeep", "farkeep_refusing"), "1");
    client.expect_ok("CONFIG SET min-replicas-to-write 1");
    pair.follower.freeze();
    wait::until("the follower to be silent for too long", || {
        client.words("SET k v").error() == Some(TOO_FEW)
    });
    assert_eq!(good(), "0");
    pair.follower.thaw();
    wait::until("the follower to be good again", || client.words("SET k v").is_ok());
    assert_eq!(good(), "1");
}

/// As redis-server 7.0 answers each of these.
#[test]
fn a_follower_that_lost_its_leader_serves_no_stale_data_if_it_is_told_so() {
    const DOWN: &str = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
    let Pair { mut leader, follower } = Pair::start().expect_link_trouble();
    leader.client().expect_ok("SET k v");
    let mut client = follower.client();
    let mut other = follower.client();
    wait::until("the key to arrive", || client.words("GET k").text().as_deref() == Some("v"));
    client.expect_ok("CONFIG SET replica-serve-stale-data no");
    assert_eq!(client.words("GET k").text().as_deref(), Some("v"), "the link is up");

    leader.kill();
    wait::until("the follower to have lost its leader", || client.words("GET k").error() == Some(DOWN));
    for refused in ["PING", "DBSIZE", "OBJECT ENCODING k", "WAIT 0 0"] {
        assert_eq!(client.words(refused).error(), Some(DOWN), "{refused}");
    }
    assert!(client.words("SET k v").is_error("READONLY"));
    for served in
        ["INFO server", "PUBLISH channel message", "ECHO text", "OBJECT HELP", "ROLE", "WATCH k", "UNWATCH"]
    {
        assert_eq!(client.words(served).error(), None, "{served}");
    }
    assert_eq!(follower.info("replication", "master_link_status"), "down");
    client.expect_ok("MULTI");
    assert_eq!(client.words("GET k").error(), Some(DOWN));
    assert!(client.words("EXEC").is_error("EXECABORT Transaction discarded because of previous errors."));

    // In a MULTI it counts what holds at EXEC, and only for what may not be stale.
    other.expect_ok("CONFIG SET slave-serve-stale-data yes");
    client.expect_ok("MULTI");
    client.words("GET k");
    other.expect_ok("CONFIG SET replica-serve-stale-data no");
    let why = format!("EXECABORT Transaction discarded because of: {DOWN}");
    assert_eq!(client.words("EXEC").error(), Some(why.as_str()));
    client.expect_ok("MULTI");
    client.words("OBJECT HELP");
    client.words("CONFIG SET replica-serve-stale-data yes");
    assert_eq!(client.words("EXEC").error(), None);
    assert_eq!(client.words("GET k").text().as_deref(), Some("v"));
    other.expect_ok("CONFIG SET replica-serve-stale-data no");
    assert_eq!(client.words("GET k").error(), Some(DOWN));

    leader.restart();
    wait::until("the link", || client.words("GET k").text().as_deref() == Some("v"));
    // One that follows nobody has no link to miss. What Sentinel says to promote it is not refused.
    leader.kill();
    wait::until("the follower to have lost its leader", || client.words("GET k").error() == Some(DOWN));
    client.expect_ok("MULTI");
    for word in ["SLAVEOF NO ONE", "CONFIG REWRITE", "CLIENT KILL TYPE pubsub"] {
        assert_eq!(client.words(word).text().as_deref(), Some("QUEUED"), "{word}");
    }
    let replies = client.words("EXEC").elements().expect("an array");
    assert!(replies[0].is_ok(), "{replies:?}");
    assert_eq!(client.words("GET k").text().as_deref(), Some("v"));
}

#[test]
fn a_unix_socket_serves_what_the_port_serves() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("farkeep.sock");
    let server =
        ServerBuilder::farkeep().directive("unixsocket", path.to_str().expect("a plain path")).start();
    let cli = |args: &[&str]| {
        let output = Command::new(binary::redis_cli()).arg("-s").arg(&path).args(args).output();
        String::from_utf8_lossy(&output.expect("redis-cli can be started").stdout).trim().to_owned()
    };
    assert_eq!(cli(&["SET", "k", "over the socket"]), "OK");
    assert_eq!(server.client().words("GET k").text().as_deref(), Some("over the socket"));
    assert_eq!(cli(&["GET", "k"]), "over the socket");
}

#[test]
fn a_renamed_command_answers_to_its_new_name_only() {
    let server = ServerBuilder::farkeep().args("--rename-command FLUSHALL wipe").start();
    let mut client = server.client();
    client.expect_ok("SET k v");
    assert!(client.words("FLUSHALL").is_error("ERR unknown command"));
    client.expect_ok("WIPE");
    assert_eq!(client.words("DBSIZE"), Value::Int(0));
}

#[test]
fn one_client_too_many_is_told_so_and_gets_in_once_another_leaves() {
    let server = ServerBuilder::farkeep().args("--maxclients 20").start();
    let mut clients = Vec::new();
    let refusal = loop {
        let mut client = server.client();
        match client.try_command(&["PING"]) {
            Ok(Value::Simple(_)) => clients.push(client),
            Ok(other) => break other,
            Err(error) => panic!("neither served nor told why: {error}"),
        }
    };
    assert!(refusal.is_error("ERR max number of clients reached"), "{refusal:?}");
    assert_eq!(clients.len(), 20);
    clients.pop();
    wait::until("a place to be free", || {
        Client::connect(server.port())
            .and_then(|mut client| client.try_command(&["PING"]))
            .is_ok_and(|reply| matches!(reply, Value::Simple(_)))
    });
}

#[test]
fn clients_list_and_kill_each_other_across_threads() {
    let server = ServerBuilder::farkeep().args("--io-threads 2").start();
    let mut killer = server.client();
    let mut victims: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for (at, victim) in victims.iter_mut().enumerate() {
        victim.expect_ok(&format!("CLIENT SETNAME victim{at}"));
    }
    let list = killer.words("CLIENT LIST").text().expect("a text");
    for (at, victim) in victims.iter_mut().enumerate() {
        let id = victim.words("CLIENT ID").int().expect("a number");
        let line =
            list.lines().find(|line| line.contains(&format!("name=victim{at} "))).expect("it is listed");
        assert!(line.starts_with(&format!("id={id} ")), "{line}");
        assert_eq!(killer.words(&format!("CLIENT KILL ID {id}")), Value::Int(1));
        assert!(victim.try_command(&["PING"]).is_err(), "its connection is closed");
        assert_eq!(killer.words(&format!("CLIENT KILL ID {id}")), Value::Int(0));
    }
    wait::until("the list to be short", || {
        killer.words("CLIENT LIST").text().is_some_and(|list| list.lines().count() == 1)
    });
}

/// Also the writes that are held back: their replies come when they have been executed, and are committed.
#[test]
fn a_paused_server_executes_and_answers_after_the_pause() {
    for followers in [0, 1] {
        let (leader, _follower) = if followers == 1 {
            let Pair { leader, follower } = Pair::start().expect_link_trouble();
            (leader, Some(follower))
        } else {
            (ServerBuilder::farkeep().args("--io-threads 2").start(), None::<Server>)
        };
        let mut boss = leader.client();
        let mut reader = leader.client();
        let mut writers: Vec<Client> = (0..3).map(|_| leader.client()).collect();
        boss.expect_ok("SET k before");
        boss.expect_ok("CLIENT PAUSE 60000 WRITE");
        for writer in &mut writers {
            writer.send(&["SET", "k", "after"]).expect("it can be sent");
        }
        // One has more to say than what it waits with.
        writers[0].send(&["INCR", "n"]).expect("it can be sent");
        wait::until("the writers to wait", || leader.info("clients", "blocked_clients") == "3");
        assert_eq!(reader.words("GET k").text().as_deref(), Some("before"));
        boss.expect_ok("CLIENT UNPAUSE");
        for writer in &mut writers {
            assert!(writer.reply().expect("a reply").is_ok());
        }
        assert_eq!(writers[0].reply().expect("a reply"), Value::Int(1));
        assert_eq!(reader.words("GET k").text().as_deref(), Some("after"));
        // A pause for everything ends by itself.
        boss.expect_ok("CLIENT PAUSE 200");
        assert_eq!(reader.words("GET k").text().as_deref(), Some("after"));
    }
}
