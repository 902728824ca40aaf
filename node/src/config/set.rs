//! `CONFIG GET` and `CONFIG SET`.

use farkeep_proto::glob;

use super::directive::{Change, Directive};
use super::value::Invalid;
use super::{Config, table};

/// Why `CONFIG SET` changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No such directive.
    #[error("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// It may not be set, or not to this.
    #[error("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")]
    Refused {
        /// The directive.
        name: String,
        /// Why.
        reason: Invalid,
    },
}

/// What `CONFIG SET` has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The directives whose value is another one now.
    pub names: Vec<&'static str>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// The directives that match any of the patterns, each once, as name and value. A name without a wildcard comes back as
/// it was spelled.
#[must_use]
pub fn get(config: &Config, patterns: &[&[u8]]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, directive: &Directive| {
        if !found.iter().any(|(seen, _)| seen.eq_ignore_ascii_case(name)) {
            found.push((name.to_owned(), directive.get(config)));
        }
    };
    for pattern in patterns {
        if !pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[')) {
            if let Some((name, directive)) =
                std::str::from_utf8(pattern).ok().and_then(|name| Some((name, table::find(name)?)))
            {
                add(name, directive);
            }
            continue;
        }
        for directive in table::all() {
            for name in [Some(directive.name), directive.alias].into_iter().flatten() {
                if glob::matches_ignore_case(pattern, name.as_bytes()) {
                    add(name, directive);
                }
            }
        }
    }
    found
}

/// Sets all of the pairs, or none.
///
/// # Errors
/// When any of them cannot be set; `config` is unchanged then.
pub fn set(config: &mut Config, pairs: &[(&[u8], &[u8])]) -> Result<Changed, SetError> {
    let mut checked: Vec<(&'static Directive, &'static str, &str)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let name = String::from_utf8_lossy(name);
        let Some(directive) = table::find(&name) else {
            return Err(SetError::Unknown { name: name.into_owned() });
        };
        let text = std::str::from_utf8(value);
        let reason = match directive.change {
            _ if checked.iter().any(|(seen, ..)| seen.name == directive.name) => "duplicate parameter",
            Change::Start => "can't set immutable config",
            Change::Protected => "can't set protected config",
            Change::Anytime if text.is_err() => "argument must be UTF-8 text",
            Change::Anytime => "",
        };
        if !reason.is_empty() {
            return Err(SetError::Refused { name: name.into_owned(), reason: reason.into() });
        }
        let alias = directive.alias.filter(|alias| alias.eq_ignore_ascii_case(&name));
        checked.push((directive, alias.unwrap_or(directive.name), text.unwrap_or_default()));
    }
    let mut next = config.clone();
    let mut changed = Changed::default();
    for (directive, name, text) in checked {
        let before = directive.get(&next);
        match directive.set_text(&mut next, text) {
            Ok(warning) => changed.warnings.extend(warning),
            Err(reason) => return Err(SetError::Refused { name: name.to_owned(), reason }),
        }
        if directive.get(&next) != before {
            changed.names.push(directive.name);
        }
    }
    *config = next;
    Ok(changed)
}
