//! Running one command: which one a request means, whether it has the right number of words, and what happens
//! if it fails.
//!
//! A failed command leaves no trace: its stores are rolled back to the savepoint taken before it, its reply
//! is replaced by the error, its signals are forgotten. The transaction it is in goes on.

use std::borrow::Cow;

use farkeep_core::heap::Txn;
use farkeep_proto::resp::Encoder;

use super::table::{Command, Handler, lookup};
use crate::error::CommandError;
use crate::keystore::{ReadCtx, WriteCtx};

/// The most bytes of its arguments that the refusal of an unknown command quotes.
const QUOTED_MAX: usize = 128;

/// The command a request means, a subcommand where there is one, after checking its number of words.
///
/// # Errors
/// When there is no such command or subcommand, or the number of words is wrong.
#[inline]
pub fn resolve(args: &[&[u8]]) -> Result<&'static Command, CommandError> {
    let Some(command) = args.first().and_then(|name| lookup(name)) else { return Err(unknown(args)) };
    let command = if command.subcommands.is_empty() || args.len() < 2 {
        command
    } else {
        let upper = || command.name.to_ascii_uppercase();
        command.subcommand(args[1]).ok_or_else(|| CommandError::unknown_subcommand(&upper(), args[1]))?
    };
    if command.takes(args.len()) {
        Ok(command)
    } else {
        Err(CommandError::Arity(Cow::Borrowed(command.name)))
    }
}

#[cold]
fn unknown(args: &[&[u8]]) -> CommandError {
    let Some((name, rest)) = args.split_first() else { return CommandError::Syntax };
    let mut quoted = Vec::new();
    for word in rest {
        if quoted.len() >= QUOTED_MAX {
            break;
        }
        let room = QUOTED_MAX - quoted.len();
        quoted.push(b'\'');
        quoted.extend_from_slice(&word[..word.len().min(room)]);
        quoted.extend_from_slice(b"' ");
    }
    CommandError::owned(format!(
        "ERR unknown command '{}', with args beginning with: {}",
        String::from_utf8_lossy(&name[..name.len().min(QUOTED_MAX)]),
        String::from_utf8_lossy(&quoted)
    ))
}

/// Runs a reading command and writes its reply or its error. Returns the error, for statistics.
#[inline]
pub fn read(
    ctx: &mut ReadCtx<'_>,
    command: &Command,
    args: &[&[u8]],
    out: &mut Encoder<'_>,
) -> Option<CommandError> {
    let Handler::Read(handler) = command.handler else { panic!("{} is no reading command", command.name) };
    let mark = out.mark();
    let error = handler(ctx, args, out).err()?;
    out.truncate(mark);
    out.error(&error.reply());
    Some(error)
}

/// Runs a command of the keystore, writing or reading, inside a transaction, and writes its reply or its
/// error. Returns the error; the transaction is then as it was before.
#[inline]
pub fn write(
    ctx: &mut WriteCtx<'_, '_>,
    command: &Command,
    args: &[&[u8]],
    out: &mut Encoder<'_>,
) -> Option<CommandError> {
    let mark = out.mark();
    let handler = match command.handler {
        Handler::Write(handler) => handler,
        Handler::Read(_) => return read(&mut ctx.read(), command, args, out),
        Handler::Node => panic!("{} is a command of the node", command.name),
    };
    let savepoint = Txn::savepoint(ctx.txn);
    let signals = ctx.ks.signals.mark();
    let error = handler(ctx, args, out).err()?;
    ctx.txn.rollback_to(&savepoint);
    ctx.ks.signals.truncate(signals);
    out.truncate(mark);
    out.error(&error.reply());
    Some(error)
}
