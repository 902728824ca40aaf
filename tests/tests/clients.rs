//! Clients as people use them, against a running pair: redis-cli, redis-benchmark, redis-py and the `redis` crate.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use farkeep_tests::{Pair, Server, binary, wait};
use redis::TypedCommands;

fn cli(server: &Server, args: &[&str]) -> String {
    let output =
        run(Command::new(binary::redis_cli()).args(["-p", &server.port().to_string()]).args(args), b"");
    text(&output)
}

#[track_caller]
fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // Written beside the reading: a client that answers while it reads would fill its pipe and stop.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the client ends");
    writer.join().expect("no panic").expect("the client reads all of its input");
    output
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn redis_cli_talks_to_both_nodes() {
    let pair = Pair::start();
    assert_eq!(cli(&pair.leader, &["SET", "greeting", "hello world"]), "OK");
    assert_eq!(cli(&pair.leader, &["GET", "greeting"]), "hello world");
    assert_eq!(cli(&pair.leader, &["-3", "HSET", "h", "a", "1", "b", "2"]), "2");
    assert_eq!(cli(&pair.leader, &["-3", "HGETALL", "h"]), "a 1\nb 2");
    assert_eq!(cli(&pair.leader, &["-n", "5", "SET", "in", "five"]), "OK");
    assert_eq!(cli(&pair.leader, &["-n", "5", "DBSIZE"]), "1");
    wait::until("the follower to apply the writes", || {
        cli(&pair.follower, &["-n", "5", "GET", "in"]) == "five"
    });
    assert_eq!(cli(&pair.follower, &["GET", "greeting"]), "hello world");
    assert!(cli(&pair.follower, &["SET", "greeting", "no"]).starts_with("READONLY"));
    let script = b"MULTI\nINCR n\nINCR n\nEXEC\nSUBSTR greeting 0 4\n";
    let output = run(Command::new(binary::redis_cli()).args(["-p", &pair.leader.port().to_string()]), script);
    assert_eq!(text(&output), "OK\nQUEUED\nQUEUED\n1\n2\nhello");
}

#[test]
fn redis_cli_pipe_loads_a_mass_of_commands() {
    let pair = Pair::start();
    let mut commands = Vec::new();
    for number in 0..20_000 {
        farkeep_tests::client::encode(
            &["SET".to_owned(), format!("k{number}"), format!("value {number}")],
            &mut commands,
        );
    }
    let port = pair.leader.port().to_string();
    let output = run(Command::new(binary::redis_cli()).args(["-p", &port, "--pipe"]), &commands);
    let text = text(&output);
    assert!(text.contains("errors: 0, replies: 20000"), "{text}");
    assert_eq!(cli(&pair.leader, &["DBSIZE"]), "20001", "the link probe's key is the one more");
    pair.wait_until_applied();
    assert_eq!(cli(&pair.follower, &["DBSIZE"]), "20001");
}

#[test]
fn redis_cli_inspects_a_keyspace() {
    let server = Server::farkeep();
    let mut client = server.client();
    for number in 0..500 {
        client.command(&["SET", &format!("key:{number}"), "x"]);
        client.command(&["HSET", "hash", &format!("f{number}"), "v"]);
    }
    client.command(&["SET", "big", &"y".repeat(5_000)]);
    let keys = cli(&server, &["--scan", "--pattern", "key:*"]);
    assert_eq!(keys.lines().count(), 500);
    let big = cli(&server, &["--bigkeys"]);
    assert!(big.contains("Biggest string found") && big.contains("\"big\"' has 5000 bytes"), "{big}");
    assert!(big.contains("\"hash\"' has 500 fields"), "{big}");
    let memory = cli(&server, &["--memkeys"]);
    assert!(memory.contains("Biggest string found"), "{memory}");
    let stat = Command::new("timeout")
        .args(["2", "stdbuf", "-oL", "redis-cli", "-p", &server.port().to_string(), "--stat", "-i", "0.3"])
        .output()
        .expect("redis-cli --stat");
    let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
    assert!(
        stat.contains("keys") && stat.lines().filter(|line| line.starts_with("502")).count() >= 2,
        "{stat}"
    );
}

