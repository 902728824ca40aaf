//! Nodes that are started in another role, or with an older pool, than the group has for them.

use farkeep_tests::group::{fail_over, known_peers, wait_for_followers};
use farkeep_tests::pair::{expect_link_trouble, wait_for_link};
use farkeep_tests::server::scratch_dir;
use farkeep_tests::{Pair, Server, ServerBuilder, binary, wait};

/// So many nodes without configuration files, the first of which is started as the leader, and has handed over to the second.
#[track_caller]
fn led_by_another_than_configured<const COUNT: usize>() -> [Server; COUNT] {
    let node = || ServerBuilder::farkeep().args("--sync-followers 1");
    let leader = node().start();
    let address = format!("127.0.0.1 {}", leader.port());
    let mut leader = Some(leader);
    let mut nodes = std::array::from_fn(|_| match leader.take() {
        Some(leader) => leader,
        None => node().directive("replicaof", &address).start(),
    });
    nodes.iter_mut().for_each(expect_link_trouble);
    let has_followers =
        |node: &Server| node.info("farkeep", "farkeep_followers_in_reach") == (COUNT - 1).to_string();
    wait::until("all followers", || has_followers(&nodes[0]));
    fail_over(&nodes[0], &nodes[1]);
    wait::until("all followers", || has_followers(&nodes[1]));
    wait::until("everybody to know everybody", || {
        let mut followers = nodes.iter().enumerate().filter(|(index, _)| *index != 1);
        followers.all(|(_, node)| known_peers(node) == COUNT - 1)
    });
    wait::until("everybody to hold the new leader's log", || {
        let durable = |node: &Server| node.info("farkeep", "farkeep_durable_lsn");
        nodes.iter().all(|node| durable(node) == durable(&nodes[1]))
    });
    nodes
}

/// The one goes on, with one follower; the other one, which leads when it is started because it always did, has one as well.
#[test]
fn a_leader_by_configuration_takes_no_writes_beside_the_one_that_it_had_followed() {
    let [mut first, second, third, mut late] = led_by_another_than_configured();
    first.kill();
    late.kill();
    second.client().expect_ok("SET acknowledged yes");
    late.spawn_only();
    for _ in 0..2 {
        first.restart();
        wait_for_followers(&first, 1);
        let fields = ["farkeep_followers_wanted", "farkeep_refusing"];
        assert_eq!(fields.map(|field| first.info("farkeep", field)), ["2", "1"]);
        assert!(first.client().words("SET acknowledged no").is_error("NOREPLICAS"));
        first.kill();
    }
    second.client().expect_ok("SET acknowledged again");
    // The others are lost, and somebody decides to go on with what is left.
    drop((second, third));
    first.restart();
    first.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", late.port()));
    first.client().expect_ok("REPLICAOF NO ONE");
    wait_for_link(&first, &late);
}

/// As long as enough of them have come.
#[test]
fn a_group_that_is_started_as_configured_goes_on() {
    let mut group: [Server; 4] = led_by_another_than_configured();
    group.iter_mut().for_each(Server::kill);
    for node in [0, 3] {
        group[node].restart();
    }
    wait_for_followers(&group[0], 1);
    assert!(group[0].client().words("SET key value").is_error("NOREPLICAS"));
    let remembered = |node: &Server| std::fs::read(node.pool().join("peers")).expect("a file");
    let before = remembered(&group[0]);
    group[2].restart();
    wait_for_link(&group[0], &group[2]);
    // From here on one is enough.
    group[2].kill();
    wait_for_followers(&group[0], 1);
    group[0].client().expect_ok("SET key value");
    assert_eq!(group[0].info("farkeep", "farkeep_followers_wanted"), "1");
    // Once it remembers its own followers, also after a restart.
    wait::until("it to remember them", || remembered(&group[0]) != before);
    group[0].kill();
    group[0].restart();
    wait_for_link(&group[0], &group[3]);
}

