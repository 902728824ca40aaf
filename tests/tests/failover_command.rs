//! `farkeep failover`, and what shows a group: topology, status, lag, history.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use farkeep_tests::group::{Group, assert_only_redirects, role, state};
use farkeep_tests::load::Load;
use farkeep_tests::pair::wait_for_link;
use farkeep_tests::{Client, Server, binary, wait};

const WRITERS: u64 = 4;

/// Runs farkeep with these arguments until it ends.
fn farkeep(args: &str, node: &Server) -> Output {
    let node = format!("127.0.0.1:{}", node.port());
    binary::run_farkeep(args.split(' ').chain(["--node", &node]))
}

#[track_caller]
fn json(args: &str, node: &Server, code: i32) -> serde_json::Value {
    let output = farkeep(&format!("{args} -o json"), node);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn a_group_is_shown_whichever_node_is_asked() {
    let mut group = Group::start(2);
    let address = |at: usize| format!("127.0.0.1:{}", group.0[at].port());
    let (leader, follower) = (address(0), address(1));
    for asked in &group.0 {
        let topology = json("topology", asked, 0);
        let nodes = topology["nodes"].as_array().expect("an array");
        assert_eq!(nodes.len(), 3, "{topology:#}");
        assert_eq!((&nodes[0]["address"], &nodes[0]["role"]), (&leader.clone().into(), &"leader".into()));
        assert_eq!(nodes[0]["state"], "writable");
        for node in &nodes[1..] {
            assert_eq!((&node["follows"], &node["role"]), (&leader.clone().into(), &"follower".into()));
            assert_eq!((&node["state"], &node["fabric"]), (&"streaming".into(), &"tcp".into()));
        }
        let status = json("status", asked, 0);
        assert_eq!((&status["leader"], &status["verdict"]), (&leader.clone().into(), &"healthy".into()));
    }
    let lag = json("lag", &group.0[1], 0);
    let lines = lag["followers"].as_array().expect("an array");
    assert_eq!(lines.len(), 2, "{lag:#}");
    assert!(lines.iter().all(|line| line["durable_lag_bytes"].is_u64()), "{lag:#}");
    let history = json("history", &group.0[2], 0);
    assert_eq!(history["reigns"][0]["nodes"].as_array().expect("an array").len(), 3, "{history:#}");
    let table = farkeep("topology", &group.0[0]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("NODE") && table.contains(&leader) && table.contains(&follower), "{table}");

    group.0[1].kill();
    wait::until("the leader to miss it", || group.0[0].info("farkeep", "farkeep_followers_in_reach") == "1");
    let status = json("status", &group.0[2], 4);
    assert_eq!((&status["writable"], &status["verdict"]), (&true.into(), &"unhealthy".into()));
    group.0[0].kill();
    let status = json("status", &group.0[2], 5);
    assert_eq!(status["leader"], serde_json::Value::Null);
    let nobody = farkeep("status", &group.0[0]);
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&nobody.stderr).lines().count(), 1);
}

