//! A command that runs in a guest: its output as it comes, its end, signals to it.
//!
//! Every guest has one thread that reads the port and deals frames out to the sessions ([`Sessions`]). When the guest ends, all
//! channels close, and whoever waits for a command is told that its guest is gone.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader};
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::frame::{self, Kind, Request};

/// Why a guest did not do what was asked of it.
#[derive(Debug)]
pub enum Error {
    /// What a guest is made of cannot be had, or a file of it cannot be written.
    Unavailable(String),
    /// QEMU ended or the guest was not ready in time; with the end of its console.
    NotBooted(String),
    /// The command could not be started in the guest, or ended without what was waited for.
    Command(String),
    /// The guest ended before the command did.
    Gone,
    /// What was waited for did not come in time.
    TimedOut(String),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) | Error::Command(why) => out.write_str(why),
            Error::NotBooted(why) => write!(out, "the guest did not boot: {why}"),
            Error::Gone => out.write_str("the guest ended before the command did"),
            Error::TimedOut(what) => write!(out, "timed out: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// A request that runs a script in bash, in the root directory, with a plain environment.
pub fn shell(script: &str) -> Request {
    Request {
        argv: ["/bin/bash", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
        cwd: "/".into(),
        memlock_kib: None,
    }
}

/// What a command did.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It ended with this code, or by signal n: 128 + n.
    Exit(i32),
    /// It could not be started.
    NotStarted(String),
}

/// A command's end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; 128 + n for signal n.
    pub code: i32,
    /// What it wrote, standard output and error mixed as they came.
    pub output: String,
}

/// A command that was started. Dropping it does not end it.
#[derive(Debug)]
pub struct Running {
    session: u32,
    events: Receiver<Event>,
    input: Arc<Mutex<ChildStdin>>,
    output: String,
    /// Up to where `wait_for_line` has looked.
    read: usize,
}

impl Running {
    /// The next thing it does.
    ///
    /// # Errors
    /// The deadline passes, or the guest is gone.
    pub fn next(&self, deadline: Instant) -> Result<Event, Error> {
        self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(
            |why| match why {
                RecvTimeoutError::Timeout => Error::TimedOut("the command did not end".into()),
                RecvTimeoutError::Disconnected => Error::Gone,
            },
        )
    }

    /// Waits until it has written a line that contains `wanted`, and answers that line. Lines before it are passed over for
    /// good.
    ///
    /// # Errors
    /// The limit passes, the command ends without that line, or the guest is gone.
    pub fn wait_for_line(&mut self, wanted: &str, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(len) = self.output[self.read..].find('\n') {
                let line = self.output[self.read..self.read + len].to_owned();
                self.read += len + 1;
                if line.contains(wanted) {
                    return Ok(line);
                }
            }
            let missing = |why: &str| format!("no line with '{wanted}' {why}; so far:\n{}", self.output);
            match self.next(deadline) {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                    self.output.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(Event::Exit(code)) => {
                    return Err(Error::Command(missing(&format!("before it ended with {code}"))));
                }
                Ok(Event::NotStarted(why)) => return Err(Error::Command(why)),
                Err(Error::TimedOut(_)) => {
                    return Err(Error::TimedOut(missing(&format!("within {} s", limit.as_secs()))));
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The limit passes, it could not be started, or the guest is gone.
    pub fn wait(mut self, limit: Duration) -> Result<Finished, Error> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline) {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                    self.output.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(Event::Exit(code)) => return Ok(Finished { code, output: self.output }),
                Ok(Event::NotStarted(why)) => return Err(Error::Command(why)),
                Err(Error::TimedOut(_)) => {
                    let so_far = format!("not ended within {} s; so far:\n{}", limit.as_secs(), self.output);
                    return Err(Error::TimedOut(so_far));
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`, ...) to the command and what it started.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn signal(&self, name: &str) -> Result<(), Error> {
        self.send(Kind::Signal, name.as_bytes())
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        frame::write(&mut *lock(&self.input), self.session, kind, payload).map_err(|_| Error::Gone)
    }
}

/// The host's end of a guest's port.
#[derive(Debug)]
pub struct Port {
    input: Arc<Mutex<ChildStdin>>,
    sessions: Arc<Mutex<Sessions>>,
    next_session: AtomicU32,
}

impl Port {
    /// The port whose two directions are these, and what tells that the guest takes commands.
    pub fn new(input: ChildStdin, output: ChildStdout) -> (Port, Receiver<()>) {
        let sessions = Arc::new(Mutex::new(Sessions::default()));
        let (announce, ready) = mpsc::channel();
        thread::spawn({
            let sessions = sessions.clone();
            move || receive(output, &sessions, announce)
        });
        let port = Port { input: Arc::new(Mutex::new(input)), sessions, next_session: AtomicU32::new(1) };
        (port, ready)
    }

    /// Starts a command; see [`Guest::start`](super::Guest::start).
    ///
    /// # Errors
    /// The guest is gone.
    pub fn start(&self, request: &Request) -> Result<Running, Error> {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel();
        {
            let mut sessions = lock(&self.sessions);
            if sessions.closed {
                return Err(Error::Gone);
            }
            sessions.open.insert(session, sender);
        }
        let running = Running { session, events, input: self.input.clone(), output: String::new(), read: 0 };
        running.send(Kind::Run, &request.encode())?;
        Ok(running)
    }
}

#[derive(Debug, Default)]
struct Sessions {
    open: HashMap<u32, Sender<Event>>,
    /// The guest is gone: whoever waits is told so by a closed channel.
    closed: bool,
}

fn receive(output: ChildStdout, sessions: &Mutex<Sessions>, ready: Sender<()>) {
    let mut output = BufReader::new(output);
    let mut ready = Some(ready);
    let ended: io::Result<()> = loop {
        let frame = match frame::read(&mut output) {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let event = match frame.kind {
            Kind::Ready => {
                // The owner may have given up waiting.
                let _ = ready.take().map(|ready| ready.send(()));
                continue;
            }
            Kind::Stdout => Event::Stdout(frame.payload),
            Kind::Stderr => Event::Stderr(frame.payload),
            Kind::Exit => Event::Exit(exit_code(&frame.payload)),
            Kind::NotStarted => Event::NotStarted(String::from_utf8_lossy(&frame.payload).into_owned()),
            Kind::Run | Kind::Signal => continue,
        };
        let mut sessions = lock(sessions);
        let is_last = matches!(event, Event::Exit(_) | Event::NotStarted(_));
        if let Some(session) = sessions.open.get(&frame.session) {
            // Whoever dropped the command does not want to know.
            let _ = session.send(event);
        }
        if is_last {
            sessions.open.remove(&frame.session);
        }
    };
    if let Err(error) = ended
        && error.kind() == io::ErrorKind::InvalidData
    {
        eprintln!("guest: {error}");
    }
    let mut sessions = lock(sessions);
    sessions.closed = true;
    sessions.open.clear();
}

fn exit_code(payload: &[u8]) -> i32 {
    payload.first_chunk::<4>().map_or(-1, |bytes| i32::from_le_bytes(*bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
