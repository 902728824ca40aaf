use super::*;
use farkeep_proto::resp::client::Reply;
use std::path::Path;

fn flags(words: &[&str]) -> Result<Loaded, ConfigError> {
    load(None, &words.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn from_file(text: &str) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("farkeep.conf");
    std::fs::write(&path, text).unwrap();
    load(Some(&path), &[]).map_err(|error| error.to_string())
}

fn set_one(config: &mut Config, name: &str, value: &str) -> Result<Changed, String> {
    set(config, &[(name.as_bytes(), value.as_bytes())]).map_err(|error| error.to_string())
}

#[test]
fn file_and_flags_give_typed_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("farkeep.conf");
    std::fs::write(
        &path,
        "# a comment\n\n  PORT 7000\nbind 127.0.0.1 -::1\nrequirepass \"a b\"\nmaxmemory 1gb\ntimeout 5\n\
         slaveof 10.0.0.1 7001\nsync-followers 1\non-follower-loss degrade\nhash-max-ziplist-entries 7\n\
         client-output-buffer-limit replica 2mb 1mb 9\nrename-command DEBUG \"\"\nrename-command KEYS XKEYS\n\
         dram-budget 25%\nfabric tcp\nread-commit no\n",
    )
    .unwrap();
    let flags: Vec<String> =
        ["--timeout", "9", "--pool", "/p q", "--loglevel debug"].map(str::to_owned).to_vec();
    let loaded = load(Some(&path), &flags).unwrap();
    let config = &loaded.config;
    assert_eq!(config.port, 7000);
    assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
    assert_eq!(config.requirepass.as_deref(), Some("a b"));
    assert_eq!(config.maxmemory, 1 << 30);
    assert_eq!(config.timeout_s, 9, "flags come after the file");
    assert_eq!(config.replicaof, Some(LeaderAddress { host: "10.0.0.1".to_owned(), port: 7001 }));
    assert_eq!(config.sync_followers, 1);
    assert_eq!(config.on_follower_loss, OnFollowerLoss::Degrade);
    assert_eq!(config.hash_max_listpack_entries, 7);
    assert_eq!(
        config.output_buffer_limit(ClientClass::Replica),
        OutputBufferLimit { hard_bytes: 2 << 20, soft_bytes: 1 << 20, soft_s: 9 }
    );
    assert_eq!(
        config.rename_command,
        [("DEBUG".to_owned(), String::new()), ("KEYS".to_owned(), "XKEYS".to_owned())]
    );
    assert_eq!(config.dram_budget, MemoryOrPercent::Percent(25));
    assert_eq!(config.fabric, FabricChoice::Tcp);
    assert!(!config.read_commit);
    assert_eq!(config.pool, Path::new("/p q"));
    assert_eq!(config.loglevel, LogLevel::Debug);
    assert_eq!(loaded.file.as_deref(), Some(path.as_path()));
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn rdma_is_told_its_device_address_and_port_at_start_and_nothing_is_asserted_by_default() {
    let config = Config::default();
    assert_eq!((config.rdma_bind, config.rdma_port, config.rdma_device.clone()), (None, 0, None));
    assert!(!config.rdma_direct_write, "that would be the operator's word");
    let mut config = flags(&[
        "--rdma-bind",
        "fd00::7",
        "--rdma-port",
        "7471",
        "--rdma-device",
        "mlx5_0",
        "--rdma-direct-write",
        "yes",
    ])
    .unwrap()
    .config;
    assert_eq!(config.rdma_bind, Some("fd00::7".parse().unwrap()));
    assert_eq!((config.rdma_port, config.rdma_device.as_deref()), (7471, Some("mlx5_0")));
    assert!(config.rdma_direct_write);
    let shown = get(&config, &[b"rdma-*"]);
    assert_eq!(
        shown.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(),
        [
            ("rdma-bind", "fd00::7"),
            ("rdma-port", "7471"),
            ("rdma-device", "mlx5_0"),
            ("rdma-direct-write", "yes")
        ]
    );
    for name in ["rdma-bind", "rdma-port", "rdma-device", "rdma-direct-write", "fabric"] {
        assert!(set_one(&mut config, name, "").is_err(), "{name} is set at start only");
    }
}

#[test]
fn value_behind_a_flag_is_a_value_even_with_dashes() {
    let config = flags(&["--requirepass", "--secret", "--port", "1"]).unwrap().config;
    assert_eq!(config.requirepass.as_deref(), Some("--secret"));
    assert_eq!(config.port, 1);
    assert_eq!(flags(&["--save", "--port", "2"]).unwrap().config.port, 2);
    assert_eq!(flags(&["--bind", "a", "b", "--port", "3"]).unwrap().config.bind, ["a", "b"]);
    assert_eq!(flags(&["--replicaof", "h 6379"]).unwrap().config.replicaof.unwrap().port, 6379);
    assert_eq!(flags(&["--replicaof h 6379"]).unwrap().config.replicaof.unwrap().port, 6379);
}

#[test]
fn bad_lines_are_named_as_redis_names_them() {
    for (line, reason) in [
        ("port", "wrong number of arguments"),
        ("port 1 2", "wrong number of arguments"),
        ("port x", "argument couldn't be parsed into an integer"),
        ("foo bar", "Bad directive or wrong number of arguments"),
        ("port \"1", "Unbalanced quotes in configuration line"),
        ("rename-command a", "Bad directive or wrong number of arguments"),
        ("replicaof a", "wrong number of arguments"),
        ("replicaof a 99999", "Invalid master port"),
        ("client-output-buffer-limit normal 1", "Wrong number of arguments in buffer limit configuration."),
        ("save 1", "Invalid save parameters"),
        (
            "loglevel foo",
            "argument(s) must be one of the following: debug, verbose, notice, warning, nothing",
        ),
        ("timeout -1", "argument must be between 0 and 2147483647 inclusive"),
        ("maxmemory 1x", "argument must be a memory value"),
        ("databases 0", "argument must be between 1 and 2147483647 inclusive"),
        ("daemonize x", "argument must be 'yes' or 'no'"),
        ("unixsocketperm 999", "argument couldn't be parsed as an octal number"),
        ("rdma-bind rxe0", "must be the IP address of an RDMA device"),
        ("rdma-port 65536", "argument must be between 0 and 65535 inclusive"),
        ("rdma-direct-write perhaps", "argument must be 'yes' or 'no'"),
        ("on-follower-loss maybe", "argument(s) must be one of the following: refuse, degrade"),
    ] {
        let error = from_file(&format!("\n# c\n{line}\n")).unwrap_err();
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines[0].starts_with("*** FATAL CONFIG FILE ERROR (Farkeep "), "{error}");
        assert!(lines[1].starts_with("Reading the configuration file ") && lines[1].ends_with(", at line 3"));
        assert_eq!(lines[2], format!(">>> '{line}'"));
        assert_eq!(lines[3], reason, "{line}");
    }
    assert!(from_file("include /nonexistent").unwrap_err().contains("can't open config file '/nonexistent'"));
}

