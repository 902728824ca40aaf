//! HTTP as monitoring, scripts and strangers meet it. The page itself is in dashboard.rs.

use std::io::{Read, Write};
use std::process::Command;

use farkeep_tests::http::{self, Answer};
use farkeep_tests::pair::{Pair, expect_link_trouble};
use farkeep_tests::server::free_port;
use farkeep_tests::{Server, ServerBuilder, wait};
use serde_json::Value;

fn with_http(builder: ServerBuilder) -> (ServerBuilder, u16) {
    let port = free_port();
    (builder.args(&format!("--http-port {port}")), port)
}

fn server(args: &str) -> (Server, u16) {
    let (builder, port) = with_http(ServerBuilder::farkeep().args(args));
    (builder.start(), port)
}

fn status(port: u16) -> Value {
    let mut answer = None;
    wait::until("the first look at the node", || {
        let got = http::get(port, "/api/v1/status");
        let ready = got.status == 200;
        answer = Some(got);
        ready
    });
    answer.expect("it was asked").json()
}

#[test]
fn status_is_what_info_says() {
    let (builder, port) = with_http(ServerBuilder::farkeep());
    let pair = Pair::with(builder, ServerBuilder::farkeep());
    pair.leader.client().expect_ok("SET k v");
    pair.wait_until_applied();
    let appended: u64 = pair.leader.info("farkeep", "farkeep_appended_lsn").parse().expect("a number");
    wait::until("a sample of the group at rest", || {
        let status = status(port);
        status["watermarks"]["appended_lsn"] == appended && status["followers"][0]["stages"][2]["lag_us"] == 0
    });
    let status = status(port);
    assert_eq!(status["role"], "leader");
    assert_eq!(status["verdict"]["state"], "healthy");
    assert_eq!(status["at_risk"]["bytes"], 0);
    assert_eq!(status["followers"][0]["name"], format!("127.0.0.1:{}", pair.follower.port()));
    for field in [
        "farkeep_node_id",
        "farkeep_replid",
        "farkeep_durability",
        "farkeep_durable_lsn",
        "farkeep_epoch_shown",
    ] {
        assert_eq!(status["info"][field], pair.leader.info("farkeep", field).as_str(), "{field}");
    }
    assert_eq!(
        status["clients"]["keys"].to_string(),
        pair.leader.info("keyspace", "db0").replace("keys=", "").split(',').next().unwrap_or_default()
    );
    let kinds: Vec<Value> = http::get(port, "/api/v1/events")
        .json()
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["kind"].clone())
        .collect();
    assert!(kinds.contains(&"follower".into()) && kinds.contains(&"node".into()), "{kinds:?}");
    let history = http::get(port, "/api/v1/history?range=1h").json();
    assert_eq!(history["step_s"], 10);
    assert!(history["followers"].as_object().is_some_and(|followers| followers.len() == 1));
}

#[test]
fn metrics_are_what_prometheus_takes_and_agree_with_info() {
    let (builder, port) = with_http(ServerBuilder::farkeep());
    let pair = Pair::with(builder, ServerBuilder::farkeep());
    pair.leader.client().expect_ok("SET k v");
    let durable = pair.leader.info("replication", "master_repl_offset");
    wait::until("a sample of it", || {
        let text = http::get(port, "/metrics").body;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<f64>().ok()
        };
        value("redis_master_repl_offset") == durable.parse().ok()
            && value("redis_connected_slaves") == Some(1.0)
            && value("farkeep_at_risk_bytes") == Some(0.0)
            && value("farkeep_commit_seconds_count").is_some_and(|count| count >= 1.0)
    });
    let answer = http::get(port, "/metrics");
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    // Debian's promtool reads Prometheus's older text format, in which a line `# EOF` is a comment.
    let mut promtool = Command::new("promtool");
    promtool
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let Ok(mut child) = promtool.spawn() else { panic!("promtool is not installed: run scripts/setup test") };
    child.stdin.take().expect("it is piped").write_all(answer.body.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("error while linting") && !said.contains("parsing error"), "{said}");
}

