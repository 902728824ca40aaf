use super::cpu_seconds;
use super::memory::human;
use super::section::format;
use super::snapshot::{
    CommandInfo, DbInfo, EngineInfo, FollowerInfo, InfoSnapshot, LeaderLinkInfo, RoleInfo,
};

fn leader() -> InfoSnapshot {
    let follower = |port| FollowerInfo {
        ip: "10.0.0.2".to_owned(),
        port,
        online: true,
        state: "streaming",
        durable_lsn: 990,
        applied_lsn: 980,
        checkpoint_lsn: 900,
        silent_s: 1,
        fabric: "tcp".to_owned(),
        fabric_reason: "rdma: no device".to_owned(),
        mode: "",
        node_id: "0f".repeat(16),
        posted_lsn: 1000,
        ..FollowerInfo::default()
    };
    InfoSnapshot {
        engine: EngineInfo {
            role: RoleInfo::Leader { followers: vec![follower(6380), follower(6381)], lost: Vec::new() },
            failover_state: "no-failover",
            replid: "ab".repeat(20),
            durable_lsn: 1000,
            appended_lsn: 1000,
            oldest_lsn: 200,
            checkpoint_lsn: 600,
            log_len_bytes: 4096,
            databases: vec![
                DbInfo { index: 0, keys: 3, expires: 1, avg_ttl_ms: 99 },
                DbInfo { index: 1, ..DbInfo::default() },
            ],
            ..EngineInfo::default()
        },
        commands: vec![CommandInfo { name: "get".to_owned(), calls: 7, rejected: 1, failed: 2 }],
        errors: vec![("WRONGTYPE".to_owned(), 2)],
        ..InfoSnapshot::default()
    }
}

fn follower(link: LeaderLinkInfo) -> InfoSnapshot {
    let engine =
        EngineInfo { role: RoleInfo::Follower(Box::new(link)), durable_lsn: 77, ..EngineInfo::default() };
    InfoSnapshot { engine, ..InfoSnapshot::default() }
}

/// The names before the colon, in order.
fn names(text: &str) -> Vec<&str> {
    text.split("\r\n").filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect()
}

#[test]
fn every_line_ends_in_crlf_and_sections_are_apart_by_one_empty_line() {
    let text = format(&leader(), &[b"all"]);
    assert!(text.starts_with("# Server\r\n"));
    assert!(text.ends_with("\r\n") && !text.ends_with("\r\n\r\n"));
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    assert_eq!(text.matches("\r\n\r\n# ").count(), 13);
}

