//! MULTI, EXEC, DISCARD, WATCH, UNWATCH. An EXEC is one transaction of the log: all of it survives a crash, or
//! none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use farkeep_keystore::command::table::flag;

use super::{Call, Entry, Flow};
use crate::engine::Succession;
use crate::worker::connection::{Multi, Obstacle, Queued};

/// Whether a command runs at once although a MULTI is open.
pub fn runs_inside_multi(name: &str) -> bool {
    matches!(name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset")
}

/// Queues a command that passed its checks.
pub fn queue(call: &mut Call<'_>, entry: &'static Entry, argv: &[&[u8]]) -> Flow {
    if entry.spec.flags.has(flag::NO_MULTI) {
        super::refuse_in_multi(call);
        call.error("ERR Command not allowed inside a transaction");
        return Flow::Continue;
    }
    if let Some(multi) = &mut call.session.multi {
        multi.queued.push(Queued { entry, argv: argv.iter().map(|arg| arg.to_vec()).collect() });
        call.session.client.multi.store(multi.queued.len() as i64, Ordering::Relaxed);
    }
    call.reply().simple("QUEUED");
    Flow::Continue
}

/// MULTI
pub fn multi(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    if call.session.multi.is_some() {
        call.error("ERR MULTI calls can not be nested");
    } else {
        call.session.multi = Some(Multi::default());
        call.session.client.multi.store(0, Ordering::Relaxed);
        call.reply().simple("OK");
    }
    Flow::Continue
}

/// DISCARD
pub fn discard(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    if call.session.multi.is_none() {
        call.error("ERR DISCARD without MULTI");
    } else {
        end(call);
        call.reply().simple("OK");
    }
    Flow::Continue
}

/// WATCH key [key ...]
pub fn watch(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if call.session.multi.is_some() {
        call.error("ERR WATCH inside MULTI is not allowed");
        return Flow::Continue;
    }
    for key in &argv[1..] {
        call.engine.watch(&call.session.client, call.session.db, key, call.now.unix_ms);
    }
    call.reply().simple("OK");
    Flow::Continue
}

/// UNWATCH
pub fn unwatch(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    call.engine.unwatch(&call.session.client);
    call.reply().simple("OK");
    Flow::Continue
}

/// EXEC
pub fn exec(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let Some(multi) = &call.session.multi else {
        call.error("ERR EXEC without MULTI");
        return Flow::Continue;
    };
    if multi.refused {
        end(call);
        call.error("EXECABORT Transaction discarded because of previous errors.");
        return Flow::Continue;
    }
    if call.session.client.watch_broken.load(Ordering::Relaxed)
        || call.engine.watched_key_expired(&call.session.client, call.now.unix_ms)
    {
        end(call);
        call.reply().null_array();
        return Flow::Continue;
    }
    if let Some(refusal) = super::exec_refusal(call, multi) {
        end(call);
        call.error(&format!("EXECABORT Transaction discarded because of: {refusal}"));
        return Flow::Continue;
    }
    let Some(multi) = &call.session.multi else { return Flow::Continue };
    if multi.queued.iter().any(super::replication::is_promotion) {
        let granted = call.engine.succession(call.node, call.now);
        let succession = match granted {
            Succession::Open => call.engine.muster(call.node, call.now),
            other => other,
        };
        match succession {
            Succession::Open => {}
            Succession::Waits => return Flow::Stall(Obstacle::Handover),
            Succession::Refused(why) => {
                end(call);
                call.error(&format!("EXECABORT Transaction discarded because of: {why}"));
                return Flow::Continue;
            }
        }
    }
    let Some(multi) = &call.session.multi else { return Flow::Continue };
    let writes = multi.queued.iter().any(|queued| queued.entry.spec.flags.has(flag::WRITE));
    super::execute::run_exec(call, writes)
}

/// Closes the MULTI and forgets the watched keys, whatever became of it.
pub fn end(call: &mut Call<'_>) {
    call.session.multi = None;
    call.session.client.multi.store(-1, Ordering::Relaxed);
    call.engine.unwatch(&Arc::clone(&call.session.client));
}
