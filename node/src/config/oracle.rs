//! Debian's redis-server, for tests that compare with it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farkeep_proto::resp::client::{Reply, decode_reply, push_command};

/// A redis-server of one test's own, on a unix socket, speaking RESP3; gone with it.
pub(crate) struct Redis {
    server: Child,
    stream: UnixStream,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let deadline = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "redis-server does not start: {error}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut redis = Self { server, stream, _folder: folder };
        redis.ask(&["HELLO", "3"]);
        redis
    }

    pub(crate) fn ask(&mut self, words: &[&str]) -> Reply {
        let mut request = Vec::new();
        push_command(&mut request, words);
        self.stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        loop {
            if let Some((reply, _)) = decode_reply(&answer).unwrap() {
                return reply;
            }
            let mut piece = [0; 65536];
            let read = self.stream.read(&mut piece).unwrap();
            assert_ne!(read, 0, "redis-server closed the connection");
            answer.extend_from_slice(&piece[..read]);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
