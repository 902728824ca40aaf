//! The log of the process: `tracing` events in Redis's line format, `pid:role date sign message field=value
//! …`, or as one JSON object each (`log-format json`).
//!
//! One line is one `write` to a file opened for appending. The file is opened anew for each line, as Redis
//! does it, so that logrotate needs to tell nobody; a node at rest logs nothing, and a busy one logs a few
//! lines a minute.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// `M` for a leader, `S` for a follower, `C` while the process is not yet either.
static ROLE: AtomicU8 = AtomicU8::new(b'C');

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// The role letter of the lines from now on.
pub fn set_role(letter: u8) {
    ROLE.store(letter, Ordering::Relaxed);
}

/// The filter of a `loglevel`: `debug`, `verbose`, `notice`, `warning`.
pub fn level(name: &str) -> Option<LevelFilter> {
    match name {
        "debug" => Some(LevelFilter::TRACE),
        "verbose" => Some(LevelFilter::DEBUG),
        "notice" => Some(LevelFilter::INFO),
        "warning" => Some(LevelFilter::WARN),
        _ => None,
    }
}

/// Changes what is logged while the process runs. An unknown name changes nothing.
pub fn set_level(name: &str) {
    if let (Some(handle), Some(level)) = (LEVEL.get(), level(name)) {
        // Fails only if the subscriber is gone, and then there is nothing to filter.
        let _ = handle.modify(|filter| *filter = level);
    }
}

/// Starts logging to `logfile`, or to standard output if it is empty.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn init(logfile: &str, loglevel: &str, format: LogFormat) -> io::Result<()> {
    let target =
        if logfile.is_empty() { Target::Stdout } else { Target::File(absolute(Path::new(logfile))?) };
    target.check()?;
    let (filter, handle) = reload::Layer::new(level(loglevel).unwrap_or(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().event_format(Lines(format)).with_writer(target);
    let installed = tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok();
    if installed {
        let _ = LEVEL.set(handle);
    }
    Ok(())
}

fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

#[derive(Debug)]
enum Target {
    Stdout,
    File(PathBuf),
}

impl Target {
    fn check(&self) -> io::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(path) => append(path).map(drop),
        }
    }
}

fn append(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl<'a> MakeWriter<'a> for Target {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Writes whole lines. A line that cannot be written is lost: a full disk must not stop the node.
#[derive(Debug)]
struct Line<'a>(&'a Target);

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0 {
            Target::Stdout => io::stdout().lock().write_all(bytes)?,
            Target::File(path) => append(path)?.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {
            Target::Stdout => io::stdout().lock().flush(),
            Target::File(_) => Ok(()),
        }
    }
}

/// Redis's layout, or JSON.
#[derive(Debug)]
struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        if self.0 == LogFormat::Json {
            return writeln!(out, "{}", json_line(*event.metadata().level(), text));
        }
        let now = jiff::Zoned::now().strftime("%d %b %Y %H:%M:%S%.3f");
        let role = char::from(ROLE.load(Ordering::Relaxed));
        let sign = sign(*event.metadata().level());
        write!(out, "{}:{role} {now} {sign} {}", std::process::id(), text.message)?;
        for (name, value) in &text.fields {
            write!(out, " {name}={value}")?;
        }
        writeln!(out)
    }
}

/// An event as a JSON object. `ts`, `level`, `message`, `pid` and `role` cannot be taken by a field of the event.
fn json_line(level: Level, text: Text) -> serde_json::Value {
    let role = match ROLE.load(Ordering::Relaxed) {
        b'M' => "leader",
        b'S' => "follower",
        _ => "starting",
    };
    let mut object: serde_json::Map<String, serde_json::Value> =
        text.fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    object.insert("ts".to_owned(), jiff::Timestamp::now().to_string().into());
    object.insert("level".to_owned(), level.as_str().to_ascii_lowercase().into());
    object.insert("message".to_owned(), text.message.into());
    object.insert("pid".to_owned(), std::process::id().into());
    object.insert("role".to_owned(), role.into());
    object.into()
}

/// Redis's sign for a level.
fn sign(level: Level) -> char {
    match level {
        Level::ERROR | Level::WARN => '#',
        Level::INFO => '*',
        Level::DEBUG => '-',
        Level::TRACE => '.',
    }
}

/// An event's message and its fields.
#[derive(Debug, Default)]
struct Text {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name(), value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // One event is one line, whatever a peer made us quote.
        let value = format!("{value:?}").replace(['\r', '\n'], " ");
        self.record_str(field, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_redis_layout_and_stays_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines(LogFormat::Text))
            .with_writer(Target::File(path.clone()));
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(port = 6379, peer = %"a\nb", "ready");
            tracing::debug!("not shown");
            tracing::warn!("careful");
        });
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let head = format!("{}:", std::process::id());
        assert!(
            lines[0].starts_with(&head) && lines[0].ends_with(" * ready port=6379 peer=a b"),
            "{}",
            lines[0]
        );
        assert!(lines[1].ends_with(" # careful"));
        let words: Vec<&str> = lines[0].split(' ').collect();
        assert_eq!((words[1].len(), words[2].len(), words[3].len(), words[4].len()), (2, 3, 4, 12));
    }

    #[test]
    fn json_line_is_one_object_with_the_fields_of_the_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines(LogFormat::Json))
            .with_writer(Target::File(path.clone()));
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(peer = "a\"b\nc", level = "mine", "careful");
        });
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((object["level"].as_str(), object["message"].as_str()), (Some("warn"), Some("careful")));
        assert_eq!(object["peer"], "a\"b\nc");
        assert!(object["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')));
    }

    #[test]
    fn loglevels_are_redis_ones() {
        assert_eq!(level("notice"), Some(LevelFilter::INFO));
        assert_eq!(level("info"), None);
    }
}
