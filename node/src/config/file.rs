//! Reading directives: from a file, the files it includes, and flags. The last word counts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use farkeep_proto::{glob, resp::split_args};

use super::value::{Invalid, quoted};
use super::{Config, table};

/// Files may include files this many levels deep.
const MAX_INCLUDE_DEPTH: usize = 16;

/// A configuration as read at start.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The absolute path of the file, which `CONFIG REWRITE` writes.
    pub file: Option<PathBuf>,
    /// What the operator should know: directives without effect.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line says something that cannot be.
    Line {
        /// The file, or `None` for flags.
        path: Option<PathBuf>,
        /// Counted from 1.
        line: usize,
        /// The line itself.
        text: String,
        /// What is wrong with it.
        reason: Invalid,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => {
                write!(f, "Fatal error, can't open config file '{}': {source}", path.display())
            }
            Self::Line { path, line, text, reason } => {
                writeln!(f, "*** FATAL CONFIG FILE ERROR (Farkeep {}) ***", env!("CARGO_PKG_VERSION"))?;
                match path {
                    Some(path) => {
                        writeln!(f, "Reading the configuration file {}, at line {line}", path.display())?;
                    }
                    None => writeln!(f, "Reading the directives of the command line, number {line}")?,
                }
                write!(f, ">>> '{text}'\n{reason}")
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } => Some(source),
            Self::Line { .. } => None,
        }
    }
}

/// Reads the file, if any, and then the flags: `--port 7000 --bind 127.0.0.1 ::1`, as `redis-server` takes them.
///
/// # Errors
/// When a file cannot be read or a directive cannot be accepted.
pub fn load(file: Option<&Path>, flags: &[String]) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::default(), file: None, warnings: Vec::new() };
    if let Some(path) = file {
        let absolute = std::path::absolute(path).map_err(|source| open_error(path, source))?;
        read_file(&mut loaded, &absolute, 0)?;
        loaded.file = Some(absolute);
    }
    read_lines(&mut loaded, None, &flag_lines(flags), 0)?;
    Ok(loaded)
}

fn open_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Open { path: path.to_owned(), source }
}

fn read_file(loaded: &mut Loaded, path: &Path, depth: usize) -> Result<(), ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| open_error(path, source))?;
    read_lines(loaded, Some(path), &String::from_utf8_lossy(&bytes), depth)
}

/// Reads text as if it stood in a file.
pub(super) fn read_text(text: &str) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::default(), file: None, warnings: Vec::new() };
    read_lines(&mut loaded, None, text, 0)?;
    Ok(loaded)
}

fn read_lines(loaded: &mut Loaded, path: Option<&Path>, text: &str, depth: usize) -> Result<(), ConfigError> {
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_matches([' ', '\t', '\r', '\n']);
        let failed = |reason| ConfigError::Line {
            path: path.map(Path::to_owned),
            line: number + 1,
            text: line.to_owned(),
            reason,
        };
        let Some(words) = words(line).map_err(failed)? else { continue };
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        if words[0].eq_ignore_ascii_case("include") && args.len() == 1 {
            if depth == MAX_INCLUDE_DEPTH {
                return Err(failed("files include each other too deep".into()));
            }
            for included in
                included_files(args[0]).map_err(|source| open_error(Path::new(args[0]), source))?
            {
                read_file(loaded, &included, depth + 1)?;
            }
        } else {
            let warning = apply(&mut loaded.config, &words[0], &args).map_err(failed)?;
            loaded.warnings.extend(warning);
        }
    }
    Ok(())
}

/// The words of a line; `None` for a comment or an empty line.
pub(super) fn words(line: &str) -> Result<Option<Vec<String>>, Invalid> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let words = split_args(line.as_bytes()).ok_or("Unbalanced quotes in configuration line")?;
    let words: Result<Vec<String>, _> = words.into_iter().map(String::from_utf8).collect();
    let words = words.map_err(|_| "the line is not UTF-8 text")?;
    Ok((!words.is_empty()).then_some(words))
}

/// Applies one directive as a file states it; returns a warning for the operator.
pub(super) fn apply(config: &mut Config, name: &str, args: &[&str]) -> Result<Option<String>, Invalid> {
    if let Some(directive) = table::find(name) {
        // Lines with save points add up.
        if directive.name == "save" && !args.is_empty() && args != [""] {
            let before = directive.get(config);
            let all: Vec<&str> =
                before.split(' ').filter(|word| !word.is_empty()).chain(args.iter().copied()).collect();
            return directive.set(config, &all);
        }
        return directive.set(config, args);
    }
    match (name.to_ascii_lowercase().as_str(), args) {
        ("rename-command", [from, to]) => {
            config.rename_command.push(((*from).to_owned(), (*to).to_owned()));
            Ok(None)
        }
        ("user", [_, ..]) => Err("users other than the default one are not available in this version".into()),
        ("loadmodule", [_, ..]) => Err("modules are not available".into()),
        _ => Err("Bad directive or wrong number of arguments".into()),
    }
}

/// The files an `include` means, in order of their names; wildcards may stand in the last part of the path.
fn included_files(pattern: &str) -> io::Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.contains(['*', '?', '[']) {
        return Ok(vec![path.to_owned()]);
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if glob::matches(name.as_bytes(), entry.file_name().as_encoded_bytes()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Flags as the lines of a file. What follows a name is its value, even if it starts with `--`; a name and its value may
/// also come in one argument (`"--port 7000"`); `--save` may stand without a value.
fn flag_lines(flags: &[String]) -> String {
    let mut text = String::new();
    let mut wants_value = false;
    for (at, flag) in flags.iter().enumerate() {
        let Some(name) = flag.strip_prefix("--").filter(|_| !wants_value) else {
            text.push_str(&quoted(flag));
            text.push(' ');
            wants_value = false;
            continue;
        };
        if at > 0 {
            text.push('\n');
        }
        text.push_str(name);
        text.push(' ');
        let alone = split_args(flag.as_bytes()).is_some_and(|words| words.len() == 1);
        let next_is_name = flags.get(at + 1).is_none_or(|next| next.starts_with("--"));
        if alone && name.eq_ignore_ascii_case("save") && next_is_name {
            text.push_str("\"\"");
        } else {
            wants_value = alone;
        }
    }
    text
}
