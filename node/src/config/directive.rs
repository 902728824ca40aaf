//! One row of the directive table.

use super::Config;
use super::value::{Invalid, MemoryOrPercent, memory, one, one_of, parse_bool, parse_integer, parse_memory};

/// How a value is reached and checked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    /// A field of [`Config`].
    Field { get: fn(&Config) -> String, set: fn(&mut Config, &[&str]) -> Result<(), Invalid> },
    /// A directive of Redis without effect here: checked, kept, shown, written back.
    Kept { default: &'static str, check: Check },
}

/// What a kept directive may be set to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    /// `yes` or `no`.
    Bool,
    /// An integer within bounds.
    Integer(i64, i64),
    /// Bytes.
    Memory(i64, i64),
    /// Bytes, at least 1; less than this many are taken and made so many.
    MemoryRaised(i64),
    /// Bytes or a percentage.
    MemoryOrPercent,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Any one word.
    Text,
    /// Any number of words.
    Words,
    /// Pairs of seconds and changes, or nothing.
    Save,
    /// Only the default, for this reason: anything else would promise what is not there. If the default is `yes` or `no`,
    /// anything but these two is told so first.
    Unavailable(&'static str),
}

/// When a directive may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// At any time.
    Anytime,
    /// At start only.
    Start,
    /// At start only, for safety's sake.
    Protected,
}

/// How a directive is written into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The value as it is; may be several words.
    Plain,
    /// One word in quotes.
    Quoted,
    /// Bytes with a unit.
    Bytes,
    /// `client-output-buffer-limit`: a line for every four words.
    Fours,
    /// `save`: a line for every pair.
    Pairs,
    /// Nothing at all while empty.
    PlainIfSet,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Directive {
    pub name: &'static str,
    pub alias: Option<&'static str>,
    pub access: Access,
    pub change: Change,
    pub form: Form,
    /// Takes more than one word.
    pub many: bool,
}

impl Directive {
    pub const fn field(
        name: &'static str,
        get: fn(&Config) -> String,
        set: fn(&mut Config, &[&str]) -> Result<(), Invalid>,
    ) -> Self {
        let access = Access::Field { get, set };
        Self { name, alias: None, access, change: Change::Anytime, form: Form::Plain, many: false }
    }

    pub const fn kept(name: &'static str, default: &'static str, check: Check) -> Self {
        let form = match check {
            Check::Memory(..) | Check::MemoryRaised(_) => Form::Bytes,
            Check::Text => Form::Quoted,
            Check::Save => Form::Pairs,
            _ => Form::Plain,
        };
        let many = matches!(check, Check::Words | Check::Save);
        Self {
            name,
            alias: None,
            access: Access::Kept { default, check },
            change: Change::Anytime,
            form,
            many,
        }
    }

    pub const fn alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    pub const fn at_start(self) -> Self {
        Self { change: Change::Start, ..self }
    }

    pub const fn protected(self) -> Self {
        Self { change: Change::Protected, ..self }
    }

    pub const fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    pub const fn many(self) -> Self {
        Self { many: true, ..self }
    }

    pub fn get(&self, config: &Config) -> String {
        match self.access {
            Access::Field { get, .. } => get(config),
            Access::Kept { default, .. } => {
                config.kept.get(self.name).map_or(default, String::as_str).to_owned()
            }
        }
    }

    /// Sets the value; returns a warning for the operator where it has no effect.
    pub fn set(&self, config: &mut Config, args: &[&str]) -> Result<Option<String>, Invalid> {
        if !self.many && args.len() != 1 {
            return Err("wrong number of arguments".into());
        }
        match self.access {
            Access::Field { set, .. } => set(config, args).map(|()| None),
            Access::Kept { default, check } => {
                let value = checked(check, default, args)?;
                if value == default {
                    config.kept.remove(self.name);
                    return Ok(None);
                }
                config.kept.insert(self.name, value);
                Ok(Some(format!("directive '{}' is accepted for compatibility and has no effect", self.name)))
            }
        }
    }

    /// Sets the value from the single text of `CONFIG SET`.
    pub fn set_text(&self, config: &mut Config, text: &str) -> Result<Option<String>, Invalid> {
        if self.many {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            self.set(config, &words)
        } else {
            self.set(config, &[text])
        }
    }
}

/// The normal form of a kept value, if it may be set.
fn checked(check: Check, default: &'static str, args: &[&str]) -> Result<String, Invalid> {
    let joined = || args.join(" ");
    match check {
        Check::Bool => Ok(super::value::yes_no(parse_bool(one(args)?)?)),
        Check::Integer(min, max) => Ok(parse_integer(one(args)?, min, max)?.to_string()),
        Check::Memory(min, max) => Ok(parse_memory(one(args)?, min, max)?.to_string()),
        Check::MemoryRaised(least) => Ok(parse_memory(one(args)?, 1, i64::MAX)?.max(least).to_string()),
        Check::MemoryOrPercent => Ok(MemoryOrPercent::parse(one(args)?)?.to_string()),
        Check::OneOf(names) => {
            let text = one(args)?;
            let name = names.iter().find(|name| name.eq_ignore_ascii_case(text));
            name.map(|name| (*name).to_owned()).ok_or_else(|| one_of(names))
        }
        Check::Text => Ok(one(args)?.to_owned()),
        Check::Words => Ok(joined()),
        Check::Save => match args {
            [] | [""] => Ok(String::new()),
            _ if args.len().is_multiple_of(2) && args.iter().all(|word| memory(word).is_some()) => {
                Ok(joined())
            }
            _ => Err("Invalid save parameters".into()),
        },
        Check::Unavailable(reason) => {
            if matches!(default, "yes" | "no") {
                parse_bool(one(args)?)?;
            }
            let value = joined();
            if value.eq_ignore_ascii_case(default) { Ok(default.to_owned()) } else { Err(reason.into()) }
        }
    }
}
