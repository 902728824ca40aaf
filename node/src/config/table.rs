//! The directives that have an effect.

use super::directive::{Directive, Form};
use super::value::{
    Choice, Invalid, MemoryOrPercent, one, parse_bool, parse_integer, parse_memory, parse_octal, yes_no,
};
use super::{
    ClientClass, Config, DebugCommand, DurabilityChoice, EvictionPolicy, FabricChoice, LeaderAddress,
    LogFormat, LogLevel, OnFollowerLoss, OutputBufferLimit, table_kept,
};

const INT_MAX: i64 = i32::MAX as i64;

macro_rules! boolean {
    ($name:literal, $field:ident) => {
        Directive::field(
            $name,
            |config| yes_no(config.$field),
            |config, args| parse_bool(one(args)?).map(|value| config.$field = value),
        )
    };
}

macro_rules! integer {
    ($name:literal, $field:ident, $min:expr, $max:expr) => {
        Directive::field(
            $name,
            |config| config.$field.to_string(),
            |config, args| parse_integer(one(args)?, $min, $max).map(|value| config.$field = value as _),
        )
    };
}

macro_rules! bytes {
    ($name:literal, $field:ident, $min:expr, $max:expr) => {
        Directive::field(
            $name,
            |config| config.$field.to_string(),
            |config, args| parse_memory(one(args)?, $min, $max).map(|value| config.$field = value as _),
        )
        .form(Form::Bytes)
    };
}

macro_rules! word {
    ($name:literal, $field:ident: $kind:ty) => {
        Directive::field(
            $name,
            |config| config.$field.to_string(),
            |config, args| <$kind as Choice>::parse(one(args)?).map(|value| config.$field = value),
        )
    };
}

macro_rules! text {
    ($name:literal, $field:ident) => {
        Directive::field(
            $name,
            |config| config.$field.clone(),
            |config, args| one(args).map(|value| config.$field = value.to_owned()),
        )
        .form(Form::Quoted)
    };
}

macro_rules! optional_text {
    ($name:literal, $field:ident) => {
        Directive::field(
            $name,
            |config| config.$field.clone().unwrap_or_default(),
            |config, args| {
                one(args).map(|value| config.$field = (!value.is_empty()).then(|| value.to_owned()))
            },
        )
        .form(Form::Quoted)
    };
}

