//! Running `farkeep-bare-rpma`, which lies beside this program.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// Bare librpma on this machine.
pub struct Bare {
    program: PathBuf,
    address: IpAddr,
    memory: PathBuf,
}

impl Bare {
    /// One that writes to `memory` through the device at `address`.
    pub fn new(address: IpAddr, memory: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("farkeep-bare-rpma");
        ensure!(
            program.exists(),
            "{} is not built (cargo build --release -p farkeep-benches)",
            program.display()
        );
        Ok(Self { program, address, memory: memory.to_owned() })
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<Vec<f64>> {
        // Ports of RDMA are not those of TCP, but one that is free there is a good guess.
        let port = TcpListener::bind((self.address, 0))?.local_addr()?.port().to_string();
        let target = ["--address", &self.address.to_string(), "--port", &port].map(str::to_owned);
        let mut server = Server(
            Command::new(&self.program)
                .arg("serve")
                .args(&target)
                .arg("--memory")
                .arg(&self.memory)
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line.trim() == "listening", "the bare server says {line:?}");
        let output = Command::new(&self.program)
            .arg(args[0])
            .args(&target)
            .args(&args[1..])
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "the bare client failed: {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        text.split_whitespace().map(|word| Ok(word.parse()?)).collect()
    }

    /// One write and flush of `bytes` at a time: median and 99th percentile, in ns.
    pub fn latency(&self, bytes: usize, count: u32, sleep: bool) -> anyhow::Result<(f64, f64)> {
        let wait = if sleep { "sleep" } else { "spin" };
        let (bytes, count) = (bytes.to_string(), count.to_string());
        let numbers = self.run(&["latency", "--bytes", &bytes, "--count", &count, "--wait", wait])?;
        ensure!(numbers.len() == 2, "the bare client says {numbers:?}");
        Ok((numbers[0], numbers[1]))
    }

    /// Several writes of `bytes` at a time: bytes per second.
    pub fn throughput(&self, bytes: u64, count: u32, depth: u32) -> anyhow::Result<f64> {
        let (bytes, count, depth) = (bytes.to_string(), count.to_string(), depth.to_string());
        let numbers = self.run(&["throughput", "--bytes", &bytes, "--count", &count, "--depth", &depth])?;
        numbers.first().copied().context("the bare client says nothing")
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its client; if there was none, it has to be ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
