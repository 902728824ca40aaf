//! `COMMAND` and its subcommands: what clients and proxies ask to learn which commands there are and where a request's
//! keys are.
//!
//! The facts are those of the command table. They are told as Redis 7.0 tells them, RESP3 types included, because
//! cluster clients and tools read them by position.

mod syntax;

use farkeep_keystore::CommandError;
use farkeep_keystore::command::table::{Command, KeySpec, acl, flag};
use farkeep_proto::glob;
use farkeep_proto::resp::Encoder;

/// Commands that Redis has deprecated: since when, and in favour of what.
static DEPRECATED: &[(&str, &str, &str)] = &[
    ("getset", "6.2.0", "`SET` with the `!GET` argument"),
    ("hmset", "4.0.0", "`HSET` with multiple field-value pairs"),
    ("slaveof", "5.0.0", "`REPLICAOF`"),
    ("substr", "2.0.0", "`GETRANGE`"),
];

const HELP: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "LIST",
    "    Return a list of all commands in this server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "GETKEYSANDFLAGS <full-command>",
    "    Return the keys and the access flags from a full command.",
    "HELP",
    "    Prints this help.",
];

/// Replies to `COMMAND …`. `table` is what this server answers to: every command under its present name, so without
/// those that `rename-command` has removed.
///
/// # Errors
/// When the subcommand does not exist or cannot understand its arguments.
pub fn reply(
    table: &[(&[u8], &'static Command)],
    argv: &[&[u8]],
    out: &mut Encoder<'_>,
) -> Result<(), CommandError> {
    let Some(word) = argv.get(1) else {
        out.array(table.len());
        table.iter().for_each(|(_, command)| push_info(command, out));
        return Ok(());
    };
    let args = &argv[2..];
    match word.to_ascii_lowercase().as_slice() {
        b"count" => out.int(table.len() as i64),
        b"info" if args.is_empty() => {
            out.array(table.len());
            table.iter().for_each(|(_, command)| push_info(command, out));
        }
        b"info" => {
            out.array(args.len());
            for name in args {
                match find(table, name) {
                    Some(command) => push_info(command, out),
                    None => out.null_array(),
                }
            }
        }
        b"docs" => push_docs(table, args, out),
        b"list" => push_list(table, args, out)?,
        b"getkeys" => push_keys(table, args, false, out)?,
        b"getkeysandflags" => push_keys(table, args, true, out)?,
        b"help" => {
            out.array(HELP.len());
            HELP.iter().for_each(|line| out.simple(line));
        }
        _ => return Err(CommandError::unknown_subcommand("COMMAND", word)),
    }
    Ok(())
}

/// The command, or with `parent|name` the subcommand, in any case.
fn find(table: &[(&[u8], &'static Command)], name: &[u8]) -> Option<&'static Command> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let parent = parts.next()?;
    let command = table.iter().find(|(present, _)| present.eq_ignore_ascii_case(parent))?.1;
    match parts.next() {
        None => Some(command),
        Some(sub) => command.subcommand(sub),
    }
}

fn push_info(command: &Command, out: &mut Encoder<'_>) {
    out.array(10);
    out.bulk(command.name.as_bytes());
    out.int(command.arity.into());
    push_statuses(&command.flags.names().collect::<Vec<_>>(), out);
    for position in [command.first_key, command.last_key, command.step] {
        out.int(position.into());
    }
    let categories: Vec<String> = command.categories.names().map(|name| format!("@{name}")).collect();
    push_statuses(&categories, out);
    out.set(command.tips.len());
    command.tips.iter().for_each(|tip| out.bulk(tip.as_bytes()));
    out.set(command.key_specs.len());
    command.key_specs.iter().for_each(|spec| push_key_spec(spec, out));
    if command.subcommands.is_empty() {
        out.set(0);
    } else {
        out.array(command.subcommands.len());
        command.subcommands.iter().for_each(|sub| push_info(sub, out));
    }
}

fn push_statuses<S: AsRef<str>>(words: &[S], out: &mut Encoder<'_>) {
    out.set(words.len());
    words.iter().for_each(|word| out.simple(word.as_ref()));
}

fn push_key_spec(spec: &KeySpec, out: &mut Encoder<'_>) {
    out.map(3 + usize::from(!spec.notes.is_empty()));
    if !spec.notes.is_empty() {
        out.bulk(b"notes");
        out.bulk(spec.notes.as_bytes());
    }
    out.bulk(b"flags");
    push_statuses(&spec.flags.split(' ').collect::<Vec<_>>(), out);
    let mut part = |name: &str, kind: &str, numbers: &[(&str, i32)]| {
        out.bulk(name.as_bytes());
        out.map(2);
        out.bulk(b"type");
        out.bulk(kind.as_bytes());
        out.bulk(b"spec");
        out.map(numbers.len());
        for (name, number) in numbers {
            out.bulk(name.as_bytes());
            out.int((*number).into());
        }
    };
    part("begin_search", "index", &[("index", spec.index)]);
    part("find_keys", "range", &[("lastkey", spec.last), ("keystep", spec.step), ("limit", 0)]);
}

fn push_docs(table: &[(&[u8], &'static Command)], names: &[&[u8]], out: &mut Encoder<'_>) {
    let mark = out.mark();
    let mut count = 0;
    let mut push = |command: &Command| {
        out.bulk(command.name.as_bytes());
        push_documentation(command, out);
        count += 1;
    };
    if names.is_empty() {
        table.iter().for_each(|(_, command)| push(command));
    } else {
        names.iter().filter_map(|name| find(table, name)).for_each(push);
    }
    out.map_at(mark, count);
}

fn push_documentation(command: &Command, out: &mut Encoder<'_>) {
    let deprecated = DEPRECATED.iter().find(|(name, ..)| *name == command.name);
    let is_for_tests = command.name == "debug";
    let mark = out.mark();
    let mut count = 4;
    let facts = [
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group),
        ("complexity", command.complexity),
    ];
    for (field, text) in facts {
        out.bulk(field.as_bytes());
        out.bulk(text.as_bytes());
    }
    if deprecated.is_some() || is_for_tests {
        out.bulk(b"doc_flags");
        push_statuses(&[if is_for_tests { "syscmd" } else { "deprecated" }], out);
        count += 1;
    }
    if let Some((_, since, instead)) = deprecated {
        out.bulk(b"deprecated_since");
        out.bulk(since.as_bytes());
        out.bulk(b"replaced_by");
        out.bulk(instead.as_bytes());
        count += 2;
    }
    if syntax::of(command.name).is_some() {
        syntax::push(command.name, out);
        count += 1;
    }
    if !command.subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(command.subcommands.len());
        for sub in command.subcommands {
            out.bulk(sub.name.as_bytes());
            push_documentation(sub, out);
        }
        count += 1;
    }
    out.map_at(mark, count);
}

/// What `COMMAND LIST` leaves in.
enum Filter<'a> {
    All,
    Nothing,
    Category(u32),
    Pattern(&'a [u8]),
}

impl Filter<'_> {
    fn admits(&self, command: &Command) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Category(bit) => command.categories.has(*bit),
            Self::Pattern(pattern) => glob::matches_ignore_case(pattern, command.name.as_bytes()),
        }
    }
}

fn push_list(
    table: &[(&[u8], &'static Command)],
    args: &[&[u8]],
    out: &mut Encoder<'_>,
) -> Result<(), CommandError> {
    let filter = match args {
        [] => Filter::All,
        [by, kind, what] if by.eq_ignore_ascii_case(b"filterby") => {
            match kind.to_ascii_lowercase().as_slice() {
                b"module" => Filter::Nothing,
                b"pattern" => Filter::Pattern(what),
                b"aclcat" => {
                    let bit = acl::NAMES.iter().position(|name| name.as_bytes().eq_ignore_ascii_case(what));
                    bit.map_or(Filter::Nothing, |bit| Filter::Category(1 << bit))
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        _ => return Err(CommandError::Syntax),
    };
    let commands = table.iter().map(|(_, command)| *command);
    let all = commands.flat_map(|command| std::iter::once(command).chain(command.subcommands));
    let names: Vec<&str> = all.filter(|command| filter.admits(command)).map(|command| command.name).collect();
    out.array(names.len());
    names.iter().for_each(|name| out.bulk(name.as_bytes()));
    Ok(())
}

fn push_keys(
    table: &[(&[u8], &'static Command)],
    request: &[&[u8]],
    with_flags: bool,
    out: &mut Encoder<'_>,
) -> Result<(), CommandError> {
    const INVALID: CommandError = CommandError::new("ERR Invalid arguments specified for command");
    let Some(mut command) = request.first().and_then(|name| find(table, name)) else {
        return Err(CommandError::new("ERR Invalid command specified"));
    };
    if let (Some(word), false) = (request.get(1), command.subcommands.is_empty()) {
        let sub = command.subcommand(word);
        command = sub.ok_or(CommandError::new("ERR Invalid command specified"))?;
    }
    if command.key_specs.is_empty() {
        return Err(CommandError::new("ERR The command has no key arguments"));
    }
    if !command.takes(request.len()) {
        return Err(CommandError::new("ERR Invalid number of arguments specified for command"));
    }
    let mut keys = Vec::new();
    for spec in command.key_specs {
        let last = if spec.last < 0 { request.len() as i32 + spec.last } else { spec.index + spec.last };
        if last >= request.len() as i32 || last < spec.index {
            if !command.flags.has(flag::NO_MANDATORY_KEYS) {
                return Err(INVALID);
            }
            out.array(0);
            return Ok(());
        }
        let positions = (spec.index..=last).step_by(spec.step.max(1) as usize);
        keys.extend(
            positions.map(|position| (request[position as usize], key_flags(command, spec, request))),
        );
    }
    out.array(keys.len());
    for (key, flags) in keys {
        if with_flags {
            out.array(2);
        }
        out.bulk(key);
        if with_flags {
            push_statuses(&flags.split(' ').collect::<Vec<_>>(), out);
        }
    }
    Ok(())
}

/// What this very request does to its keys; for two commands that depends on their options.
fn key_flags(command: &Command, spec: &KeySpec, request: &[&[u8]]) -> &'static str {
    match command.name {
        "set" if request.iter().skip(3).any(|word| word.eq_ignore_ascii_case(b"get")) => "RW access update",
        "set" => "OW update",
        "bitfield" if only_reads_bits(&request[2..]) => "RO access",
        "bitfield" => "RW access update",
        _ => spec.flags,
    }
}

/// Whether the operations of a `BITFIELD` are understood as reading ones; what is not understood may write.
fn only_reads_bits(mut operations: &[&[u8]]) -> bool {
    while let [word, rest @ ..] = operations {
        let words = match word.to_ascii_lowercase().as_slice() {
            b"get" => 2,
            b"overflow" => 1,
            _ => return false,
        };
        match rest.get(words..) {
            Some(rest) => operations = rest,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests;