#[test]
fn redis_benchmark_finishes_without_an_error() {
    let pair = Pair::start();
    for pipeline in ["1", "16"] {
        let output = Command::new(binary::redis_benchmark())
            .args([
                "-p",
                &pair.leader.port().to_string(),
                "-n",
                "20000",
                "-c",
                "50",
                "-P",
                pipeline,
                "-r",
                "10000",
                "--csv",
            ])
            .args(["-t", "ping,set,get,incr,hset,mset"])
            .output()
            .expect("redis-benchmark starts");
        let table = text(&output);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("rror") && !table.contains("rror"), "{errors}\n{table}");
        for name in ["PING_INLINE", "SET", "GET", "INCR", "HSET", "MSET"] {
            assert!(table.contains(&format!("\"{name}")), "{name} is missing:\n{table}");
        }
    }
}

#[test]
fn redis_py_works_with_a_pair() {
    let pair = Pair::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/clients.py");
    let output = Command::new(binary::python())
        .arg(script)
        .args([pair.leader.port().to_string(), pair.follower.port().to_string()])
        .output()
        .expect("python starts");
    println!("{}", text(&output));
}

/// Over RESP2 and RESP3.
#[test]
fn the_redis_crate_works_with_a_pair() {
    let pair = Pair::start();
    for protocol in ["resp2", "resp3"] {
        let url = |port: u16, db: u8| format!("redis://127.0.0.1:{port}/{db}?protocol={protocol}");
        let client = redis::Client::open(url(pair.leader.port(), 1)).expect("a URL");
        let mut leader = client.get_connection().expect("the leader accepts");
        leader.set("name", "farkeep").expect("SET");
        assert_eq!(leader.get("name").expect("GET").as_deref(), Some("farkeep"));
        assert_eq!(leader.hset_multiple("h", &[("a", "1"), ("b", "2")]), Ok(()));
        let all = leader.hgetall("h").expect("HGETALL");
        assert_eq!((all.len(), all.get("a").map(String::as_str)), (2, Some("1")));
        let (first, second): (i64, i64) = redis::pipe()
            .atomic()
            .incr("counter", 1)
            .incr("counter", 41)
            .query(&mut leader)
            .expect("MULTI/EXEC");
        assert_eq!((first, second), (1, 42));
        let mut pipe = redis::pipe();
        for number in 0..1_000 {
            let mut key = String::new();
            write!(key, "many:{number}").expect("a string grows");
            pipe.set(key, number).ignore();
        }
        pipe.exec(&mut leader).expect("a pipeline of a thousand");
        let found: usize = leader.scan_match::<_, String>("many:*").expect("SCAN").count();
        assert_eq!(found, 1_000);
        let wrong = leader.incr("h", 1).expect_err("a hash is no counter");
        assert!(wrong.to_string().contains("WRONGTYPE"), "{wrong}");
        assert_eq!(redis::cmd("WAIT").arg(1).arg(1_000).query::<i64>(&mut leader), Ok(1));

        let client = redis::Client::open(url(pair.follower.port(), 1)).expect("a URL");
        let mut follower = client.get_connection().expect("the follower accepts");
        wait::until("the follower to apply the writes", || {
            follower.get("many:999").is_ok_and(|value| value.as_deref() == Some("999"))
        });
        let refused = follower.set("name", "no").expect_err("a follower refuses writes");
        assert!(refused.to_string().to_lowercase().contains("read only"), "{refused}");
        redis::cmd("FLUSHDB").exec(&mut leader).expect("FLUSHDB");
    }
}

#[test]
fn a_password_guards_both_nodes_and_their_link() {
    let secret = "--requirepass open-sesame --masterauth open-sesame";
    let leader = farkeep_tests::ServerBuilder::farkeep().args(secret).args("--sync-followers 1").start();
    let follower = farkeep_tests::ServerBuilder::farkeep()
        .args(secret)
        .directive("replicaof", &format!("127.0.0.1 {}", leader.port()))
        .start();
    let mut client = leader.client();
    assert_eq!(client.words("GET k").error(), Some("NOAUTH Authentication required."));
    assert!(client.words("AUTH wrong").error().is_some_and(|text| text.starts_with("WRONGPASS")));
    client.expect_ok("AUTH open-sesame");
    wait::until("a write to be acknowledged", || client.words("SET k v").is_ok());
    let mut reader = follower.client();
    assert!(reader.words("GET k").error().is_some());
    reader.expect_ok("AUTH default open-sesame");
    wait::until("the follower to apply the write", || reader.words("GET k").text().as_deref() == Some("v"));
}