/// Nobody has seen to it that it holds what the others have acknowledged.
#[test]
fn a_follower_that_is_started_as_a_leader_takes_no_writes_away_from_the_others() {
    let [mut first, mut second, mut other] = led_by_another_than_configured();
    first.kill();
    second.client().expect_ok("SET acknowledged yes");
    second.kill();
    other.kill();
    // As they were started at first.
    for node in [&mut first, &mut second, &mut other] {
        node.restart();
    }
    for node in [&second, &other] {
        wait::until("the refusal", || {
            node.info("farkeep", "farkeep_link_down_reason").contains("was not promoted")
        });
    }
    let (done, said) = fail_over_among(&[&first, &second, &other]);
    assert!(!done && said.contains("has no followers; 127.0.0.1:") && said.contains("(REPLICAOF)"), "{said}");
    second.client().expect_ok("REPLICAOF NO ONE");
    for node in [&first, &other] {
        node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", second.port()));
        wait_for_link(&second, node);
        wait::until("what was acknowledged to be there", || {
            node.client().words("GET acknowledged").text().as_deref() == Some("yes")
        });
    }
}

fn position(node: &Server) -> [u64; 2] {
    ["farkeep_log_epoch", "farkeep_log_end_lsn"]
        .map(|field| node.info("farkeep", field).parse().expect("a number"))
}

/// Has the command line promote whoever of these holds the most. Says whether it has, and what it prints.
#[track_caller]
fn fail_over_among(nodes: &[&Server]) -> (bool, String) {
    let nodes = nodes.iter().map(|node| format!("--node=127.0.0.1:{}", node.port()));
    let output = binary::run_farkeep(["failover", "--force"].map(String::from).into_iter().chain(nodes));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

/// Its first record has reached a follower, but not so many that it could have come to anything.
#[test]
fn whoever_has_joined_a_leader_by_configuration_is_not_the_most_advanced_one_for_it() {
    let [mut first, mut second, third, mut late] = led_by_another_than_configured();
    first.kill();
    late.kill();
    late.spawn_only();
    first.restart();
    wait_for_followers(&first, 1);
    let begun = || first.info("farkeep", "farkeep_appended_lsn").parse::<u64>().expect("a number");
    wait::until("its first record to be there", || {
        late.info("farkeep", "farkeep_durable_lsn").parse::<u64>().expect("a number") == begun()
    });
    second.client().expect_ok("SET acknowledged yes");
    second.kill();
    let (done, said) = fail_over_among(&[&third, &late]);
    assert!(
        !done && said.contains("leads because its configuration says so: 1 of the 2 followers"),
        "{said}"
    );
    first.kill();
    assert!(position(&late) < position(&third), "{:?} {:?}", position(&late), position(&third));
    let (done, said) = fail_over_among(&[&third, &late]);
    assert!(done, "{said}");
    assert_eq!(third.client().words("GET acknowledged").text().as_deref(), Some("yes"), "{said}");
}

/// Each start as a leader begins a reign of its own, of a higher number than that in which the others go on.
#[test]
fn a_node_that_is_started_as_a_leader_again_and_again_is_not_the_most_advanced_one_for_it() {
    let [mut first, mut second, other] = led_by_another_than_configured();
    for _ in 0..3 {
        first.kill();
        first.restart();
    }
    first.client().expect_ok("REPLICAOF 127.0.0.1 1");
    second.client().expect_ok("SET acknowledged yes");
    second.kill();
    assert!(position(&first) < position(&other), "{:?} {:?}", position(&first), position(&other));
    let (done, said) = fail_over_among(&[&first, &other]);
    assert!(done, "{said}");
    assert_eq!(other.client().words("GET acknowledged").text().as_deref(), Some("yes"), "{said}");
}

/// A backup that was put back, or a machine whose disk has lied.
#[test]
fn a_leader_with_an_older_pool_takes_no_committed_writes_away_from_its_follower() {
    let mut pair = Pair::start().expect_link_trouble();
    pair.leader.client().expect_ok("SET key old");
    pair.wait_until_applied();
    pair.leader.kill();
    let copy = scratch_dir();
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        for file in ["image", "log"] {
            std::fs::copy(from.join(file), to.join(file)).expect("a copy");
        }
    };
    copied(&pair.leader.pool(), copy.path());
    pair.leader.restart();
    pair.wait_for_link();
    pair.leader.client().expect_ok("SET key new");
    pair.wait_until_applied();
    pair.leader.kill();
    copied(copy.path(), &pair.leader.pool());
    // The second start has a later epoch than the one that the follower knows.
    pair.leader.restart();
    pair.leader.kill();
    pair.leader.restart();
    wait::until("the refusal", || {
        pair.follower.info("farkeep", "farkeep_link_down_reason").contains("its pool is an older one")
    });
    assert_eq!(pair.follower.client().words("GET key").text().as_deref(), Some("new"));
}