static TABLE: &[Directive] = &[
    // Network.
    integer!("port", port, 0, 65535).at_start(),
    Directive::field("bind", |config| config.bind.join(" "), set_bind).many().at_start(),
    integer!("tcp-backlog", tcp_backlog, 0, INT_MAX).at_start(),
    optional_text!("unixsocket", unixsocket).at_start(),
    Directive::field(
        "unixsocketperm",
        |config| format!("{:o}", config.unixsocketperm),
        |config, args| parse_octal(one(args)?, 0o777).map(|value| config.unixsocketperm = value),
    )
    .at_start(),
    integer!("timeout", timeout_s, 0, INT_MAX),
    integer!("tcp-keepalive", tcp_keepalive_s, 0, INT_MAX),
    boolean!("protected-mode", protected_mode),
    integer!("maxclients", maxclients, 1, 4_294_967_295),
    bytes!("proto-max-bulk-len", proto_max_bulk_len, 1 << 20, i64::MAX),
    bytes!("client-query-buffer-limit", client_query_buffer_limit, 1 << 20, i64::MAX),
    Directive::field("client-output-buffer-limit", output_buffer_limits, set_output_buffer_limits)
        .form(Form::Fours)
        .many(),
    integer!("io-threads", io_threads, 1, 128).at_start(),
    // Process.
    integer!("databases", databases, 1, INT_MAX).at_start(),
    word!("loglevel", loglevel: LogLevel),
    text!("logfile", logfile).at_start(),
    word!("log-format", log_format: LogFormat).at_start(),
    boolean!("daemonize", daemonize).at_start(),
    text!("pidfile", pidfile).at_start(),
    Directive::field("dir", working_directory, |config, args| {
        one(args).map(|path| config.dir = Some(path.into()))
    })
    .form(Form::Quoted)
    .protected(),
    Directive::field(
        "hz",
        |config| config.hz.to_string(),
        // Redis takes any integer and clamps it.
        |config, args| {
            parse_integer(one(args)?, 0, INT_MAX).map(|value| config.hz = value.clamp(1, 500) as u32)
        },
    ),
    word!("enable-debug-command", enable_debug_command: DebugCommand).at_start(),
    // Authentication.
    optional_text!("requirepass", requirepass),
    optional_text!("masteruser", masteruser),
    optional_text!("masterauth", masterauth),
    // Replication.
    Directive::field("replicaof", leader_address, set_replicaof)
        .alias("slaveof")
        .form(Form::PlainIfSet)
        .many()
        .at_start(),
    optional_text!("replica-announce-ip", replica_announce_ip).alias("slave-announce-ip"),
    integer!("replica-announce-port", replica_announce_port, 0, 65535).alias("slave-announce-port"),
    boolean!("replica-announced", replica_announced),
    integer!("replica-priority", replica_priority, 0, INT_MAX).alias("slave-priority"),
    boolean!("replica-serve-stale-data", replica_serve_stale_data).alias("slave-serve-stale-data"),
    integer!("repl-timeout", repl_timeout_s, 1, INT_MAX),
    integer!("min-replicas-to-write", min_replicas_to_write, 0, INT_MAX).alias("min-slaves-to-write"),
    integer!("min-replicas-max-lag", min_replicas_max_lag_s, 0, INT_MAX).alias("min-slaves-max-lag"),
    // Memory and encodings.
    bytes!("maxmemory", maxmemory, 0, i64::MAX),
    word!("maxmemory-policy", maxmemory_policy: EvictionPolicy),
    integer!("hash-max-listpack-entries", hash_max_listpack_entries, 0, i64::MAX)
        .alias("hash-max-ziplist-entries"),
    bytes!("hash-max-listpack-value", hash_max_listpack_value, 0, i64::MAX).alias("hash-max-ziplist-value"),
    // What Redis does not have.
    integer!("http-port", http_port, 0, 65535).at_start(),
    Directive::field("http-bind", |config| config.http_bind.to_string(), set_http_bind)
        .form(Form::Quoted)
        .at_start(),
    boolean!("http-actions", http_actions).at_start(),
    Directive::field(
        "pool",
        |config| config.pool.display().to_string(),
        |config, args| match one(args)? {
            "" => Err("the pool needs a directory".into()),
            path => {
                config.pool = path.into();
                Ok(())
            }
        },
    )
    .form(Form::Quoted)
    .at_start(),
    Directive::field(
        "log",
        |config| config.log.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        |config, args| one(args).map(|path| config.log = (!path.is_empty()).then(|| path.into())),
    )
    .form(Form::Quoted)
    .at_start(),
    bytes!("log-size", log_size, 4 << 20, 1 << 44).at_start(),
    integer!("sync-followers", sync_followers, 0, 64),
    word!("on-follower-loss", on_follower_loss: OnFollowerLoss),
    boolean!("read-commit", read_commit),
    word!("fabric", fabric: FabricChoice).at_start(),
    Directive::field(
        "rdma-bind",
        |config| config.rdma_bind.map(|address| address.to_string()).unwrap_or_default(),
        set_rdma_bind,
    )
    .form(Form::Quoted)
    .at_start(),
    integer!("rdma-port", rdma_port, 0, 65535).at_start(),
    optional_text!("rdma-device", rdma_device).at_start(),
    boolean!("rdma-direct-write", rdma_direct_write).at_start(),
    bytes!("sync-max-rate", sync_max_rate, 0, i64::MAX),
    integer!("scrub-interval", scrub_interval_s, 0, INT_MAX),
    boolean!("replace-dataset", replace_dataset),
    word!("durability", durability: DurabilityChoice).at_start(),
    integer!("commit-timeout", commit_timeout_ms, 1, INT_MAX),
    integer!("log-full-timeout", log_full_timeout_ms, 0, INT_MAX),
    Directive::field(
        "dram-budget",
        |config| config.dram_budget.to_string(),
        |config, args| MemoryOrPercent::parse(one(args)?).map(|value| config.dram_budget = value),
    ),
];

