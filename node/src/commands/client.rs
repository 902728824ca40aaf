//! CLIENT: what the connections of this process are, and what can be done to them.
//!
//! A connection belongs to one worker; others see its [`Client`] and ask its worker for the rest. Client-side
//! caching is not supported: CLIENT TRACKING ON says so, and what depends on it answers as Redis does with
//! tracking off.

mod filter;
mod line;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use farkeep_proto::number::parse_i64;

use super::subcommand::{self, Subcommand};
use super::{Call, Flow};
use crate::clients::Client;
use crate::worker::connection::ReplyMode;
use filter::{Filter, Kind};

/// What a name may not contain, in Redis's words.
pub const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// Redis's answer to options it cannot make sense of.
const SYNTAX: &str = "ERR syntax error";

/// In the order of the help text.
pub const SUBCOMMANDS: &[Subcommand] = &[
    ("caching", caching),
    ("getredir", getredir),
    ("getname", getname),
    ("id", id),
    ("info", info),
    ("kill", kill),
    ("list", list),
    ("unpause", unpause),
    ("pause", pause),
    ("reply", reply),
    ("setname", setname),
    ("unblock", unblock),
    ("tracking", tracking),
    ("trackinginfo", trackinginfo),
    ("no-evict", no_evict),
    ("help", help),
];

/// CLIENT subcommand …
pub fn client(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    subcommand::run(call, "client", SUBCOMMANDS, argv)
}

/// Whether a connection may be called so: printable ASCII without spaces, since names stand in CLIENT LIST's
/// lines.
pub fn is_valid_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn ok(call: &mut Call<'_>) -> Flow {
    call.reply().ok();
    Flow::Continue
}

fn refuse(call: &mut Call<'_>, text: &str) -> Flow {
    call.error(text);
    Flow::Continue
}

fn id(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let id = call.session.client.id as i64;
    call.reply().int(id);
    Flow::Continue
}

fn setname(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if !is_valid_name(argv[2]) {
        return refuse(call, BAD_NAME);
    }
    call.session.client.names.lock().name = argv[2].to_vec();
    ok(call)
}

fn getname(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let name = call.session.client.names.lock().name.clone();
    if name.is_empty() {
        call.reply().null();
    } else {
        call.reply().bulk(&name);
    }
    Flow::Continue
}

fn info(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let mut text = line::line(&call.session.client, call.now.unix_ms, Some("client|info"));
    text.push(b'\n');
    call.reply().verbatim("txt", &text);
    Flow::Continue
}

fn list(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let clients = match argv {
        [_, _] => call.node.clients.all(),
        [_, _, option, name] if option.eq_ignore_ascii_case(b"type") => match Kind::parse(name) {
            Some(kind) => {
                call.node.clients.all().into_iter().filter(|client| kind.includes(client)).collect()
            }
            None => return refuse(call, &filter::unknown_kind(name)),
        },
        [_, _, option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            match ids.iter().map(|id| parse_i64(id)).collect::<Option<Vec<_>>>() {
                Some(ids) => ids
                    .into_iter()
                    .filter_map(|id| call.node.clients.get(u64::try_from(id).ok()?))
                    .collect::<Vec<Arc<Client>>>(),
                None => return refuse(call, "ERR Invalid client ID"),
            }
        }
        _ => return refuse(call, SYNTAX),
    };
    let own = call.session.client.id;
    let mut text = Vec::with_capacity(clients.len() * 256);
    for client in &clients {
        let command = (client.id == own).then_some("client|list");
        text.extend_from_slice(&line::line(client, call.now.unix_ms, command));
        text.push(b'\n');
    }
    call.reply().verbatim("txt", &text);
    Flow::Continue
}

/// A connection that kills itself still gets the answer.
fn kill(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let filter = match Filter::parse(&argv[2..]) {
        Ok(filter) => filter,
        Err(text) => return refuse(call, &text),
    };
    let own = call.session.client.id;
    let mut killed = 0;
    let mut suicide = false;
    for client in call.node.clients.all() {
        if !filter.matches(&client, own) {
            continue;
        }
        killed += 1;
        if client.id == own {
            suicide = true;
        } else {
            call.node.kill(&client);
        }
    }
    if !filter.old_form {
        call.reply().int(killed);
    } else if killed > 0 {
        call.reply().ok();
    } else {
        call.error("ERR No such client");
    }
    if suicide { Flow::Close } else { Flow::Continue }
}