#[test]
fn what_would_be_a_false_promise_is_refused_and_the_rest_is_kept_with_a_warning() {
    for line in [
        "tls-port 6380",
        "cluster-enabled yes",
        "aclfile /x",
        "user bob on",
        "loadmodule /x.so",
        "maxmemory-policy allkeys-lru",
        "replica-read-only no",
        "notify-keyspace-events KEA",
    ] {
        assert!(from_file(line).is_err(), "{line}");
    }
    let loaded =
        from_file("save 900 1\nsave 300 10\nappendonly yes\nrepl-backlog-size 1mb\ntls-port 0\n").unwrap();
    assert_eq!(value_of(&loaded.config, "save"), "900 1 300 10");
    assert_eq!(value_of(&loaded.config, "appendonly"), "yes");
    assert_eq!(loaded.warnings.len(), 3, "{:?}", loaded.warnings);
}

/// How often followers are sent a heartbeat follows from `repl-timeout`.
#[test]
fn a_period_of_pings_is_kept_and_the_operator_is_told_that_it_has_no_effect() {
    let told = ["directive 'repl-ping-replica-period' is accepted for compatibility and has no effect"];
    let mut config = Config::default();
    let changed = set(&mut config, &[(b"repl-ping-slave-period", b"3")]).unwrap();
    assert_eq!(changed.warnings, told);
    assert_eq!(value_of(&config, "repl-ping-replica-period"), "3");
    let loaded = from_file("repl-ping-replica-period 3").unwrap();
    assert_eq!((loaded.warnings, loaded.config), (told.map(str::to_owned).to_vec(), config));
}