/// Every directive, those without effect included.
pub(super) fn all() -> impl Iterator<Item = &'static Directive> {
    TABLE.iter().chain(table_kept::TABLE)
}

/// The directive of this name or alias, whatever its case.
pub(super) fn find(name: &str) -> Option<&'static Directive> {
    all().find(|directive| {
        directive.name.eq_ignore_ascii_case(name)
            || directive.alias.is_some_and(|alias| alias.eq_ignore_ascii_case(name))
    })
}

fn set_bind(config: &mut Config, args: &[&str]) -> Result<(), Invalid> {
    const MAX_ADDRESSES: usize = 16;
    if args.len() > MAX_ADDRESSES {
        return Err("Too many bind addresses specified.".into());
    }
    config.bind = args.iter().filter(|address| !address.is_empty()).map(ToString::to_string).collect();
    Ok(())
}

fn set_http_bind(config: &mut Config, args: &[&str]) -> Result<(), Invalid> {
    config.http_bind = one(args)?.parse().map_err(|_| "must be one IP address")?;
    Ok(())
}

fn set_rdma_bind(config: &mut Config, args: &[&str]) -> Result<(), Invalid> {
    config.rdma_bind = match one(args)? {
        "" => None,
        text => Some(text.parse().map_err(|_| "must be the IP address of an RDMA device")?),
    };
    Ok(())
}

fn working_directory(config: &Config) -> String {
    let current = || std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    match &config.dir {
        Some(dir) => std::fs::canonicalize(dir).map_or_else(|_| current(), |dir| dir.display().to_string()),
        None => current(),
    }
}

fn leader_address(config: &Config) -> String {
    config.replicaof.as_ref().map(|leader| format!("{} {}", leader.host, leader.port)).unwrap_or_default()
}

fn set_replicaof(config: &mut Config, args: &[&str]) -> Result<(), Invalid> {
    // On a command line the two words may well come as one.
    let words: Vec<&str> = args.iter().flat_map(|arg| arg.split_ascii_whitespace()).collect();
    let [host, port] = words[..] else { return Err("wrong number of arguments".into()) };
    if host.eq_ignore_ascii_case("no") && port.eq_ignore_ascii_case("one") {
        config.replicaof = None;
        return Ok(());
    }
    let port = parse_integer(port, 0, 65535).map_err(|_| "Invalid master port")?;
    config.replicaof = Some(LeaderAddress { host: host.to_owned(), port: port as u16 });
    Ok(())
}

fn output_buffer_limits(config: &Config) -> String {
    // Redis prints the class of followers by its old name.
    let lines: Vec<String> = ["normal", "slave", "pubsub"]
        .iter()
        .zip(&config.client_output_buffer_limit)
        .map(|(class, limit)| format!("{class} {} {} {}", limit.hard_bytes, limit.soft_bytes, limit.soft_s))
        .collect();
    lines.join(" ")
}

fn set_output_buffer_limits(config: &mut Config, args: &[&str]) -> Result<(), Invalid> {
    if args.is_empty() || !args.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    let mut limits = config.client_output_buffer_limit;
    for four in args.chunks(4) {
        let class = match four[0].to_ascii_lowercase().as_str() {
            "normal" => ClientClass::Normal,
            "slave" | "replica" => ClientClass::Replica,
            "pubsub" => ClientClass::Pubsub,
            _ => return Err("Invalid client class specified in buffer limit configuration.".into()),
        };
        let bad =
            || Invalid::from("Error in hard, soft or soft_seconds setting in buffer limit configuration.");
        let hard = super::value::memory(four[1]).ok_or_else(bad)?;
        let soft = super::value::memory(four[2]).ok_or_else(bad)?;
        let soft_s: u64 = four[3].parse().map_err(|_| bad())?;
        limits[class as usize] =
            OutputBufferLimit { hard_bytes: hard as usize, soft_bytes: soft as usize, soft_s };
    }
    config.client_output_buffer_limit = limits;
    Ok(())
}