#[test]
fn sections_come_in_redis_order_and_ours_is_last() {
    let headers = |wanted: &[&[u8]]| {
        let text = format(&leader(), wanted);
        text.lines()
            .filter_map(|line| line.strip_prefix("# "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let default =
        "Server Clients Memory Persistence Stats Replication CPU Modules Errorstats Cluster Keyspace Farkeep";
    let all = "Server Clients Memory Persistence Stats Replication CPU Modules Commandstats Errorstats Latencystats \
               Cluster Keyspace Farkeep";
    assert_eq!(headers(&[]), default);
    assert_eq!(headers(&[b"DEFAULT"]), default);
    assert_eq!(headers(&[b"all"]), all);
    assert_eq!(headers(&[b"everything"]), all);
    assert_eq!(headers(&[b"keyspace", b"Server", b"nonsense"]), "Server Keyspace");
    assert_eq!(
        headers(&[b"default", b"commandstats"]),
        default.replace("Errorstats", "Commandstats Errorstats")
    );
    assert_eq!(headers(&[b"nonsense"]), "");
}

#[test]
fn sections_have_as_many_fields_as_redis_7_0() {
    let info = leader();
    for (section, count) in
        [("server", 24), ("clients", 8), ("memory", 51), ("persistence", 30), ("stats", 50), ("cpu", 6)]
    {
        assert_eq!(names(&format(&info, &[section.as_bytes()])).len(), count, "{section}");
    }
}

#[test]
fn leader_shows_its_followers_as_redis_does() {
    let text = format(&leader(), &[b"replication"]);
    let expected = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
        slave0:ip=10.0.0.2,port=6380,state=online,offset=990,lag=1\r\n\
        slave1:ip=10.0.0.2,port=6381,state=online,offset=990,lag=1\r\n\
        master_failover_state:no-failover\r\n\
        master_replid:abababababababababababababababababababab\r\n\
        master_replid2:0000000000000000000000000000000000000000\r\n\
        master_repl_offset:1000\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:1\r\nrepl_backlog_size:4096\r\n\
        repl_backlog_first_byte_offset:201\r\nrepl_backlog_histlen:800\r\n";
    assert_eq!(text, expected);
}

#[test]
fn follower_says_its_role_before_its_leader() {
    let link = LeaderLinkInfo {
        host: "10.0.0.1".to_owned(),
        port: 6379,
        up: true,
        silent_s: Some(2),
        priority: 100,
        announced: true,
        ..LeaderLinkInfo::default()
    };
    let text = format(&follower(link.clone()), &[b"replication"]);
    let up = [
        "role",
        "master_host",
        "master_port",
        "master_link_status",
        "master_last_io_seconds_ago",
        "master_sync_in_progress",
        "slave_read_repl_offset",
        "slave_repl_offset",
        "slave_priority",
        "slave_read_only",
        "replica_announced",
        "connected_slaves",
    ];
    assert_eq!(names(&text)[..12], up);
    assert!(text.contains("role:slave\r\n") && text.contains("slave_repl_offset:77\r\n"));
    assert!(text.contains("master_link_status:up\r\nmaster_last_io_seconds_ago:2\r\n"));

    let down = LeaderLinkInfo { up: false, silent_s: None, down_s: Some(9), ..link };
    let text = format(&follower(down.clone()), &[b"replication"]);
    assert!(text.contains(
        "master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_sync_in_progress:0\r\n"
    ));
    assert!(
        text.contains("slave_repl_offset:77\r\nmaster_link_down_since_seconds:9\r\nslave_priority:100\r\n")
    );

    // In its first synchronisation: it was never up.
    let text = format(&follower(LeaderLinkInfo { syncing: true, down_s: None, ..down }), &[b"replication"]);
    assert!(text.contains(
        "master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_sync_in_progress:1\r\n"
    ));
    assert!(text.contains("master_link_down_since_seconds:-1\r\n"));
}

/// As in Redis, whose names these are: a tool takes them for a sync that is under way.
#[test]
fn progress_of_a_sync_is_shown_while_it_is_under_way_only() {
    let shown = |syncing, image| {
        let sync = Some((10_485_760, image, 0));
        let link = LeaderLinkInfo { syncing, sync, sync_silent_s: 3, ..LeaderLinkInfo::default() };
        let text = format(&follower(link), &[b"replication"]);
        let lines = text.lines().filter(|line| line.starts_with("master_sync_"));
        lines.map(|line| line["master_sync_".len()..].to_owned()).collect::<Vec<_>>().join(" ")
    };
    // The leader has gone in the middle of it.
    assert_eq!(shown(false, 41_943_040), "in_progress:0");
    assert_eq!(shown(false, 0), "in_progress:0");
    assert_eq!(
        shown(true, 41_943_040),
        "in_progress:1 total_bytes:41943040 read_bytes:10485760 left_bytes:31457280 perc:25.00 last_io_seconds_ago:3"
    );
    // It goes on with a leader that has not said how long its image is.
    assert_eq!(
        shown(true, 0),
        "in_progress:1 total_bytes:0 read_bytes:10485760 left_bytes:0 perc:0.00 last_io_seconds_ago:3"
    );
}

#[test]
fn keyspace_lists_only_databases_with_keys() {
    let text = format(&leader(), &[b"keyspace"]);
    assert_eq!(text, "# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=99\r\n");
}

#[test]
fn command_and_error_lines_have_redis_form() {
    let text = format(&leader(), &[b"commandstats", b"errorstats"]);
    assert!(
        text.contains("cmdstat_get:calls=7,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=2\r\n")
    );
    assert!(text.contains("errorstat_WRONGTYPE:count=2\r\n"));
}

#[test]
fn own_section_tells_how_far_the_checkpoint_and_each_follower_are_behind() {
    let text = format(&leader(), &[b"farkeep"]);
    assert!(text.contains("farkeep_checkpoint_distance_bytes:400\r\n"));
    assert!(text.contains(
        "farkeep_follower1:address=10.0.0.2:6381,state=streaming,fabric=tcp,mode=,durable_lsn=990,applied_lsn=980,checkpoint_lsn=900,\
         lag_bytes=10,node_id=0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f,silent_ms=0,posted_lsn=1000,lag_ms=0.000,\
         posted_lag_bytes=0,posted_lag_ms=0.000,durable_lag_bytes=0,durable_lag_ms=0.000,applied_lag_bytes=0,\
         applied_lag_ms=0.000,lag_at_least=0\r\nfarkeep_follower1_posted_times:count=0,p50_ms=0.000,p99_ms=0.000,max_ms=0.000\r\n"
    ));
    assert!(text.contains("farkeep_follower1_fabric_reason:rdma: no device\r\n"));
}

#[test]
fn lengths_for_people_are_rounded_as_redis_rounds_them() {
    for (bytes, text) in [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00K"),
        (1_336_144, "1.27M"),
        (12_419_072, "11.84M"),
        (25_276_510_208, "23.54G"),
    ] {
        assert_eq!(human(bytes), text);
    }
}

#[test]
fn cpu_times_are_found_behind_a_hostile_process_name() {
    let ticks = rustix::param::clock_ticks_per_second();
    let line = format!("12 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 {} {} 0 0 20 0", ticks * 3, ticks * 2);
    assert_eq!(cpu_seconds(&line), (3.0, 2.0));
    assert_eq!(cpu_seconds(""), (0.0, 0.0));
}
