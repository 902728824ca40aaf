//! Commands about the connection itself: PING, ECHO, HELLO, AUTH, SELECT, QUIT, RESET.

use std::sync::atomic::Ordering;

use farkeep_proto::number::parse_i64;
use subtle::ConstantTimeEq;

use super::{Call, Flow};
use crate::config::Config;
use crate::worker::connection::ReplyMode;

/// PING [message]
pub fn ping(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    match argv {
        [_] | [_, _] if !call.session.resp3 && call.session.client.subscribes() => {
            // As everything that a subscriber reads in RESP2.
            let message = argv.get(1).copied().unwrap_or_default();
            let mut reply = call.reply();
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(message);
        }
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
    match selected(argv, call.config.databases) {
        Ok(db) => {
            call.session.db = db;
            call.session.client.db.store(db as u32, Ordering::Relaxed);
            call.reply().simple("OK");
        }
        Err(refusal) => call.error(refusal),
    }
    Flow::Continue
}

/// The database that a SELECT chooses, of so many.
///
/// # Errors
/// The reply, if it chooses none.
pub fn selected(argv: &[&[u8]], databases: usize) -> Result<usize, &'static str> {
    let db = parse_i64(argv[1]).ok_or("ERR value is not an integer or out of range")?;
    if i32::try_from(db).is_err() {
        return Err("ERR value is out of range, value must between -2147483648 and 2147483647");
    }
    usize::try_from(db).ok().filter(|&db| db < databases).ok_or("ERR DB index is out of range")
}

/// RESET
pub fn reset(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.session.multi = None;
    call.engine.unwatch(&call.session.client);
    call.engine.pubsub.forget(&call.session.client);
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
    let right = is_right(call.config, user, password);
    call.session.authenticated |= right;
    right
}

fn is_right(config: &Config, user: &[u8], password: &[u8]) -> bool {
    user == b"default"
        && config.requirepass.as_ref().is_none_or(|wanted| wanted.as_bytes().ct_eq(password).into())
}

/// What a HELLO asks for, up to its first mistake: as in Redis, each option takes effect as it is read, also when a later
/// one is wrong.
struct Greeting<'a> {
    resp3: Option<bool>,
    name: Option<&'a [u8]>,
    authenticated: bool,
    mistake: Option<String>,
}

impl<'a> Greeting<'a> {
    fn read(argv: &[&'a [u8]], config: &Config, authenticated: bool) -> Self {
        let mut greeting = Greeting { resp3: None, name: None, authenticated, mistake: None };
        greeting.mistake = greeting.read_options(&argv[1..], config).err();
        greeting
    }

    fn read_options(&mut self, words: &[&'a [u8]], config: &Config) -> Result<(), String> {
        let Some((version, mut rest)) = words.split_first() else { return self.may_speak() };
        self.resp3 = match parse_i64(version) {
            None => return Err("ERR Protocol version is not an integer or out of range".to_owned()),
            Some(wanted @ (2 | 3)) => Some(wanted == 3),
            Some(_) => return Err("NOPROTO unsupported protocol version".to_owned()),
        };
        while let Some(option) = rest.first() {
            if option.eq_ignore_ascii_case(b"AUTH") && rest.len() >= 3 {
                if !is_right(config, rest[1], rest[2]) {
                    return Err(WRONGPASS.to_owned());
                }
                self.authenticated = true;
                rest = &rest[3..];
            } else if option.eq_ignore_ascii_case(b"SETNAME") && rest.len() >= 2 {
                if !super::client::is_valid_name(rest[1]) {
                    return Err(super::client::BAD_NAME.to_owned());
                }
                self.name = Some(rest[1]);
                rest = &rest[2..];
            } else {
                return Err(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(option)
                ));
            }
        }
        self.may_speak()
    }

    fn may_speak(&self) -> Result<(), String> {
        if self.authenticated { Ok(()) } else { Err(NOAUTH_HELLO.to_owned()) }
    }
}

const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
     <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";

/// The protocol in which replies after a HELLO are encoded: whether it is RESP3; `None` when it changes nothing.
pub fn negotiated(argv: &[&[u8]], config: &Config, authenticated: bool) -> Option<bool> {
    let greeting = Greeting::read(argv, config, authenticated);
    greeting.resp3.filter(|_| greeting.mistake.is_none())
}

/// HELLO [protover [AUTH username password] [SETNAME clientname]]
pub fn hello(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let greeting = Greeting::read(argv, call.config, call.session.authenticated);
    call.session.authenticated = greeting.authenticated;
    if let Some(name) = greeting.name {
        call.session.client.names.lock().name = name.to_vec();
    }
    if let Some(mistake) = greeting.mistake {
        call.error(&mistake);
        return Flow::Continue;
    }
    if let Some(resp3) = greeting.resp3 {
        call.session.resp3 = resp3;
        call.session.client.resp.store(if resp3 { 3 } else { 2 }, Ordering::Relaxed);
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