fn reply(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let mode = argv[2];
    if mode.eq_ignore_ascii_case(b"on") {
        call.session.reply_mode = ReplyMode::On;
        return ok(call);
    }
    if mode.eq_ignore_ascii_case(b"off") {
        call.session.reply_mode = ReplyMode::Off;
    } else if mode.eq_ignore_ascii_case(b"skip") {
        if call.session.reply_mode != ReplyMode::Off {
            call.session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return refuse(call, SYNTAX);
    }
    Flow::Continue
}

fn pause(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let writes_only = match argv {
        [_, _, _] => false,
        [_, _, _, mode] if mode.eq_ignore_ascii_case(b"write") => true,
        [_, _, _, mode] if mode.eq_ignore_ascii_case(b"all") => false,
        [_, _, _, _] => return refuse(call, "ERR CLIENT PAUSE mode must be WRITE or ALL"),
        _ => {
            subcommand::syntax_error(call, "client", argv[1]);
            return Flow::Continue;
        }
    };
    match parse_i64(argv[2]) {
        None => refuse(call, "ERR timeout is not an integer or out of range"),
        Some(timeout_ms) if timeout_ms < 0 => refuse(call, "ERR timeout is negative"),
        Some(timeout_ms) if timeout_ms > i64::MAX - call.now.unix_ms as i64 => {
            refuse(call, "ERR timeout is out of range")
        }
        Some(timeout_ms) => {
            call.node.pause(call.now.ms + timeout_ms as u64, writes_only);
            ok(call)
        }
    }
}

fn unpause(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.node.unpause();
    ok(call)
}

fn unblock(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let with_error = match argv {
        [_, _, _] => false,
        [_, _, _, reason] if reason.eq_ignore_ascii_case(b"timeout") => false,
        [_, _, _, reason] if reason.eq_ignore_ascii_case(b"error") => true,
        [_, _, _, _] => return refuse(call, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
        _ => {
            subcommand::syntax_error(call, "client", argv[1]);
            return Flow::Continue;
        }
    };
    let Some(id) = parse_i64(argv[2]) else {
        return refuse(call, "ERR value is not an integer or out of range");
    };
    let target = u64::try_from(id).ok().and_then(|id| call.node.clients.get(id));
    let unblocked = target.is_some_and(|client| call.node.unblock(&client, with_error));
    call.reply().int(i64::from(unblocked));
    Flow::Continue
}

fn no_evict(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let on = if argv[2].eq_ignore_ascii_case(b"on") {
        true
    } else if argv[2].eq_ignore_ascii_case(b"off") {
        false
    } else {
        return refuse(call, SYNTAX);
    };
    call.session.client.no_evict.store(on, Ordering::Relaxed);
    ok(call)
}

fn getredir(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.reply().int(-1);
    Flow::Continue
}

fn trackinginfo(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let mut reply = call.reply();
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.int(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
    Flow::Continue
}

fn tracking(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if argv[2].eq_ignore_ascii_case(b"off") && argv.len() == 3 {
        ok(call)
    } else if argv[2].eq_ignore_ascii_case(b"on") {
        refuse(call, "ERR CLIENT TRACKING is not supported by this version of Farkeep")
    } else {
        refuse(call, SYNTAX)
    }
}

fn caching(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    refuse(
        call,
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
    )
}

fn help(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    subcommand::help(call, "CLIENT", HELP);
    Flow::Continue
}

const HELP: &[&str] = &[
    "CACHING (YES|NO)",
    "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
    "         [OPTIN] [OPTOUT] [NOLOOP]",
    "    Control server assisted client side caching.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_without_spaces() {
        assert!(is_valid_name(b""));
        assert!(is_valid_name(b"my-app:1!~"));
        for bad in [&b"a b"[..], b"a\n", b"\x7f", "ä".as_bytes(), b"\0"] {
            assert!(!is_valid_name(bad));
        }
    }
}