#[test]
fn includes_are_read_in_place_and_may_have_wildcards() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("b.inc", "timeout 2\nhz 20"), ("a.inc", "timeout 1"), ("c.other", "timeout 3")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("farkeep.conf");
    std::fs::write(&path, format!("timeout 9\ninclude {}/*.inc\nhz 30\n", folder.path().display())).unwrap();
    let config = load(Some(&path), &[]).unwrap().config;
    assert_eq!((config.timeout_s, config.hz), (2, 30));
    std::fs::write(&path, format!("include {}\n", path.display())).unwrap();
    assert!(load(Some(&path), &[]).unwrap_err().to_string().contains("too deep"));
}

#[test]
fn config_get_takes_names_aliases_and_patterns() {
    let config = Config::default();
    let names =
        |patterns: &[&[u8]]| get(&config, patterns).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&[b"p?rt", b"PORT"]), ["port"]);
    assert_eq!(names(&[b"TimeOut"]), ["TimeOut"]);
    assert_eq!(names(&[b"slave-priority", b"replica-priority"]), ["slave-priority", "replica-priority"]);
    assert_eq!(names(&[b"nosuch"]), Vec::<String>::new());
    assert_eq!(get(&config, &[b"maxmemory"]), [("maxmemory".to_owned(), "0".to_owned())]);
    let all = names(&[b"*"]);
    assert!(all.len() > 190);
    assert!(all.iter().any(|name| name == "slaveof"));
}

#[test]
fn config_set_refuses_as_redis_does() {
    let mut config = Config::default();
    let failed = |name: &str, reason: &str| {
        Err(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}"))
    };
    assert_eq!(set_one(&mut config, "databases", "5"), failed("databases", "can't set immutable config"));
    assert_eq!(set_one(&mut config, "dir", "/"), failed("dir", "can't set protected config"));
    assert_eq!(
        set_one(&mut config, "proto-max-bulk-len", "1"),
        failed("proto-max-bulk-len", "argument must be between 1048576 and 9223372036854775807 inclusive")
    );
    assert_eq!(
        set_one(&mut config, "maxmemory-clients", "10x"),
        failed("maxmemory-clients", "argument must be a memory or percent value")
    );
    assert_eq!(
        set_one(&mut config, "nosuch", "1"),
        Err("ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'".to_owned())
    );
    let twice: [(&[u8], &[u8]); 2] = [(b"timeout", b"1"), (b"TIMEOUT", b"2")];
    assert_eq!(
        set(&mut config, &twice).unwrap_err().to_string(),
        failed("TIMEOUT", "duplicate parameter").unwrap_err()
    );
    assert_eq!(config, Config::default());
}

#[test]
fn config_set_sets_all_pairs_or_none() {
    let mut config = Config::default();
    let pairs: [(&[u8], &[u8]); 3] = [(b"timeout", b"5"), (b"loglevel", b"foo"), (b"maxclients", b"7")];
    set(&mut config, &pairs).unwrap_err();
    assert_eq!(config, Config::default());
    let pairs: [(&[u8], &[u8]); 3] = [(b"Timeout", b"5"), (b"loglevel", b"DEBUG"), (b"maxclients", b"10000")];
    let changed = set(&mut config, &pairs).unwrap();
    assert_eq!(changed.names, ["timeout", "loglevel"]);
    assert_eq!((config.timeout_s, config.loglevel), (5, LogLevel::Debug));
    set_one(&mut config, "client-output-buffer-limit", "normal 1mb 2kb 3").unwrap();
    assert_eq!(
        value_of(&config, "client-output-buffer-limit"),
        "normal 1048576 2048 3 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
    );
    set_one(&mut config, "hz", "1000").unwrap();
    assert_eq!(config.hz, 500);
}

