//! What a node does with bad bytes, bad files, a bad place or a bad moment: it says clearly what is wrong, touches nothing
//! that is not its own, and goes on wherever it can.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farkeep_proto::logfile::WINDOW_AT;
use farkeep_proto::window::RING_AT;
use farkeep_tests::load::Load;
use farkeep_tests::mount::SmallFileSystem;
use farkeep_tests::server::{StartFailure, scratch_dir};
use farkeep_tests::{Client, Pair, Server, ServerBuilder, Value, seed, wait};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A start that must fail by itself, without a panic, with all of `words` in what it says.
#[track_caller]
fn refused(builder: ServerBuilder, words: &[&str]) -> String {
    let StartFailure { status, log } = builder.start_and_end();
    let status = status.expect("it ended");
    assert!(status.code().is_some_and(|code| code != 0), "ended with {status}:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    for word in words {
        assert!(log.to_lowercase().contains(&word.to_lowercase()), "no word of '{word}':\n{log}");
    }
    log
}

/// Every file below `path` with its content, but for the lock: it names the last process that took it.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).expect("a directory").flatten() {
        if entry.path().is_dir() {
            files.extend(contents(&entry.path()));
        } else if entry.file_name() != "lock" {
            files.insert(entry.path(), fs::read(entry.path()).expect("a readable file"));
        }
    }
    files
}

/// A pool with a little data in it, closed cleanly or by kill -9.
fn pool_with_data(path: &Path, keys: u64, clean: bool) {
    let mut node = ServerBuilder::farkeep().pool(path).args("--log-size 16mb").start();
    let mut client = node.client();
    for number in 1..=keys {
        assert!(client.command(&["SET", &format!("k{number}"), &"v".repeat(100)]).is_ok());
    }
    assert_eq!(
        client.command(&["INCRBY", "count", &keys.to_string()]),
        Value::Int(i64::try_from(keys).expect("few"))
    );
    if clean {
        assert!(node.stop().success());
    } else {
        node.kill();
    }
}

fn flip_bit(path: &Path, at: u64, bit: u8) {
    let mut file = fs::File::options().read(true).write(true).open(path).expect("the file opens");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).expect("within the file");
    file.read_exact(&mut byte).expect("within the file");
    byte[0] ^= 1 << bit;
    file.seek(SeekFrom::Start(at)).expect("within the file");
    file.write_all(&byte).expect("the file can be written");
}

#[test]
fn garbage_on_one_connection_leaves_the_others_alone() {
    let node = Server::farkeep();
    let mut good = node.client();
    let seed = seed::seeds(1).start;
    println!("FARKEEP_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    for _ in 0..300 {
        let mut bad = node.client();
        bad.set_reply_timeout(Duration::from_millis(5));
        let mut bytes: Vec<u8> = (0..rng.random_range(1..400)).map(|_| rng.random()).collect();
        match rng.random_range(0..4) {
            0 => bytes.splice(0..0, *b"*3\r\n$3\r\nSET\r\n$").for_each(drop),
            1 => bytes.splice(0..0, *b"*1000000\r\n").for_each(drop),
            2 => bytes.extend_from_slice(b"\r\n"),
            _ => {}
        }
        // Whether it answers, closes or waits for more is its own affair.
        let _ = bad.send_raw(&bytes);
        let _ = bad.reply_raw();
        assert_eq!(good.words("PING"), Value::Simple("PONG".into()));
    }
    good.expect_ok("SET still alive");
}

