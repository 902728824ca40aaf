//! The command line, as a person or a script meets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use farkeep_tests::pair::wait_for_link;
use farkeep_tests::server::{Server, scratch_dir};
use farkeep_tests::{ServerBuilder, binary, wait};

/// Runs farkeep with these arguments until it ends.
fn farkeep(args: &[&str]) -> Output {
    binary::run_farkeep(args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn demo_loses_nothing_and_cleans_up() {
    let output = farkeep(&["demo", "--seconds", "1"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    assert!(said.contains("Nothing that was acknowledged is lost."), "{said}");
    assert!(!said.contains('\x1b'), "no control sequences where there is no terminal");
    let dir = said.split("their pools are in ").nth(1).and_then(|rest| rest.split(".\n").next());
    let dir = dir.expect("the demo says where its pools are");
    assert!(!Path::new(dir).exists(), "{dir} is still there");
}

#[test]
fn demo_whose_output_nobody_reads_ends_without_a_panic() {
    let mut child = Command::new(binary::farkeep())
        .args(["demo", "--seconds", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("farkeep can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_has_gone_is_none() {
    let server = Server::farkeep();
    let node = format!("127.0.0.1:{}", server.port());
    let pool = shown(&server.pool());
    for args in [
        &["version"][..],
        &["completions", "bash"],
        &["man"],
        &["status", "-n", &node],
        &["topology", "-o", "json", "-n", &node],
        &["check", "--alone", "-n", &node],
        &["pool", "inspect", &pool],
    ] {
        let run = |out: Stdio| {
            let mut command = Command::new(binary::farkeep());
            command.args(args).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
            command.spawn().expect("farkeep can be started").wait_with_output().expect("it ends")
        };
        let full = run(fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there").into());
        let said = text(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("standard output could not be written: No space left"), "{args:?}: {said}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let unread = run(writer.into());
        assert!(unread.status.success() && unread.stderr.is_empty(), "{args:?}: {}", text(&unread.stderr));
    }
}

#[test]
fn check_says_how_a_node_is_by_its_exit_code() {
    let mut server = Server::farkeep();
    let node = format!("127.0.0.1:{}", server.port());
    let code = |args: &[&str]| {
        let output = farkeep(&[&["check", "-n", &node], args].concat());
        (output.status.code(), text(&output.stdout))
    };
    let (status, line) = code(&["--alone"]);
    assert_eq!(status, Some(0), "{line}");
    assert!(line.starts_with("FARKEEP OK - leader in epoch ") && line.contains(" | followers=0"), "{line}");
    let (status, line) = code(&[]);
    assert_eq!(status, Some(2), "{line}");
    assert!(line.contains("no follower could take over"), "{line}");
    server.client().expect_ok("CONFIG SET requirepass secret");
    assert_eq!(code(&["--alone"]).0, Some(3));
    assert_eq!(code(&["--alone", "-a", "secret"]).0, Some(0));
    server.kill();
    let (status, line) = code(&["--alone"]);
    assert_eq!(status, Some(2), "{line}");
    assert_eq!(line.lines().count(), 1);
}

/// What these commands print ends in tickets and logs.
#[test]
fn a_wrong_password_is_in_nothing_that_is_printed() {
    let server = Server::farkeep();
    server.client().expect_ok("CONFIG SET requirepass right");
    let node = format!("127.0.0.1:{}", server.port());
    let with_user = ["--user", "someone"];
    for command in [&["status", "-o", "json"][..], &["topology"], &["check"], &["failover"]] {
        for user in [&[][..], &with_user] {
            let output = farkeep(&[command, user, &["-n", &node, "-a", "s3cret-but-wrong"]].concat());
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(!output.status.success() && said.contains("WRONGPASS"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}

/// It is how a follower joins, and no fault of the group that goes on meanwhile.
#[test]
fn a_delta_sync_is_shown_with_its_progress_and_is_no_lost_link() {
    let node = || ServerBuilder::farkeep().args("--log-size 4mb --sync-followers 1").expect_log("");
    let leader = node().args("--sync-max-rate 4mb").start();
    let directive = format!("127.0.0.1 {}", leader.port());
    let whole = node().directive("replicaof", &directive).start();
    wait_for_link(&leader, &whole);
    let mut client = leader.client();
    for key in 0..300 {
        let value = format!("{key:07}").repeat(100 << 10 >> 3);
        assert!(client.command(&["SET", &format!("key:{key}"), &value]).is_ok());
    }
    let joining = node().directive("replicaof", &directive).start();
    let settled = || joining.info("farkeep", "farkeep_sync_settled_bytes").parse::<u64>().unwrap_or(0);
    wait::until("a part of the image to be settled", || settled() > 1 << 20);

    let address = |node: &Server| format!("127.0.0.1:{}", node.port());
    let output = farkeep(&["status", "-o", "json", "-n", &address(&joining)]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(output.status.code(), Some(0), "{status:#}");
    assert_eq!((&status["verdict"], &status["problems"]), (&"synchronising".into(), &serde_json::json!([])));
    let sync = &status["synchronising"][0];
    assert_eq!(sync["address"], address(&joining), "{status:#}");
    let number = |name: &str| sync[name].as_u64().unwrap_or_else(|| panic!("{name}: {status:#}"));
    assert!(number("settled_bytes") > 1 << 20 && number("image_bytes") > 20 << 20, "{status:#}");
    assert!(number("rate_bytes_s") > 0 && number("eta_s") > 0, "{status:#}");
    let table = text(&farkeep(&["status", "-n", &address(&leader)]).stdout);
    let line = format!("{} is being synchronised, ", address(&joining));
    assert!(table.starts_with("synchronising: ") && table.contains(&line), "{table}");
    for node in [&joining, &leader] {
        let output = farkeep(&["check", "-n", &address(node)]);
        let line = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.contains("being synchronised, ") && !line.contains("down"), "{line}");
    }
    client.expect_ok("CONFIG SET sync-max-rate 0");
    wait_for_link(&leader, &joining);
    let output = farkeep(&["status", "-n", &address(&leader)]);
    assert!(
        output.status.success() && text(&output.stdout).starts_with("healthy: "),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn completions_and_manual_pages_are_made_for_every_command() {
    let output = farkeep(&["completions", "bash"]);
    assert!(output.status.success() && text(&output.stdout).contains("complete -F"));
    let dir = scratch_dir();
    assert!(farkeep(&["man", "--dir", &shown(dir.path())]).status.success());
    for page in ["farkeep.1", "farkeep-serve.1", "farkeep-failover.1", "farkeep-pool-verify.1"] {
        let text = fs::read_to_string(dir.path().join(page)).expect(page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn pool_of_a_running_node_is_inspected_and_one_at_rest_verified() {
    let mut server = Server::farkeep();
    let mut client = server.client();
    client.expect_ok("SET k v");
    client.expect_ok("SET expiring v EX 1000");
    client.words("HSET h f v");
    let pool = shown(&server.pool());

    let output = farkeep(&["pool", "inspect", &pool]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("durable_lsn") && table.contains("replid"), "{table}");
    let refused = farkeep(&["pool", "verify", &pool]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is in use by pid"), "{}", text(&refused.stderr));

    server.kill();
    let output = farkeep(&["pool", "verify", &pool, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(output.status.success(), "{json}");
    assert_eq!(json["verify"]["sound"], true);
    assert_eq!(json["verify"]["keys"], 3);
}

#[test]
fn start_in_the_background_is_over_when_the_node_serves_and_tells_a_failure() {
    let dir = scratch_dir();
    let path = |name: &str| shown(&dir.path().join(name));
    let first = Server::farkeep();
    let port = first.port().to_string();
    let (pool, log, pidfile, socket) = (path("pool"), path("log"), path("pid"), path("socket"));
    let serve = |port: &str| {
        let common =
            ["serve", "--port", port, "--bind", "127.0.0.1", "--daemonize", "yes", "--log-size", "16mb"];
        let paths = ["--pool", &pool, "--logfile", &log, "--pidfile", &pidfile, "--unixsocket", &socket];
        farkeep(&[&common[..], &paths[..]].concat())
    };
    let refused = serve(&port);
    assert_eq!(refused.status.code(), Some(1));
    let line = text(&refused.stderr);
    assert!(line.contains(&port) && line.lines().count() == 1, "{line}");

    let started = serve("0");
    assert!(started.status.success(), "{}", text(&started.stderr));
    let mut cli = Command::new(binary::redis_cli());
    let pong = cli.args(["-s", &socket, "PING"]).output().expect("redis-cli can be started");
    assert_eq!(text(&pong.stdout), "PONG\n");
    let pid = fs::read_to_string(&pidfile).expect("the node has written its process id");
    assert!(pid.trim().parse::<u32>().is_ok(), "{pid}");
    let mut cli = Command::new(binary::redis_cli());
    cli.args(["-s", &socket, "SHUTDOWN"]).output().expect("redis-cli can be started");
    wait::until("the node to have removed its pid file", || !Path::new(&pidfile).exists());
}