#[test]
fn rewriting_keeps_comments_order_and_what_has_not_changed() {
    let old = "# head\nport 7000\ntimeout 1\ntimeout   5\n\n# tail\nslaveof no one\nmaxmemory 100mb\nsave 60 1\n\
               rename-command DEBUG \"\"\nhash-max-ziplist-entries 100\nlogfile ''\nrequirepass 'a b'\n";
    let mut config = from_file(old).unwrap().config;
    assert_eq!(rewritten(&config, old), old);
    set_one(&mut config, "timeout", "7").unwrap();
    set_one(&mut config, "maxmemory", "2000000001").unwrap();
    set_one(&mut config, "hash-max-listpack-entries", "9").unwrap();
    set_one(&mut config, "requirepass", "c\"d").unwrap();
    set_one(&mut config, "sync-followers", "2").unwrap();
    set_one(&mut config, "save", "").unwrap();
    config.replicaof = Some(LeaderAddress { host: "h".to_owned(), port: 1 });
    let new = rewritten(&config, old);
    assert_eq!(
        new,
        "# head\nport 7000\ntimeout 7\n\n# tail\nreplicaof h 1\nmaxmemory 2000000001\nsave \"\"\n\
         rename-command DEBUG \"\"\nhash-max-listpack-entries 9\nlogfile ''\nrequirepass \"c\\\"d\"\n\n\
         # Generated by CONFIG REWRITE\nsync-followers 2\n"
    );
    config.replicaof = None;
    set_one(&mut config, "sync-followers", "0").unwrap();
    let newer = rewritten(&config, &new);
    assert!(
        !newer.contains("replicaof") && newer.ends_with("# Generated by CONFIG REWRITE\nsync-followers 0\n")
    );
    assert_eq!(from_file(&newer).unwrap().config, config);
}

#[test]
fn rewriting_overrules_included_files() {
    let folder = tempfile::tempdir().unwrap();
    let (path, included) = (folder.path().join("farkeep.conf"), folder.path().join("x.inc"));
    std::fs::write(&included, "hz 20\n").unwrap();
    std::fs::write(&path, format!("hz 15\ninclude {}\n", included.display())).unwrap();
    let mut config = load(Some(&path), &[]).unwrap().config;
    set_one(&mut config, "hz", "15").unwrap();
    rewrite(&config, &path).unwrap();
    assert_eq!(load(Some(&path), &[]).unwrap().config, config);
}

#[test]
fn rewriting_replaces_the_file_and_leaves_nothing_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("real.conf"), folder.path().join("link.conf"));
    std::fs::write(&path, "timeout 1\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let config = Config { timeout_s: 3, ..Config::default() };
    rewrite(&config, &link).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "timeout 3\n");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn every_directive_survives_rewriting() {
    for directive in table::all() {
        let default = Config::default();
        let value = directive.get(&default);
        let mut config = Config::default();
        directive.set_text(&mut config, &value).unwrap_or_else(|error| {
            assert!(directive.name == "replicaof", "{}: {error}", directive.name);
            None
        });
        if directive.name != "dir" {
            assert_eq!(directive.get(&config), value, "{}", directive.name);
        }
    }
}

#[test]
fn protected_mode_keeps_strangers_out_until_there_is_a_password() {
    let mut config = Config::default();
    for local in ["127.0.0.1:5", "[::1]:5", "/run/x.sock:0", "[::ffff:127.0.0.1]:5"] {
        assert_eq!(config.protected_mode_refusal(local), None);
    }
    assert!(config.protected_mode_refusal("10.0.0.1:5").is_some_and(|text| text.starts_with("-DENIED ")));
    config.requirepass = Some("x".to_owned());
    assert_eq!(config.protected_mode_refusal("10.0.0.1:5"), None);
}

