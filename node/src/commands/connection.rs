//! Commands about the connection itself: PING, ECHO, HELLO, AUTH, SELECT, QUIT, RESET.

use std::sync::atomic::Ordering;

use farkeep_proto::number::parse_i64;
use subtle::ConstantTimeEq;

use super::{Call, Flow};
use crate::worker::connection::ReplyMode;

/// PING [message]
pub fn ping(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    match argv {
        [_] => call.reply().simple("PONG"),
        [_, message] => call.reply().bulk(message),
        _ => call.error("ERR wrong number of arguments for 'ping' command"),
    }
    Flow::Continue
}

/// ECHO message
pub fn echo(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    call.reply().bulk(argv[1]);
    Flow::Continue
}

/// QUIT
pub fn quit(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.reply().simple("OK");
    Flow::Close
}

/// SELECT index
pub fn select(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    match parse_i64(argv[1]) {
        None => call.error("ERR value is not an integer or out of range"),
        Some(db) if i32::try_from(db).is_err() => {
            call.error("ERR value is out of range, value must between -2147483648 and 2147483647");
        }
        Some(db) if db < 0 || db >= call.config.databases as i64 => {
            call.error("ERR DB index is out of range")
        }
        Some(db) => {
            call.session.db = db as usize;
            call.session.client.db.store(db as u32, Ordering::Relaxed);
            call.reply().simple("OK");
        }
    }
    Flow::Continue
}

/// RESET
pub fn reset(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.session.multi = None;
    call.engine.unwatch(&call.session.client);
    call.session.db = 0;
    call.session.resp3 = false;
    call.session.client.resp.store(2, Ordering::Relaxed);
    call.session.client.db.store(0, Ordering::Relaxed);
    call.session.reply_mode = ReplyMode::On;
    call.session.client.names.lock().name.clear();
    call.session.authenticated = call.config.requirepass.is_none();
    call.reply().simple("RESET");
    Flow::Continue
}

/// AUTH [username] password
pub fn auth(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let (user, password): (&[u8], &[u8]) = match argv {
        [_, password] => {
            if call.config.requirepass.is_none() {
                call.error(
                    "ERR AUTH <password> called without any password configured for the default user. \
                     Are you sure your configuration is correct?",
                );
                return Flow::Continue;
            }
            (b"default", password)
        }
        [_, user, password] => (user, password),
        _ => {
            call.error("ERR syntax error");
            return Flow::Continue;
        }
    };
    if authenticate(call, user, password) {
        call.reply().simple("OK");
    } else {
        call.error(WRONGPASS);
    }
    Flow::Continue
}

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn authenticate(call: &mut Call<'_>, user: &[u8], password: &[u8]) -> bool {
    let right = user == b"default"
        && call.config.requirepass.as_ref().is_none_or(|wanted| wanted.as_bytes().ct_eq(password).into());
    if right {
        call.session.authenticated = true;
    }
    right
}

/// HELLO [protover [AUTH username password] [SETNAME clientname]]
pub fn hello(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let mut version = None;
    let mut rest = &argv[1..];
    if let Some((first, tail)) = rest.split_first() {
        match parse_i64(first) {
            None => {
                call.error("ERR Protocol version is not an integer or out of range");
                return Flow::Continue;
            }
            Some(wanted @ (2 | 3)) => version = Some(wanted),
            Some(_) => {
                call.error("NOPROTO unsupported protocol version");
                return Flow::Continue;
            }
        }
        rest = tail;
    }
    // As in Redis, each option takes effect as it is read, also when a later one is wrong.
    while let Some(option) = rest.first() {
        if option.eq_ignore_ascii_case(b"AUTH") && rest.len() >= 3 {
            if !authenticate(call, rest[1], rest[2]) {
                call.error(WRONGPASS);
                return Flow::Continue;
            }
            rest = &rest[3..];
        } else if option.eq_ignore_ascii_case(b"SETNAME") && rest.len() >= 2 {
            if !super::client::is_valid_name(rest[1]) {
                call.error(super::client::BAD_NAME);
                return Flow::Continue;
            }
            call.session.client.names.lock().name = rest[1].to_vec();
            rest = &rest[2..];
        } else {
            let shown = String::from_utf8_lossy(option).into_owned();
            call.error(&format!("ERR Syntax error in HELLO option '{shown}'"));
            return Flow::Continue;
        }
    }
    if !call.session.authenticated {
        call.error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> \
             AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
             version at the same time",
        );
        return Flow::Continue;
    }
    if let Some(version) = version {
        call.session.resp3 = version == 3;
        call.session.client.resp.store(version as u32, Ordering::Relaxed);
    }
    let id = call.session.client.id as i64;
    let resp = if call.session.resp3 { 3 } else { 2 };
    let role = if call.engine.is_leader() { "master" } else { "replica" };
    let mut reply = call.reply();
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(crate::REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.int(resp);
    reply.bulk(b"id");
    reply.int(id);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(role.as_bytes());
    reply.bulk(b"modules");
    reply.array(0);
    Flow::Continue
}