#[test]
fn oversize_requests_are_named_and_the_connection_closed() {
    let node = Server::farkeep();
    let cases: &[(&[u8], &str)] = &[
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        (b"*2147483648\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\n$-5\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\nPING\r\n", "Protocol error: expected '$', got 'P'"),
        (b"SET \"unbalanced\r\n", "Protocol error: unbalanced quotes in request"),
    ];
    for (bytes, message) in cases {
        let mut client = node.client();
        client.send_raw(bytes).expect("the node reads");
        assert_eq!(client.reply().expect("an answer"), Value::Error(format!("ERR {message}")));
        let end = client.reply().expect_err("nothing more").kind();
        assert!(
            matches!(end, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
            "after '{message}': {end}"
        );
    }
    let mut client = node.client();
    client.send_raw(&vec![b'x'; 100_000]).expect("the node reads");
    assert_eq!(
        client.reply().expect("an answer"),
        Value::Error("ERR Protocol error: too big inline request".into())
    );

    let guarded = ServerBuilder::farkeep().args("--requirepass secret").start();
    let mut client = guarded.client();
    client.send_raw(b"*2\r\n$4\r\nECHO\r\n$16385\r\n").expect("the node reads");
    let answer = client.reply().expect("an answer");
    assert_eq!(answer, Value::Error("ERR Protocol error: unauthenticated bulk length".into()));
}

#[test]
fn a_large_value_goes_in_and_out_whole() {
    let node = Server::farkeep();
    let mut client = node.client();
    let value: Vec<u8> = (0..40_000_000_u32).map(|at| at.to_le_bytes()[(at % 4) as usize]).collect();
    assert!(client.command(&[b"SET".as_slice(), b"large", &value]).is_ok());
    assert_eq!(client.words("STRLEN large"), Value::Int(40_000_000));
    assert!(client.words("GET large") == Value::Bulk(value), "the value came back changed");
}

#[test]
fn a_port_in_use_is_a_clear_refusal() {
    let first = Server::farkeep();
    refused(ServerBuilder::farkeep().port(first.port()), &["in use", &first.port().to_string()]);
    first.client().expect_ok("SET the first");
}

#[test]
fn a_pool_in_use_is_a_clear_refusal() {
    let first = Server::farkeep();
    first.client().expect_ok("SET k v");
    let log = refused(ServerBuilder::farkeep().pool(&first.pool()), &["in use"]);
    assert!(log.contains(&first.pool().display().to_string()), "the pool is not named:\n{log}");
    assert_eq!(first.client().words("GET k").text().as_deref(), Some("v"));
}

#[test]
fn a_read_only_pool_is_a_clear_refusal() {
    let Some(disk) = SmallFileSystem::mount(128) else {
        println!("skipped: no permission to mount a file system");
        return;
    };
    let pool = disk.path().join("pool");
    pool_with_data(&pool, 100, true);
    disk.forbid_writing();
    let before = contents(&pool);
    refused(ServerBuilder::farkeep().pool(&pool).args("--log-size 16mb"), &["read-only"]);
    assert!(contents(&pool) == before, "a read-only pool was changed");
}

#[test]
fn foreign_files_are_refused_and_not_touched() {
    let dir = scratch_dir();
    for name in ["image", "log"] {
        for content in [&b"this is not Farkeep's"[..], &[0xff; 8192], &[0; 1 << 20]] {
            let pool = dir.path().join(format!("{name}-{}", content.len()));
            fs::create_dir(&pool).expect("a directory");
            fs::write(pool.join(name), content).expect("a file");
            fs::write(pool.join("notes.txt"), b"somebody's").expect("a file");
            refused(ServerBuilder::farkeep().pool(&pool), &[]);
            assert_eq!(fs::read(pool.join(name)).expect("still there"), content, "{name} was touched");
            assert_eq!(fs::read(pool.join("notes.txt")).expect("still there"), b"somebody's");
        }
    }
}

#[test]
fn a_damaged_identity_is_refused_and_not_touched() {
    let dir = scratch_dir();
    let pool = dir.path().join("pool");
    pool_with_data(&pool, 100, true);
    for name in ["image", "log"] {
        let path = pool.join(name);
        for at in [0, 9, 20] {
            flip_bit(&path, at, 3);
            let before = contents(&pool);
            refused(ServerBuilder::farkeep().pool(&pool).args("--log-size 16mb"), &[]);
            assert!(contents(&pool) == before, "a damaged pool was changed ({name}, byte {at})");
            flip_bit(&path, at, 3);
        }
    }
    let node = ServerBuilder::farkeep().pool(&pool).args("--log-size 16mb").start();
    assert_eq!(node.client().words("GET count").text().as_deref(), Some("100"));
}

#[test]
fn a_truncated_file_is_refused_and_not_touched() {
    let dir = scratch_dir();
    for name in ["image", "log"] {
        let pool = dir.path().join(name);
        pool_with_data(&pool, 1_000, true);
        let path = pool.join(name);
        let len = fs::metadata(&path).expect("the file is there").len();
        for keep in [0, 1, len / 2, len - 1] {
            let copy = dir.path().join("copy");
            fs::create_dir(&copy).expect("a directory");
            for other in fs::read_dir(&pool).expect("a directory").flatten() {
                fs::copy(other.path(), copy.join(other.file_name())).expect("a copy");
            }
            fs::File::options()
                .write(true)
                .open(copy.join(name))
                .and_then(|file| file.set_len(keep))
                .expect("truncated");
            let before = contents(&copy);
            refused(ServerBuilder::farkeep().pool(&copy).args("--log-size 16mb"), &[]);
            assert!(contents(&copy) == before, "a pool with a truncated {name} was changed");
            fs::remove_dir_all(&copy).expect("our own directory");
        }
    }
}

/// After kill -9, a flipped bit anywhere in the log either goes unnoticed because nothing needs it any more, cuts the log off
/// there, or is refused with words. Never a crash, never a value that nobody wrote, never a hole in the middle.
#[test]
fn a_flipped_bit_in_the_log_never_gives_wrong_data() {
    const KEYS: i64 = 3_000;
    let dir = scratch_dir();
    let seed = seed::seeds(1).start;
    println!("FARKEEP_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let pool = dir.path().join("pool");
    {
        let mut node = ServerBuilder::farkeep().pool(&pool).args("--log-size 16mb").start();
        let mut client = node.client();
        for number in 1..=KEYS {
            client.command(&["SET", &format!("k{number}"), &number.to_string()]);
        }
        node.kill();
    }
    let log_len = fs::metadata(pool.join("log")).expect("the log").len();
    for round in 0..24 {
        let copy = dir.path().join("copy");
        fs::create_dir(&copy).expect("a directory");
        for file in fs::read_dir(&pool).expect("a directory").flatten() {
            fs::copy(file.path(), copy.join(file.file_name())).expect("a copy");
        }
        // Half of the flips hit the first MiB, where the header and this test's records are.
        let at = rng.random_range(0..if round % 2 == 0 { log_len } else { (1 << 20).min(log_len) });
        flip_bit(&copy.join("log"), at, rng.random_range(0..8));
        let builder = ServerBuilder::farkeep().pool(&copy).args("--log-size 16mb").expect_log("");
        match builder.try_start() {
            Ok(node) => {
                let mut client = node.client();
                let values: Vec<Value> =
                    (1..=KEYS).map(|number| client.words(&format!("GET k{number}"))).collect();
                let kept = values.iter().take_while(|value| !value.is_null()).count();
                for (number, value) in (1..=KEYS).zip(&values[..kept]) {
                    assert_eq!(value.text(), Some(number.to_string()), "byte {at}");
                }
                assert!(values[kept..].iter().all(Value::is_null), "a hole after key {kept} (byte {at})");
                client.expect_ok("SET after damage");
            }
            Err(failure) => {
                assert!(
                    failure.status.is_some_and(|status| status.code().is_some()),
                    "byte {at}: {failure:?}"
                );
                assert!(!failure.log.contains("panicked"), "byte {at}: {}", failure.log);
            }
        }
        fs::remove_dir_all(&copy).expect("our own directory");
    }
}

/// One-sided writes count although nobody has looked at what they brought. So the leader says now and then how much that is.
#[test]
fn a_follower_whose_log_is_damaged_before_it_reads_it_is_sent_it_again() {
    let builder = || ServerBuilder::farkeep().args("--fabric shm --log-size 16mb");
    let mut pair = Pair::with(builder(), builder()).expect_link_trouble();
    let mut client = pair.leader.client();
    client.expect_ok("SET before damage");
    pair.wait_until_applied();
    let end: u64 = pair.leader.info("farkeep", "farkeep_appended_lsn").parse().expect("a number");
    // Its memory takes the record, its processor does not see it.
    pair.follower.freeze();
    assert!(client.command(&["SET", "key", &"v".repeat(200)]).is_ok());
    flip_bit(&pair.follower.pool().join("log"), WINDOW_AT + RING_AT + end + 100, 3);
    pair.follower.thaw();
    pair.wait_until_applied();
    assert_eq!(pair.follower.client().words("GET key").text(), Some("v".repeat(200)));
    assert!(pair.follower.log().contains(&format!("the log validates up to durable_lsn {end} only")));
    // What counts for a commit from here on is whole.
    client.expect_ok("SET after damage");
    pair.leader.kill();
    let mut client = pair.follower.client();
    client.expect_ok("CONFIG SET sync-followers 0");
    client.expect_ok("REPLICAOF NO ONE");
    assert_eq!(client.words("GET after").text(), Some("damage".to_owned()));
    assert_eq!(client.words("GET key").text(), Some("v".repeat(200)));
}

/// Writes until one is refused; returns the refusal and how many writes went in.
#[track_caller]
fn write_until_refused(client: &mut Client, value: &str, limit: usize) -> (String, usize) {
    for number in 0..limit {
        let answer = client.command(&["SET", &format!("fill:{number}"), value]);
        if let Some(text) = answer.error() {
            return (text.to_owned(), number);
        }
    }
    panic!("{limit} writes of {} bytes were all accepted", value.len());
}

#[test]
fn a_full_file_system_is_an_oom_reply_and_service_goes_on() {
    let Some(disk) = SmallFileSystem::mount(96) else {
        println!("skipped: no permission to mount a file system");
        return;
    };
    let pool = disk.path().join("pool");
    let mut node = ServerBuilder::farkeep().pool(&pool).args("--log-size 16mb").expect_log("space").start();
    let mut client = node.client();
    let value = "x".repeat(20_000);
    let (refusal, count) = write_until_refused(&mut client, &value, 10_000);
    assert!(refusal.starts_with("OOM"), "{refusal}");
    assert!(count > 1_000, "only {count} writes fitted");
    assert_eq!(client.words("GET fill:0"), Value::Bulk(value.clone().into_bytes()));
    for number in 0..count / 2 {
        assert_eq!(client.words(&format!("DEL fill:{number}")), Value::Int(1));
    }
    let mut again = 0;
    while again < count / 4 && client.command(&["SET", &format!("again:{again}"), &value]).is_ok() {
        again += 1;
    }
    assert_eq!(again, count / 4, "freed space is used again");
    node.kill();
    node.restart();
    let mut client = node.client();
    assert_eq!(client.words("DBSIZE"), Value::Int(i64::try_from(count - count / 2 + again).expect("few")));
}

#[test]
fn maxmemory_is_an_oom_reply_and_reads_go_on() {
    let node = ServerBuilder::farkeep().args("--maxmemory 32mb").start();
    let mut client = node.client();
    let (refusal, count) = write_until_refused(&mut client, &"x".repeat(10_000), 10_000);
    assert_eq!(refusal, "OOM command not allowed when used memory > 'maxmemory'.");
    assert!(count > 1_000, "only {count} writes fitted");
    assert_eq!(client.words("STRLEN fill:1"), Value::Int(10_000));
    assert_eq!(client.words("DEL fill:1 fill:2 fill:3 fill:4"), Value::Int(4));
    client.expect_ok("SET small value");
}

/// A frozen follower holds up what needs it, and nothing else; when it is thawed, all goes on.
#[test]
fn a_frozen_follower_stalls_writes_and_not_the_node() {
    let pair = Pair::start().expect_link_trouble();
    let load = Load::start(pair.leader.port(), 8, 1);
    load.wait_for_more(500);
    pair.follower.freeze();
    let mut client = pair.leader.client();
    for _ in 0..20 {
        assert_eq!(client.words("PING"), Value::Simple("PONG".into()));
    }
    // Sooner or later the leader says that it lacks followers, in these words, instead of keeping clients waiting for ever.
    let mut writer = pair.leader.client();
    wait::until("a write to be refused", || {
        writer
            .try_command(&["SET", "k", "v"])
            .is_ok_and(|value| value.error().is_some_and(|text| text.starts_with("NOREPLICAS")))
    });
    pair.follower.thaw();
    load.wait_for_more(500);
    let ledger = load.stop();
    pair.wait_for_link();
    pair.wait_until_applied();
    ledger.assert_kept_by("the leader", &mut pair.leader.client());
    ledger.assert_kept_by("the follower", &mut pair.follower.client());
}

/// What a leader says of a follower that it could not wait for any longer.
const OUTRUN: &str = "log no longer reaches";

/// What a writer is told when the ring has had no room for too long.
const LOG_FULL: &str = "OOM the redo log is full";

/// What a writer is told that would have to wait for a follower that is not there.
const NO_FOLLOWER: &str = "NOREPLICAS Not enough good replicas";

/// A follower that nobody has to wait for does not move while the ring would turn over four times: a writer waits for it, but
/// not for so long that it is refused: the follower is given up. Afterwards it catches up or is told why it cannot.
#[test]
fn a_follower_that_nobody_waits_for_holds_writers_up_only_for_a_while() {
    let leader = ServerBuilder::farkeep().args("--log-size 16mb --log-full-timeout 1000").start();
    let follower = ServerBuilder::farkeep()
        .args("--log-size 16mb")
        .directive("replicaof", &format!("127.0.0.1 {}", leader.port()))
        .start();
    let mut pair = Pair { leader, follower }.expect_link_trouble();
    pair.wait_for_link();
    pair.follower.freeze();
    let mut writer = pair.leader.client();
    let value = "x".repeat(10_000);
    for number in 0..6_400 {
        let answer = writer.command(&["SET", &format!("k{}", number % 500), &value]);
        assert!(answer.is_ok(), "write {number}: {answer:?}");
    }
    assert_ne!(
        pair.leader.info("farkeep", "farkeep_log_full_waits"),
        "0",
        "nobody waited: the ring was never full"
    );
    pair.follower.thaw();
    let whole = wait::holds_within(Duration::from_secs(10), || {
        pair.follower.info("replication", "master_link_status") == "up"
            && pair.follower.client().words("DBSIZE") == pair.leader.client().words("DBSIZE")
    });
    let said = pair.follower.log() + &pair.leader.log();
    assert!(whole || said.contains(OUTRUN), "neither caught up nor told why:\n{said}");
    assert!(pair.leader.is_running() && pair.follower.is_running());
}

/// The ring fills up with writes that wait for a frozen follower: those that find no room are told after a while that the
/// follower is missing (or, should they have run out of time, that there is no room), the node serves reads all the time, and
/// goes on when the follower does. Nothing that was refused is there, nothing is half there.
#[test]
fn a_full_ring_is_back_pressure_then_a_clear_error_then_service_again() {
    const WRITERS: usize = 40;
    let settings = "--log-size 16mb --log-full-timeout 500 --commit-timeout 3000";
    let pair =
        Pair::with(ServerBuilder::farkeep().args(settings), ServerBuilder::farkeep().args("--log-size 16mb"));
    let pair = pair.expect_link_trouble();
    pair.follower.freeze();
    let value = vec![b'x'; 600_000];
    let mut writers: Vec<Client> = (0..WRITERS).map(|_| pair.leader.client()).collect();
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.send(&[b"SET", format!("large:{number}").as_bytes(), &value]).expect("the node reads");
    }
    let mut reader = pair.leader.client();
    let mut answers = Vec::new();
    for writer in &mut writers {
        assert_eq!(reader.words("PING"), Value::Simple("PONG".into()));
        answers.push(match writer.reply() {
            Ok(value) => value.error().map_or_else(
                || format!("{value:?}"),
                |text| text.split(':').next().unwrap_or(text).to_owned(),
            ),
            Err(error) => format!("connection: {}", error.kind()),
        });
    }
    let mut tally = BTreeMap::new();
    for answer in &answers {
        *tally.entry(answer.as_str()).or_insert(0) += 1;
    }
    println!("answers: {tally:?}");
    let refused = |answer: &str| answer.starts_with(LOG_FULL) || answer.starts_with(NO_FOLLOWER);
    assert!(answers.iter().any(|answer| refused(answer)), "no writer was refused: {tally:?}");
    assert!(
        !answers.iter().any(|answer| answer.contains("OK")),
        "acknowledged without a follower: {tally:?}"
    );
    pair.follower.thaw();
    pair.wait_for_link();
    pair.wait_until_applied();
    for (number, answer) in answers.iter().enumerate() {
        let len = reader.words(&format!("STRLEN large:{number}"));
        let expected: &[i64] = if refused(answer) { &[0] } else { &[0, 600_000] };
        assert!(
            len.int().is_some_and(|len| expected.contains(&len)),
            "writer {number} was told {answer}, and finds {len:?}"
        );
        assert_eq!(pair.follower.client().words(&format!("STRLEN large:{number}")), len);
    }
}
