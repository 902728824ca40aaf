//! Commands about the process: CONFIG, TIME, SHUTDOWN, DEBUG.

use std::sync::atomic::Ordering;
use std::time::Duration;

use farkeep_keystore::ReadCtx;
use farkeep_keystore::command::table::ReadHandler;
use farkeep_keystore::command::{self, Handler};
use farkeep_proto::resp::Encoder;
use farkeep_proto::resp::client::{Reply, decode_reply};

use super::subcommand::{self, Subcommand};
use super::{Call, Flow, entries};
use crate::config::{self, DebugCommand};

/// In the order of the help text.
pub const CONFIG_SUBCOMMANDS: &[Subcommand] = &[
    ("get", config_get),
    ("set", config_set),
    ("resetstat", config_resetstat),
    ("rewrite", config_rewrite),
    ("help", config_help),
];

fn ok(call: &mut Call<'_>) -> Flow {
    call.reply().ok();
    Flow::Continue
}

fn refuse(call: &mut Call<'_>, text: &str) -> Flow {
    call.error(text);
    Flow::Continue
}

/// CONFIG subcommand …
pub fn config(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    subcommand::run(call, "config", CONFIG_SUBCOMMANDS, argv)
}

/// Reads what is in force now and not at the start of the turn: a CONFIG SET may precede it in the same
/// pipeline.
fn config_get(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let found = config::get(&call.node.config(), &argv[2..]);
    let mut reply = call.reply();
    reply.map(found.len());
    for (name, value) in &found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Flow::Continue
}

fn config_set(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if !argv.len().is_multiple_of(2) {
        return refuse(call, "ERR syntax error");
    }
    let pairs: Vec<(&[u8], &[u8])> = argv[2..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let result = call.node.update_config(|config| config::set(config, &pairs));
    match result {
        Err(error) => refuse(call, &error.to_string()),
        Ok(changed) => {
            for warning in &changed.warnings {
                tracing::warn!("{warning}");
            }
            let config = call.node.config();
            if changed.names.contains(&"loglevel") {
                crate::cli::log::set_level(&config.loglevel.to_string());
            }
            call.engine.reconfigure(call.node, &config);
            ok(call)
        }
    }
}

fn config_resetstat(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.node.stats.reset();
    call.engine.reset_stats();
    for (_, entry) in entries() {
        entry.reset();
    }
    ok(call)
}

fn config_rewrite(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let Some(path) = &call.node.config_file else {
        return refuse(call, "ERR The server is running without a config file");
    };
    match config::rewrite(&call.node.config(), path) {
        Ok(()) => {
            tracing::info!("CONFIG REWRITE executed with success.");
            ok(call)
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "CONFIG REWRITE failed");
            refuse(call, &format!("ERR Rewriting config file: {error}"))
        }
    }
}

fn config_help(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    const HELP: &[&str] = &[
        "GET <pattern>",
        "    Return parameters matching the glob-like <pattern> and their values.",
        "SET <directive> <value>",
        "    Set the configuration <directive> to <value>.",
        "RESETSTAT",
        "    Reset statistics reported by the INFO command.",
        "REWRITE",
        "    Rewrite the configuration file.",
    ];
    subcommand::help(call, "CONFIG", HELP);
    Flow::Continue
}

/// TIME
pub fn time(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk_int(now.as_secs() as i64);
    reply.bulk_int(i64::from(now.subsec_micros()));
    Flow::Continue
}

/// What SHUTDOWN was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    Stop,
    Abort,
}

/// SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE] [ABORT]
///
/// There is nothing to save, since what was acknowledged is durable already; so SAVE and NOSAVE mean the
/// same, and a stop begins at once and cannot be aborted.
pub fn shutdown(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    match shutdown_options(&argv[1..]) {
        None => refuse(call, "ERR syntax error"),
        Some(Shutdown::Abort) => refuse(call, "ERR No shutdown in progress."),
        Some(Shutdown::Stop) => {
            tracing::info!("User requested shutdown...");
            call.node.stop();
            Flow::Close
        }
    }
}

fn shutdown_options(words: &[&[u8]]) -> Option<Shutdown> {
    let (mut save, mut nosave, mut other, mut abort) = (false, false, false, false);
    for word in words {
        match word.to_ascii_lowercase().as_slice() {
            b"save" => save = true,
            b"nosave" => nosave = true,
            b"now" | b"force" => other = true,
            b"abort" => abort = true,
            _ => return None,
        }
    }
    match (abort, save || nosave || other) {
        _ if save && nosave => None,
        (true, true) => None,
        (true, false) => Some(Shutdown::Abort),
        (false, _) => Some(Shutdown::Stop),
    }
}

const DEBUG_REFUSED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you \
     can run it from a local connection, otherwise you need to set this option in the configuration file, and then \
     restart the server.";