#[test]
fn alert_rules_fire_when_they_should_and_not_otherwise() {
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus");
    let output = Command::new("promtool")
        .current_dir(rules)
        .args(["test", "rules", "farkeep.rules.test.yml"])
        .output();
    let output = output.expect("promtool can be started: run scripts/setup test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn probes_tell_a_node_that_serves_from_one_that_does_not() {
    let (leader, follower) = (with_http(ServerBuilder::farkeep()), with_http(ServerBuilder::farkeep()));
    let mut pair = Pair::with(leader.0, follower.0).expect_link_trouble();
    let ready = |port| http::get(port, "/readyz").status;
    wait::until("both to be ready", || ready(leader.1) == 200 && ready(follower.1) == 200);
    assert_eq!(http::get(leader.1, "/healthz").body, "alive\n");
    pair.follower.kill();
    wait::until("the leader to refuse writes and say so", || ready(leader.1) == 503);
    assert_eq!(status(leader.1)["verdict"]["state"], "refusing-writes");
    assert_eq!(status(leader.1)["lost"][0]["name"], format!("127.0.0.1:{}", pair.follower.port()));
    let why = status(leader.1)["lost"][0]["why"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("closed") || why.contains("reset") || why.contains("silent"), "{why}");
    pair.follower.restart();
    wait::until("it to be ready again", || ready(leader.1) == 200);
    pair.leader.kill();
    wait::until("the follower to be ready no more", || ready(follower.1) == 503);
    assert_eq!(http::get(follower.1, "/healthz").status, 200);
    assert_eq!(status(follower.1)["verdict"]["state"], "link-down");
    expect_link_trouble(&mut pair.follower);
    pair.follower.client().expect_ok("REPLICAOF NO ONE");
    wait::until("the takeover to be told", || !status(follower.1)["last_failover"].is_null());
    assert_eq!(status(follower.1)["role"], "leader");
}

#[test]
fn password_of_the_resp_port_is_asked_for_everywhere_but_by_probes() {
    let (_server, port) = server("--requirepass secret");
    let with = |header: &str| http::request(port, "GET", "/api/v1/session", &[header], "").status;
    for path in ["/", "/page.js", "/metrics", "/api/v1/status", "/api/v1/stream", "/nowhere"] {
        let answer = http::get(port, path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").starts_with("basic "), "{path}");
    }
    assert_eq!(http::get(port, "/healthz").status, 200);
    // default:secret
    assert_eq!(with("Authorization: Basic ZGVmYXVsdDpzZWNyZXQ="), 200);
    assert_eq!(with("Authorization: Bearer secret"), 200);
    for wrong in ["Bearer secre", "Bearer secrets", "Basic c2VjcmV0", "Basic AAAA", "Basic", "secret"] {
        assert_eq!(with(&format!("Authorization: {wrong}")), 401, "{wrong}");
    }
}

#[test]
fn other_sites_get_nothing_out_of_a_node_without_a_password() {
    let (_server, port) = server("");
    let host = |host: &str| http::request(port, "GET", "/metrics", &[&format!("Host: {host}")], "").status;
    assert_eq!(host(&format!("localhost:{port}")), 200);
    assert_eq!(host(&format!("evil.example:{port}")), 403);
    let answer = http::get(port, "/");
    assert!(answer.header("content-security-policy").contains("default-src 'none'"));
    assert!(answer.header("access-control-allow-origin").is_empty());
}

/// An action takes, all at once: the switch, the password, this node's token, a request from its own page, and the action's name.
#[test]
fn failover_by_http_works_with_actions_on_and_is_impossible_with_anything_missing() {
    let password = "--requirepass secret --masterauth secret";
    let (off, off_port) = with_http(ServerBuilder::farkeep().args(password));
    let off = off.start();
    let with = |port: u16, headers: &[&str], body: &str| {
        let all = [&["Authorization: Bearer secret", "Content-Type: application/json"], headers].concat();
        http::request(port, "POST", "/api/v1/actions/failover", &all, body)
    };
    let token_of = |port| {
        let answer = http::request(port, "GET", "/api/v1/session", &["Authorization: Bearer secret"], "");
        answer.json()["csrf_token"].as_str().map(str::to_owned)
    };
    let body = r#"{"confirm":"failover"}"#;
    assert_eq!(token_of(off_port), None);
    assert_eq!(with(off_port, &["X-Farkeep-Csrf: "], body).status, 403);
    drop(off);

    let (leader, port) =
        with_http(ServerBuilder::farkeep().args(password).args("--http-actions yes --sync-followers 1"));
    let mut leader = leader.start();
    let address = format!("127.0.0.1 {}", leader.port());
    let follower =
        ServerBuilder::farkeep().args(password).args("--sync-followers 1").directive("replicaof", &address);
    let mut follower = follower.start();
    for node in [&mut leader, &mut follower] {
        expect_link_trouble(node);
    }
    let role = |server: &Server| {
        let mut client = server.client();
        client.expect_ok("AUTH secret");
        client.try_info("replication", "role").ok().flatten().unwrap_or_default()
    };
    wait::until("the follower to be in reach", || {
        let answer = http::request(port, "GET", "/api/v1/status", &["Authorization: Bearer secret"], "");
        answer.status == 200 && answer.json()["followers"][0]["state"] == "streaming"
    });
    let token = format!("X-Farkeep-Csrf: {}", token_of(port).expect("actions are on"));
    let refused = [
        (with(port, &[], body), 403),
        (with(port, &["X-Farkeep-Csrf: 0"], body), 403),
        (with(port, &[&token, "Sec-Fetch-Site: cross-site"], body), 403),
        (with(port, &[&token], r#"{"confirm":"yes"}"#), 400),
        (with(port, &[&token], "confirm=failover"), 400),
        (with(port, &[&token], r#"{"confirm":"failover","target":"10.0.0.1:1"}"#), 409),
        (
            http::request(
                port,
                "POST",
                "/api/v1/actions/failover",
                &[&token, "Content-Type: application/json"],
                body,
            ),
            401,
        ),
        (
            http::request(
                port,
                "POST",
                "/api/v1/actions/failover",
                &[&token, "Authorization: Bearer secret"],
                body,
            ),
            415,
        ),
    ];
    for (answer, status) in refused {
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(role(&leader), "master", "none of it did anything");
    let all = ["Authorization: Bearer secret", "Content-Type: application/json", &token];
    let scrub = http::request(port, "POST", "/api/v1/actions/scrub", &all, r#"{"confirm":"scrub"}"#);
    assert_eq!(scrub.status, 200, "{scrub:?}");
    wait::until("the scrub to be over and told", || {
        let status = http::request(port, "GET", "/api/v1/status", &all[..1], "").json();
        status["walks"]["scrubs"] == 1 && status["walks"]["scrub_mismatches"] == 0
    });
    let resync = |body: &str| http::request(port, "POST", "/api/v1/actions/resync", &all, body);
    let name = format!("127.0.0.1:{}", follower.port());
    assert_eq!(resync(r#"{"confirm":"resync"}"#).status, 400, "whom?");
    let needed = resync(&format!(r#"{{"confirm":"resync","target":"{name}"}}"#));
    assert_eq!(needed.status, 409, "{needed:?}");
    let forced = resync(&format!(r#"{{"confirm":"resync","target":"{name}","force":true}}"#));
    assert_eq!(forced.status, 200, "{forced:?}");
    wait::until("the sync to be over and told", || {
        let status = http::request(port, "GET", "/api/v1/status", &all[..1], "").json();
        status["walks"]["syncs"] == 1 && status["followers"][0]["state"] == "streaming"
    });
    let answer = with(port, &[&token, "Sec-Fetch-Site: same-origin"], body);
    assert_eq!(answer.status, 200, "{answer:?}");
    wait::until("the follower to lead", || role(&follower) == "master" && role(&leader) == "slave");
    let events = http::request(port, "GET", "/api/v1/events", &["Authorization: Bearer secret"], "").json();
    let told = |kind: &str, text: &str| {
        events.as_array().is_some_and(|events| {
            events.iter().any(|event| {
                event["kind"] == kind && event["text"].as_str().is_some_and(|said| said.contains(text))
            })
        })
    };
    assert!(told("action", "is refused"), "{events}");
    assert!(told("action", "has begun"), "{events}");
    assert!(told("phase", "take over"), "{events}");
}

/// Whatever is sent gets an error and costs nothing: the node goes on serving.
#[test]
fn nonsense_is_refused_and_everybody_else_is_served() {
    let (server, port) = server("");
    let raw = |bytes: &[u8]| -> Option<Answer> {
        let mut stream = http::connect(port).expect("a connection");
        // It may be refused before all of it is sent.
        let _ = stream.write_all(bytes);
        http::read_answer(&mut stream).ok()
    };
    let refused = |bytes: &[u8], what: &str| {
        if let Some(answer) = raw(bytes) {
            assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
        }
    };
    refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS");
    refused(b"*1\r\n$4\r\nPING\r\n", "RESP");
    refused(b"GET / HTTP/9.9\r\n\r\n", "a version from the future");
    refused(
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000)).as_bytes(),
        "a long path",
    );
    refused(
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(100_000)).as_bytes(),
        "a long header",
    );
    refused(
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1000)).as_bytes(),
        "many headers",
    );
    refused(
        b"POST /api/v1/actions/scrub HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx",
        "a long body",
    );
    refused(b"POST /api/v1/actions/scrub HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "two lengths");
    for path in [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.js/..",
        "/uplot/",
        "/api/v1/status/",
        "/%00",
    ] {
        assert_eq!(http::get(port, path).status, 404, "{path}");
    }
    assert_eq!(http::request(port, "DELETE", "/api/v1/status", &[], "").status, 405);
    assert_eq!(http::get(port, "/api/v1/history?range=10y").status, 400);
    assert_eq!(http::get(port, "/api/v1/events?after=-1").status, 400);
    server.client().expect_ok("SET k v");
    assert_eq!(status(port)["role"], "leader");
}

#[test]
fn connections_that_say_nothing_cannot_take_all_places_for_ever() {
    let (server, port) = server("");
    let mut idle = Vec::new();
    // More than there are places: the last ones are told so.
    let mut told = None;
    for _ in 0..200 {
        let mut stream = http::connect(port).expect("a connection");
        let _ = stream.write_all(b"GET /healthz HT");
        stream.set_nonblocking(true).expect("a socket");
        let mut bytes = [0; 64];
        if told.is_none()
            && let Ok(len) = stream.read(&mut bytes)
        {
            told = Some(String::from_utf8_lossy(&bytes[..len]).into_owned());
        }
        idle.push(stream);
    }
    wait::until("one of them to be told that there is no place", || {
        let mut bytes = [0; 64];
        told.is_some()
            || idle.iter_mut().any(|stream| matches!(stream.read(&mut bytes), Ok(len) if bytes[..len].starts_with(b"HTTP/1.1 503")))
    });
    server.client().expect_ok("SET k v");
    wait::until("the slow ones to be given up", || {
        http::try_request(port, "GET", "/healthz", &[], "").is_ok_and(|answer| answer.status == 200)
    });
    drop(idle);
}