#[test]
fn a_watch_goes_on_with_the_other_nodes_when_the_one_that_was_named_is_gone() {
    let mut group = Group::start(2);
    let address = |node: &Server| format!("127.0.0.1:{}", node.port());
    let mut watch = Command::new(binary::farkeep())
        .args(["status", "--watch", "-o", "json", "--node", &address(&group.0[1])])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("farkeep can be started");
    let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("it goes on").expect("it can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let first = next();
    assert_eq!((&first["leader"], &first["followers"]), (&address(&group.0[0]).into(), &2.into()));
    group.0[1].kill();
    // A look may have been under way.
    let later = [next(), next()].into_iter().find(|status| status["followers"] == 1);
    let later = later.expect("one follower is gone");
    assert_eq!(later["leader"], address(&group.0[0]), "{later:#}");
    let gone = format!("{} does not answer", address(&group.0[1]));
    let problems = later["problems"].as_array().expect("an array");
    assert!(
        problems.iter().any(|problem| problem.as_str().is_some_and(|text| text.contains(&gone))),
        "{later:#}"
    );
    watch.kill().expect("it still runs");
    watch.wait().expect("it ends");
}

#[test]
fn failover_on_the_command_line_makes_a_leader_that_answers_hand_over() {
    let group = Group::start(2);
    let load = Load::roaming(&group.ports(), WRITERS, 1);
    load.wait_for_more(300);
    let dry = farkeep("failover --dry-run", &group.0[2]);
    assert!(dry.status.success());
    assert_eq!(role(&group.0[0]), "master", "nothing has been done");
    let to = format!("failover --to 127.0.0.1:{}", group.0[2].port());
    let done = farkeep(&to, &group.0[1]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!((role(&group.0[0]).as_str(), role(&group.0[2]).as_str()), ("slave", "master"));
    load.wait_for_more(300);
    let ledger = load.stop();
    assert_only_redirects(&ledger);
    ledger.assert_kept_by("the new leader", &mut group.0[2].client());
    // Who leads already is nobody's follower.
    assert_eq!(farkeep(&to, &group.0[1]).status.code(), Some(1));
}

/// Discovery waits for the node that is silent, so the leader's time would end after the command's.
#[test]
fn a_failover_that_is_given_up_on_the_command_line_is_not_under_way_any_more() {
    let group = Group::start(2);
    let [leader, target, _other] = &group.0[..] else { unreachable!() };
    target.freeze();
    leader.client().expect_ok("SET only elsewhere");
    let given_up = farkeep(&format!("failover --timeout 1500 --to 127.0.0.1:{}", target.port()), leader);
    let said = String::from_utf8_lossy(&given_up.stderr).into_owned();
    assert_eq!((state(leader).as_str(), role(leader).as_str()), ("no-failover", "master"), "{said}");
    assert_eq!(given_up.status.code(), Some(1), "{said}");
    assert!(said.contains("leads on"), "{said}");
    leader.client().expect_ok("SET after that");
    target.thaw();
    wait_for_link(leader, target);
    assert_eq!(role(leader), "master");
}

/// A follower that holds everything and does not answer is offered the place again and again, for longer than the time allows.
#[test]
fn a_failover_that_does_not_end_by_itself_is_aborted_by_the_command_line() {
    let group = Group::start(2);
    let [leader, target, _other] = &group.0[..] else { unreachable!() };
    target.freeze();
    let given_up = farkeep(&format!("failover --timeout 700 --to 127.0.0.1:{}", target.port()), leader);
    let said = String::from_utf8_lossy(&given_up.stderr).into_owned();
    assert_eq!((state(leader).as_str(), role(leader).as_str()), ("no-failover", "master"), "{said}");
    assert_eq!(given_up.status.code(), Some(1), "{said}");
    assert!(said.contains("leads on"), "{said}");
    target.thaw();
    wait_for_link(leader, target);
    assert_eq!(role(leader), "master");
}

#[test]
fn a_failover_whose_leader_dies_on_the_way_says_that_it_is_silent() {
    let mut group = Group::start(2);
    let target = format!("127.0.0.1:{}", group.0[1].port());
    group.0[1].freeze();
    let run = Command::new(binary::farkeep())
        .args(["failover", "--timeout", "1500", "--to", &target])
        .args(["--node", &format!("127.0.0.1:{}", group.0[0].port())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("farkeep can be started");
    wait::until("the failover to be under way", || state(&group.0[0]) != "no-failover");
    group.0[0].kill();
    let done = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("does not answer any more"), "{said}");
    group.0[1].thaw();
    assert_eq!((role(&group.0[1]).as_str(), role(&group.0[2]).as_str()), ("slave", "slave"));
}

/// The old leader has no password for the new one: a failover that gave the group a leader and took a follower from it.
#[test]
fn a_failover_after_which_the_old_leader_has_no_link_is_told_as_one() {
    let group = Group::start(2);
    let [leader, target, _other] = &group.0[..] else { unreachable!() };
    target.client().expect_ok("CONFIG SET requirepass secret");
    let address = format!("127.0.0.1:{}", target.port());
    let mut command = Command::new(binary::farkeep());
    command.args(["failover", "--timeout", "5000", "--to", &address]);
    command.args(["--node", &format!("127.0.0.1:{}", leader.port())]);
    let done = command.stdin(Stdio::null()).output().expect("farkeep can be started");
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert_eq!(done.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("{address} leads")) && said.contains("has no link to it: "), "{said}");
    assert_eq!(role(leader), "slave");
    let mut client = target.client();
    client.expect_ok("AUTH secret");
    assert_eq!(client.words("ROLE").elements().expect("an array")[0].text().as_deref(), Some("master"));
}

/// With FORCE the leader acts when its time is up.
#[test]
fn a_forced_failover_that_succeeds_when_time_is_up_is_told_as_a_success() {
    let group = Group::start(2);
    let [leader, target, other] = &group.0[..] else { unreachable!() };
    // What the frozen one would have to hold as well is never committed, so nobody ever holds all there is.
    leader.client().expect_ok("CONFIG SET sync-followers 2");
    other.freeze();
    let mut writer = leader.client();
    writer.send(&["SET", "k", "v"]).expect("it can be sent");
    wait::until("the write to be appended", || {
        leader.info("farkeep", "farkeep_appended_lsn") > leader.info("farkeep", "farkeep_committed_lsn")
    });
    let done = farkeep(&format!("failover --force --timeout 1500 --to 127.0.0.1:{}", target.port()), leader);
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{} leads", target.port())), "{said}");
    assert_eq!((role(leader).as_str(), role(target).as_str()), ("slave", "master"));
    other.thaw();
    wait_for_link(target, other);
}

#[test]
fn failover_after_a_kill_promotes_the_most_advanced_of_the_followers() {
    let mut group = Group::start(2);
    let load = Load::roaming(&group.ports()[..1], WRITERS, 1);
    load.wait_for_more(300);
    group.0[1].kill();
    load.wait_for_more(300);
    group.0[0].kill();
    let ledger = load.stop();
    group.0[1].restart();
    let durable =
        |node: &Server| node.info("farkeep", "farkeep_durable_lsn").parse::<u64>().expect("a number");
    assert!(durable(&group.0[1]) < durable(&group.0[2]));
    // One that was restarted remembers no peers; the other one does.
    let done = farkeep("failover", &group.0[2]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("nothing acknowledged is lost"), "{said}");
    let advice = format!("REPLICAOF 127.0.0.1 {} there, and CONFIG REWRITE", group.0[2].port());
    assert!(said.contains(&advice), "{said}");
    assert_eq!((role(&group.0[1]).as_str(), role(&group.0[2]).as_str()), ("slave", "master"));
    let mut client = group.0[2].client();
    client.expect_ok("SET first write");
    ledger.assert_kept_by("the new leader", &mut client);
    let replicaof = format!("replicaof 127.0.0.1 {}", group.0[2].port());
    let text = std::fs::read_to_string(group.0[1].config_file()).expect("the file can be read");
    assert!(text.contains(&replicaof), "{text}");
    // The old leader comes back, believes to lead, and is told better.
    group.0[0].restart();
    group.0[0].client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", group.0[2].port()));
    wait_for_link(&group.0[2], &group.0[0]);
    ledger.assert_kept_by("the new leader", &mut client);
}

#[test]
fn failover_with_too_few_followers_to_be_sure_is_not_done_unless_forced() {
    let mut group = Group::start(2);
    group.0[0].client().expect_ok("SET k v");
    group.0[0].kill();
    group.0[1].kill();
    let refused = farkeep("failover", &group.0[2]);
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stdout));
    assert_eq!(
        (role(&group.0[2]).as_str(), group.0[2].info("farkeep", "farkeep_fenced").as_str()),
        ("slave", "0")
    );
    let forced = farkeep("failover --force", &group.0[2]);
    assert!(forced.status.success(), "{}", String::from_utf8_lossy(&forced.stderr));
    assert_eq!(role(&group.0[2]), "master");
}