/// DEBUG subcommand …
pub fn debug(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let allowed = match call.config.enable_debug_command {
        DebugCommand::Yes => true,
        DebugCommand::Local => is_local(&call.session.client.peer),
        DebugCommand::No => false,
    };
    if !allowed {
        return refuse(call, DEBUG_REFUSED);
    }
    let is = |wanted: &str| argv[1].eq_ignore_ascii_case(wanted.as_bytes());
    match argv {
        [_, _, seconds] if is("sleep") => {
            std::thread::sleep(sleep_time(seconds));
            ok(call)
        }
        [_, _, flag] if is("set-active-expire") => {
            call.node.active_expire.store(leading_float(flag) as i64 != 0, Ordering::Relaxed);
            ok(call)
        }
        [_, _, flag] if is("set-replay") => {
            call.node.replay_paused.store(leading_float(flag) as i64 == 0, Ordering::Relaxed);
            call.node.replay.raise();
            ok(call)
        }
        [_, _, key] if is("object") => debug_object(call, key),
        [_, _] if is("help") => debug_help(call),
        _ => {
            subcommand::syntax_error(call, "debug", argv[1]);
            Flow::Continue
        }
    }
}

fn is_local(peer: &str) -> bool {
    peer.starts_with('/') || peer.starts_with("127.0.0.1:") || peer.starts_with("[::1]:")
}

/// The whole server stands still for so long: the engine is held. That is what the command is for.
fn sleep_time(seconds: &[u8]) -> Duration {
    Duration::try_from_secs_f64(leading_float(seconds)).unwrap_or(Duration::ZERO)
}

/// The number a text begins with, or 0, as C's `strtod` has it and DEBUG relies on.
fn leading_float(text: &[u8]) -> f64 {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_start();
    (1..=text.len()).rev().filter_map(|end| text.get(..end)?.parse().ok()).next().unwrap_or(0.0)
}

/// DEBUG OBJECT key: the line that test suites parse the encoding out of. There is neither a serialised form
/// nor an access time that it could speak of.
fn debug_object(call: &mut Call<'_>, key: &[u8]) -> Flow {
    let Some(handler) = object_encoding() else { return refuse(call, "ERR OBJECT is not available") };
    let mut encoded = Vec::new();
    let result = {
        let (view, ks) = match call.engine.read_parts() {
            Ok(parts) => parts,
            Err(error) => return refuse(call, &error.reply()),
        };
        let mut ctx = ReadCtx { view, ks, db: call.session.db, now_ms: call.now.unix_ms };
        handler(&mut ctx, &[b"object", b"encoding", key], &mut Encoder::new(&mut encoded, false))
    };
    if let Err(error) = result {
        return refuse(call, &error.reply());
    }
    let Ok(Some((Reply::Bulk(encoding), _))) = decode_reply(&encoded) else {
        return refuse(call, "ERR no such key");
    };
    let encoding = String::from_utf8_lossy(&encoding).into_owned();
    call.reply().simple(&format!("Value at:0x0 refcount:1 encoding:{encoding} lru:0 lru_seconds_idle:0"));
    Flow::Continue
}

/// The keystore's OBJECT ENCODING.
fn object_encoding() -> Option<ReadHandler> {
    let object = command::lookup(b"object")?;
    match (object.subcommand(b"encoding").map(|command| command.handler), object.handler) {
        (Some(Handler::Read(handler)), _) | (_, Handler::Read(handler)) => Some(handler),
        _ => None,
    }
}

fn debug_help(call: &mut Call<'_>) -> Flow {
    const HELP: &[&str] = &[
        "OBJECT <key>",
        "    Show low level info about `key` and associated value.",
        "SET-ACTIVE-EXPIRE <0|1>",
        "    Setting it to 0 disables expiring keys in background when they are not",
        "    accessed (otherwise the Redis behavior). Setting it to 1 reenables back the",
        "    default.",
        "SET-REPLAY <0|1>",
        "    Setting it to 0 makes the replayer stand still: nothing that is committed",
        "    gets into the image until it is set to 1 again. A follower then serves stale",
        "    reads; writes wait once the log is full.",
        "SLEEP <seconds>",
        "    Stop the server for <seconds>. Decimals allowed.",
    ];
    subcommand::help(call, "DEBUG", HELP);
    Flow::Continue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_takes_the_options_redis_takes() {
        let options =
            |words: &[&str]| shutdown_options(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        assert_eq!(options(&[]), Some(Shutdown::Stop));
        assert_eq!(options(&["NOSAVE", "now", "Force"]), Some(Shutdown::Stop));
        assert_eq!(options(&["abort"]), Some(Shutdown::Abort));
        for bad in [&["save", "nosave"][..], &["abort", "now"], &["abort", "save"], &["later"]] {
            assert_eq!(options(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sleep_reads_a_number_as_c_does() {
        for (text, ms) in
            [("0.1", 100), ("1", 1000), ("0.25x", 250), ("x", 0), ("", 0), ("-1", 0), (" 2", 2000)]
        {
            assert_eq!(sleep_time(text.as_bytes()), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_local() {
        assert!(is_local("127.0.0.1:5") && is_local("[::1]:5") && is_local("/tmp/s:0"));
        assert!(!is_local("10.0.0.1:5"));
    }
}