#[test]
fn every_directive_of_redis_is_known_with_its_default() {
    // What differs by intent: no snapshots, what the command line of this test sets, and our own place of work.
    const DIFFERENT: &[&str] =
        &["save", "port", "bind", "dir", "unixsocket", "maxclients", "oom-score-adj-values"];
    let mut redis = oracle::Redis::start();
    let Reply::Map(pairs) = redis.ask(&["CONFIG", "GET", "*"]) else {
        panic!("CONFIG GET replies with a map")
    };
    let text = |reply: &Reply| match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("a bulk string, not {other:?}"),
    };
    let ours: BTreeMap<String, String> = get(&Config::default(), &[b"*"]).into_iter().collect();
    assert!(pairs.len() > 190);
    for (name, value) in &pairs {
        let (name, value) = (text(name), text(value));
        let our_value = ours.get(&name).unwrap_or_else(|| panic!("{name} is not known"));
        if !DIFFERENT.contains(&name.as_str()) {
            assert_eq!(*our_value, value, "{name}");
        }
    }
}

#[test]
fn config_set_is_refused_in_the_words_of_redis() {
    let mut redis = oracle::Redis::start();
    for words in [
        "timeout x",
        "timeout -1",
        "timeout 2147483648",
        "protected-mode maybe",
        "maxmemory 1zz",
        "maxmemory -1",
        "maxmemory-clients 10x",
        "maxmemory-clients 101%",
        "nosuch 1",
        "nosuch 1 databases 5",
        "databases 5 nosuch 1",
        "databases 5",
        "dir /",
        "timeout 1 timeout 2",
        "client-output-buffer-limit normal",
        "maxclients 0",
        "repl-timeout 0",
        "proto-max-bulk-len 1",
        "save a",
        "replicaof a",
        "io-threads 4",
        "appendfsync sometimes",
        "slowlog-max-len -1",
        "active-expire-effort 11",
        "unixsocketperm 1",
        "tcp-keepalive 1.5",
        "hz many",
        "timeout 5 appendfsync no maxclients x",
        "replica-priority -1",
        "slave-priority -1",
        "lua-time-limit -1",
        "TimeOut x",
        "TIMEOUT 1 timeout 2",
        "timeout 1 TIMEOUT 2",
        "DATABASES 5",
        "NoSuch 5",
        "replica-read-only abc",
        "slave-read-only 1",
        "tls-replication maybe",
        "repl-backlog-size 0",
        "repl-backlog-size abc",
        "repl-backlog-ttl -1",
        "repl-backlog-ttl 9223372036854775808",
        "repl-ping-replica-period 0",
        "min-slaves-to-write -1",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let Reply::Error(theirs) = redis.ask(&[["CONFIG", "SET"].as_slice(), &words].concat()) else {
            panic!("redis-server accepts {words:?}")
        };
        let pairs: Vec<(&[u8], &[u8])> =
            words.chunks_exact(2).map(|pair| (pair[0].as_bytes(), pair[1].as_bytes())).collect();
        let ours = set(&mut Config::default(), &pairs).unwrap_err().to_string();
        assert_eq!(ours, String::from_utf8_lossy(&theirs), "{words:?}");
    }
}

#[test]
fn config_set_makes_of_a_value_what_redis_makes_of_it() {
    let mut redis = oracle::Redis::start();
    for (name, value) in [
        ("repl-backlog-size", "100"),
        ("repl-backlog-size", "16383"),
        ("repl-backlog-size", "17kb"),
        ("repl-backlog-ttl", "99999999999"),
        ("repl-backlog-ttl", "9223372036854775807"),
        ("replica-read-only", "YES"),
        ("min-replicas-max-lag", "2147483647"),
    ] {
        redis.ask(&["CONFIG", "SET", name, value]);
        let Reply::Map(pairs) = redis.ask(&["CONFIG", "GET", name]) else { panic!("a map") };
        let mut config = Config::default();
        set_one(&mut config, name, value).unwrap_or_else(|error| panic!("{name} {value}: {error}"));
        assert_eq!(Reply::Bulk(value_of(&config, name).into_bytes()), pairs[0].1, "{name} {value}");
    }
}

fn value_of(config: &Config, name: &str) -> String {
    get(config, &[name.as_bytes()]).pop().map(|(_, value)| value).unwrap_or_default()
}

/// The file that a package installs.
#[test]
fn packaged_configuration_is_taken_without_a_warning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/farkeep.conf");
    let loaded = load(Some(&path), &[]).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.config.sync_followers, 1);
    assert_eq!(loaded.config.http_port, 6380);
}