/// Started together, each through another node, which is what it prefers where two are equal.
#[test]
fn failovers_on_the_command_line_that_run_at_once_end_with_one_leader_that_takes_writes() {
    for round in 0..6 {
        let mut group = Group::start(2);
        group.0[0].client().expect_ok("SET before v");
        group.0[0].kill();
        let [_, one, two] = &group.0[..] else { unreachable!() };
        let runs = [(one, 0), (two, round)].map(|(node, late)| {
            // In the middle of what takes the first one some tens of ms.
            std::thread::sleep(Duration::from_millis(7 * late));
            let mut command = Command::new(binary::farkeep());
            command.args(["failover", "--node", &format!("127.0.0.1:{}", node.port())]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("farkeep can be started")
        });
        let done = runs.map(|run| run.wait_with_output().expect("it ends"));
        let said: String = done
            .iter()
            .flat_map(|done| [&done.stdout, &done.stderr])
            .map(|text| String::from_utf8_lossy(text))
            .collect();
        assert!(done.iter().any(|done| done.status.success()), "round {round}: {said}");
        assert!(!said.contains("has no field"), "round {round}: {said}");
        let (leader, follower) = if role(one) == "master" { (one, two) } else { (two, one) };
        assert_eq!(
            (role(leader).as_str(), role(follower).as_str()),
            ("master", "slave"),
            "round {round}: {said}"
        );
        assert_eq!(
            follower.info("replication", "master_port"),
            leader.port().to_string(),
            "round {round}: {said}"
        );
        wait_for_link(leader, follower);
        assert_eq!(leader.client().words("GET before").text().as_deref(), Some("v"));
    }
}

/// The name that a run gives its connections is all that another one sees of it.
#[test]
fn a_failover_on_the_command_line_waits_for_its_turn() {
    let mut group = Group::start(2);
    group.0[0].kill();
    let mut other = group.0[2].client();
    other.expect_ok("CLIENT SETNAME farkeep-failover");
    let refused = farkeep("failover --timeout 300", &group.0[1]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another farkeep failover is at work"), "{said}");
    for node in &group.0[1..] {
        assert_eq!((role(node).as_str(), node.info("farkeep", "farkeep_fenced").as_str()), ("slave", "0"));
    }
    drop(other);
    let done = farkeep("failover", &group.0[1]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// How often a command has been called.
fn calls(node: &Server, command: &str) -> u64 {
    let text = node.info("commandstats", &format!("cmdstat_{command}"));
    let calls = text.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

/// As many runs take turns, a connection of this name keeps one waiting where it has found the group and done nothing.
fn while_it_waits(group: &Group, meanwhile: impl FnOnce(Client)) -> Output {
    let mut turn = group.0[1].client();
    turn.expect_ok("CLIENT SETNAME farkeep-failover");
    let address = format!("127.0.0.1:{}", group.0[2].port());
    let run = Command::new(binary::farkeep())
        .args(["failover", "--node", &address])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("farkeep can be started");
    // ID, SETNAME, LIST, SETNAME: then it looks again and again, until the other is gone.
    wait::until("the run to wait for its turn", || calls(&group.0[1], "client") > 8);
    meanwhile(turn);
    run.wait_with_output().expect("it ends")
}

#[test]
fn a_leader_that_somebody_else_promotes_meanwhile_is_given_the_other_followers() {
    let mut group = Group::start(2);
    group.0[0].kill();
    let done = while_it_waits(&group, |_turn| group.0[1].client().expect_ok("REPLICAOF NO ONE"));
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    let told = format!(
        "127.0.0.1:{} is told to follow 127.0.0.1:{}, which somebody else has promoted",
        group.0[2].port(),
        group.0[1].port()
    );
    assert!(said.contains(&told), "{said}");
    wait_for_link(&group.0[1], &group.0[2]);
    group.0[1].client().expect_ok("SET k v");
}

#[test]
fn a_failover_that_found_somebody_else_at_work_begins_anew_when_nobody_leads_after_all() {
    let mut group = Group::start(2);
    group.0[0].kill();
    let done = while_it_waits(&group, |_turn| group.0[1].client().expect_ok("REPLICAOF 127.0.0.1 1"));
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("Nobody has taken over after all"), "{said}");
    let leader = group.leader();
    wait_for_link(&group.0[leader], &group.0[3 - leader]);
}

/// It is fenced after somebody else has told it to follow the leader that he has promoted. Nobody else would let it go.
#[test]
fn a_follower_that_is_fenced_although_it_has_got_another_leader_is_let_go() {
    let mut group = Group::start(2);
    group.0[0].kill();
    let [_, one, two] = &group.0[..] else { unreachable!() };
    // It is fenced first, and stands still then.
    one.client().expect_ok("CONFIG SET replica-priority 1");
    let mut told = one.client();
    told.expect_ok("CLIENT SETNAME told");
    let done = while_it_waits(&group, |turn| {
        one.freeze();
        drop(turn);
        let mut own = 0;
        let before = calls(two, "info");
        wait::until("the run to look at the other one for the last time", || {
            own += 1;
            calls(two, "info") > before + own
        });
        two.client().expect_ok("REPLICAOF NO ONE");
        told.send(&["REPLICAOF", "127.0.0.1", &two.port().to_string()]).expect("it can be sent");
        one.thaw();
    });
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("cannot be fenced") && said.contains("somebody else has seen to that"), "{said}");
    wait_for_link(two, one);
}

#[test]
fn a_leader_that_refuses_writes_is_shown_as_one_whatever_it_lacks() {
    let group = Group::start(1);
    let node = &group.0[0];
    assert_eq!(json("status", node, 0)["writable"], true);
    node.client().expect_ok("CONFIG SET min-replicas-to-write 2");
    let status = json("status", node, 4);
    assert_eq!(status["writable"], false);
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("of 1 followers in reach fewer are good than min-replicas-to-write"),
        "{problems}"
    );
    let check = farkeep("check", node);
    let line = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(line.contains("refuses writes: of 1 followers in reach"), "{line}");
    node.client().expect_ok("CONFIG SET min-replicas-to-write 0 sync-followers 2");
    let problems = json("status", node, 4)["problems"].to_string();
    assert!(problems.contains("refuses writes: 1 followers are in reach, sync-followers is 2"), "{problems}");
}
